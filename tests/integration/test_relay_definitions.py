"""A relay holds to the rules of the registry: those it starts with, and each change after."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.runtime.config import NodeSettings
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.loader import build
from common.runtime.registries import node_entry
from relay import app
from relay.config import Config
from relay.relay import Relay

LIMIT = 10.0


class Town:
    """A registry with two edges, and a relay of that cluster in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = EmbeddedRegistry(folder / "registry")
        self.relay: Relay | None = None
        self.first: dict[str, bool] = {}
        """What the edges could have when the bus was opened."""

    def node(self, name: str) -> dict[str, Any]:
        folders = {one: str(self.folder / one) for one in ("registry", "run")}
        keys = str(self.folder / f"{name}.key")
        pages = str(self.folder / f"pages-{name}")
        return {"name": name, "keys": keys, "pages": pages, "bus_security": "curve", **folders}

    async def edge(self, name: str) -> None:
        await self.registry.register(node_entry(NodeSettings(**self.node(name)), "edge", {}))

    def opened(self, *given: Any) -> Relay:
        """Stand for the class of relays."""
        self.relay = Relay(*given)
        self.first = self.allowed()
        return self.relay

    def allowed(self) -> dict[str, bool]:
        """Return which edges may have the stream now."""
        assert self.relay is not None
        access = self.relay.broadcast._access
        return {name: access.allows(name, "paid") for name in ("friend", "guest")}

    async def until(self, want: dict[str, bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while self.allowed() != want:  # noqa: ASYNC110 - a registry is asked
                await asyncio.sleep(0.02)


@pytest.fixture
async def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Town]:
    made = Town(tmp_path)
    for name in ("friend", "guest"):
        await made.edge(name)
    await made.registry.define("paid", {"nodes": ["friend"]})
    monkeypatch.setattr(app, "Relay", made.opened)
    ports = dict.fromkeys(("bus", "control", "admin"), "127.0.0.1:0")
    interval = sys.getswitchinterval()
    running = asyncio.create_task(
        app.run(build(Config, {"node": made.node("relay"), "relay": ports}))
    )
    try:
        async with asyncio.timeout(LIMIT):
            while made.relay is None:
                await asyncio.sleep(0.01)
                assert not running.done(), running
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        sys.setswitchinterval(interval)


async def test_rules_of_the_registry_hold_from_the_first_moment_and_change(town: Town) -> None:
    assert town.first["guest"] is False, "for a moment the stream was everybody's"
    await town.until({"friend": True, "guest": False})
    await town.registry.define("paid", {"nodes": ["gue*"]})
    await town.until({"friend": False, "guest": True})
    await town.registry.define("paid", {"nodes": ["zone:x"]})
    await town.until({"friend": False, "guest": False})
    await town.registry.define("paid", None)
    await town.until({"friend": True, "guest": True})
