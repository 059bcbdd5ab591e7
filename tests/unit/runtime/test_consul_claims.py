"""What a process has in Consul, when its own words overtake each other."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from common.runtime.consul_claims import Claims
from common.runtime.consul_settings import ConsulSettings
from common.runtime.registry import NodeEntry


class SlowAgent:
    """An agent that takes in the first registration it gets last."""

    def __init__(self) -> None:
        self.has: dict[str, Any] = {}
        self.first = asyncio.Event()
        self.calls = 0

    async def register(self, service: dict[str, Any]) -> None:
        self.calls += 1
        if self.calls == 1:
            await self.first.wait()
        self.has[service["ID"]] = service

    async def deregister(self, identity: str) -> None:
        self.has.pop(identity, None)


def claims(agent: SlowAgent) -> Claims:
    view = SimpleNamespace(instances=list, changed=asyncio.Event(), mine={})
    return Claims(ConsulSettings(), cast(Any, agent), cast(Any, view), lambda: 1)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_node_is_not_left_as_starting_by_a_word_that_was_on_its_way() -> None:
    agent = SlowAgent()
    made = claims(agent)
    starting = asyncio.create_task(made.start("o"))
    await turns()
    ready = asyncio.create_task(made.register(NodeEntry("o", "origin", {"http": "127.0.0.1:1"})))
    await turns()
    agent.first.set()
    await asyncio.gather(starting, ready)
    (service,) = agent.has.values()
    assert "starting" not in service["Meta"]
    assert service["Meta"]["at-http"] == "127.0.0.1:1"


async def test_a_node_that_left_is_not_brought_back_by_a_word_that_was_on_its_way() -> None:
    agent = SlowAgent()
    made = claims(agent)
    ready = asyncio.create_task(made.register(NodeEntry("o", "origin", {})))
    await turns()
    gone = asyncio.create_task(made.unregister("o"))
    await turns()
    agent.first.set()
    await asyncio.gather(ready, gone)
    assert not agent.has
