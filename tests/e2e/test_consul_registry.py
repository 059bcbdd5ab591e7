"""The registry on a real Consul: the port's promises, and what becomes of them without it."""

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from common.errors import ConfigError, NodeUnavailable, StreamBusy
from common.runtime import consul_watch
from common.runtime.config import Duration
from common.runtime.consul_registry import ConsulRegistry, open_consul
from common.runtime.consul_settings import ConsulSettings
from common.runtime.registry import NodeEntry
from tests.harness.consul import HTTPS, Agent, Consul, consul
from tests.harness.victim import waited_for_cpu

pytestmark = pytest.mark.e2e

GUIDE = Path(__file__).parents[2] / "docs/consul.md"
T = TypeVar("T")
AT = {"bus": "tcp://127.0.0.1:5550", "control": "tcp://127.0.0.1:5560"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    """Two datacenters that all tests of this file use, and put together again."""
    with consul(tmp_path_factory.mktemp("consul")) as made:
        made.usual()
        made.start()
        yield made


def settings(agent: Agent, **more: Any) -> ConsulSettings:
    """Return settings with timers for a test."""
    short = {"ttl": 1.5, "check": 0.5, "wait": 3, "timeout": 1, "lock_delay": 0.5}
    timers = {name: Duration(seconds) for name, seconds in short.items()}
    return ConsulSettings(**{"address": agent.http, **timers, **more})


@contextlib.asynccontextmanager
async def registry(agent: Agent, folder: Path, **more: Any) -> AsyncIterator[ConsulRegistry]:
    async with open_consul(settings(agent, **more), folder) as made:
        yield made


async def soon(question: Callable[[], Awaitable[T]], timeout: float = 60.0) -> T:
    """Ask until the answer is true; return it."""
    deadline = time.monotonic() + timeout
    while not (found := await question()):
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.02)
    return found


def ran() -> float:
    """Return a time that stands still while other programs have the processors."""
    return time.monotonic() - waited_for_cpu()


def locks(agent: Agent, prefix: str) -> dict[str, int]:
    """Return the terms of the streams that are locked according to an agent."""
    pairs = agent.call(f"kv/{prefix}/live/owners/?recurse") or []
    trees = [json.loads(base64.b64decode(pair["Value"])) for pair in pairs if pair.get("Session")]
    return {tree["stream"]: tree["term"] for tree in trees}


async def test_nodes_streams_and_drains_are_seen_in_both_datacenters(
    both: Consul, tmp_path: Path
) -> None:
    async with (
        registry(both.client, tmp_path / "near", prefix="seen") as near,
        registry(both.client, tmp_path / "too", prefix="seen") as too,
        registry(both.far, tmp_path / "far", prefix="seen") as far,
    ):
        owner = await near.acquire("live", "o1", AT)
        assert await too.nodes() == [], "a node that has not registered is not shown"
        entry = NodeEntry("o1", "origin", AT, {"cores": 2.0}, tags=("a",), location=(1.5, -2.0))
        await near.register(entry)
        [found] = await soon(lambda: far.nodes("origin"))
        assert (found.name, found.datacenter, found.tags) == ("o1", "dc1", ("a",))
        assert (found.endpoints, found.capacity) == (AT, {"cores": 2.0})
        assert (found.location, found.draining) == ((1.5, -2.0), False)
        assert await soon(lambda: far.owner("live")) == owner
        assert await too.owners() == [owner]
        for other, name in ((too, "o2"), (far, "o3")):
            with pytest.raises(StreamBusy, match="o1"):
                await other.acquire("live", name, AT)

        first = await near.reserve_segments("live", 100)
        assert await near.reserve_segments("live", 100) == first + 100
        assert await near.reserve_segments("live", 1, first + 500) == first + 500

        await too.stand_by("live", "o2", {"bus": "x"})
        standby = await soon(lambda: far.standbys("live"))
        assert [(one.node, one.endpoints) for one in standby] == [("o2", {"bus": "x"})]
        await too.stand_down("live", "o2")

        async def none() -> bool:
            return await far.standbys("live") == []

        await soon(none)
        with pytest.raises(NodeUnavailable, match="no live node"):
            await far.drain("nobody", True)
        for draining in (True, False):
            await far.drain("o1", draining, 7.5)

            async def told(want: bool = draining) -> bool:
                [one] = await too.nodes("origin")
                checks = await asyncio.to_thread(both.client.call, "agent/checks")
                maintained = any(name.startswith("_service_maintenance") for name in checks)
                within = one.drain_timeout == (7.5 if want else 60)
                return one.draining is want and maintained is want and within

            await soon(told)

        over = await far.acquire("live", "o3", AT, owner.epoch, over=owner.term)
        assert over.term > owner.term

        async def fenced() -> bool:
            return await near.owner("live") == over == await too.owner("live")

        await soon(fenced)
        with pytest.raises(StreamBusy, match="o3"):
            await near.acquire("live", "o1", AT, over=owner.term)
        await far.release(over)
        await near.release(owner)
        later = await too.acquire("live", "o2", AT)
        assert later.term > over.term
        assert later.epoch > owner.epoch
        assert await too.reserve_segments("live", 1) == first + 501
        await near.unregister("o1")

        async def left() -> bool:
            return await far.nodes("origin") == []

        await soon(left)


async def test_datacenters_are_as_far_as_consul_has_measured(
    both: Consul, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consul_watch, "POLL", 0.2)
    async with (
        registry(both.client, tmp_path / "near", prefix="far") as near,
        registry(both.far, tmp_path / "far", prefix="far") as far,
    ):
        await far.register(NodeEntry("o1", "origin", AT, datacenter="fra"))
        await soon(lambda: near.nodes("origin"))

        async def measured() -> float:
            found = await near.round_trips()
            return found.get(frozenset(("dc1", "fra")), 0.0)

        assert 0 < await soon(measured) < 0.15, "not what loopback takes"


async def test_definitions_are_kept_in_the_primary_datacenter(both: Consul, tmp_path: Path) -> None:
    how = {"prefix": "defined", "primary": "dc1"}
    async with (
        registry(both.client, tmp_path / "near", **how) as near,
        registry(both.far, tmp_path / "far", **how) as far,
    ):
        assert await near.definitions() == {}
        await far.define("live", {"key": "k", "window": "30s"})
        await far.define("a.b", {"open": True})

        async def both_there() -> bool:
            want = {"a.b": {"open": True}, "live": {"key": "k", "window": "30s"}}
            return await near.definitions() == want == await far.definitions()

        await soon(both_there)
        await near.define("live", None)

        async def one_gone() -> bool:
            return list(await far.definitions()) == ["a.b"]

        await soon(one_gone)


async def _be_killed(address: str, folder: str) -> None:
    """Be an origin that takes a stream and dies."""
    made = ConsulSettings(address=address, prefix="back", ttl=Duration(30))
    async with open_consul(made, Path(folder)) as registry:
        owner = await registry.acquire("live", "o1", AT)
        await registry.register(NodeEntry("o1", "origin", AT))
        sys.stdout.write(f"{owner.epoch} {owner.term}\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)


async def test_an_origin_that_comes_back_takes_its_stream_at_once(
    both: Consul, tmp_path: Path
) -> None:
    program = "import asyncio, sys; from tests.e2e import test_consul_registry as t; "
    program += "asyncio.run(t._be_killed(*sys.argv[1:]))"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, both.client.http, str(tmp_path / "a")), stdout=PIPE
    )
    said, _ = await process.communicate()
    epoch, term = map(int, said.split())
    async with registry(both.client, tmp_path / "b", prefix="back") as again:
        with pytest.raises(StreamBusy, match="o1"):
            await again.acquire("live", "o2", AT)
        began = time.monotonic()
        new = await again.acquire("live", "o1", AT, epoch)
        assert time.monotonic() - began < 1, "it waited for its own lock"
        assert (new.epoch, new.term > term) == (epoch, True)
        await again.register(NodeEntry("o1", "origin", AT))


async def test_an_empty_consul_fences_nobody_and_a_lost_one_lets_streams_begin(
    tmp_path: Path,
) -> None:
    with consul(tmp_path) as lost:
        lost.usual()
        lost.start()
        async with (
            registry(lost.client, tmp_path / "a") as one,
            registry(lost.client, tmp_path / "b") as two,
            registry(lost.far, tmp_path / "c") as far,
        ):
            owner = await one.acquire("live", "o1", AT)
            await one.register(NodeEntry("o1", "origin", AT))
            reserved = await one.reserve_segments("live", 100)
            await soon(lambda: two.nodes("origin"))
            await soon(lambda: far.nodes("origin"))
            assert await soon(lambda: far.owner("live")) == owner
            lost.kill_all()

            # Everything is answered as before, and at once.
            began = ran()
            for other in (one, two, far):
                assert await other.owner("live") == owner
                assert [node.name for node in await other.nodes("origin")] == ["o1"]
            assert ran() - began < 0.1
            with pytest.raises(StreamBusy, match="o1"):
                await two.acquire("live", "o2", AT)
            # A stream that nobody has can be taken, even twice.
            lower = await two.acquire("new", "o2", AT)
            await two.register(NodeEntry("o2", "origin", AT))
            higher = await far.acquire("new", "o3", AT)
            await far.register(NodeEntry("o3", "origin", AT))
            assert higher.term > lower.term

            for agent in lost.agents.values():
                agent.forget()
            await asyncio.to_thread(lost.start)

            async def settled() -> bool:
                with contextlib.suppress(OSError):
                    near = await asyncio.to_thread(locks, lost.client, "headwater")
                    other = await asyncio.to_thread(locks, lost.far, "headwater")
                    return near == {"live": owner.term} and other == {"new": higher.term}
                return False

            await soon(settled)
            for each in (one, two, far):

                async def agreed(each: ConsulRegistry = each) -> bool:
                    return await each.owners() == [owner, higher]

                await soon(agreed)
            assert await two.reserve_segments("live", 1) > reserved + 99
            await one.release(owner)
            heir = await two.acquire("live", "o2", AT)
            assert heir.term > owner.term


async def test_an_agent_that_hangs_delays_nobody(both: Consul, tmp_path: Path) -> None:
    late = 0.0

    async def ticker() -> None:
        nonlocal late
        while True:
            began = ran()
            await asyncio.sleep(0.01)
            late = max(late, ran() - began - 0.01)

    async with registry(both.client, tmp_path / "a", prefix="hangs") as made:
        owner = await made.acquire("live", "o1", AT)
        await made.register(NodeEntry("o1", "origin", AT))
        ticking = asyncio.create_task(ticker())
        both.client.freeze()
        try:
            began = ran()
            assert await made.owner("live") == owner
            assert await made.reserve_segments("live", 1) > 0
            assert ran() - began < 0.1
            began = ran()
            other = await made.acquire("other", "o1", AT)
            assert ran() - began < 3.5, "a new publisher waited for Consul"
            # Once it is known that Consul hangs, nobody waits at all.
            await asyncio.sleep(2)
            began = ran()
            third = await made.acquire("third", "o1", AT)
            assert ran() - began < 0.1
        finally:
            both.client.thaw()
            ticking.cancel()
        want = {one.stream: one.term for one in (owner, other, third)}

        async def written() -> bool:
            return await asyncio.to_thread(locks, both.client, "hangs") == want

        await soon(written)
    assert late < 0.25, f"the event loop stood still for {late:.2f} s"


async def test_who_is_started_without_consul_knows_what_was_known(
    both: Consul, tmp_path: Path
) -> None:
    async with registry(both.client, tmp_path / "run", prefix="known") as made:
        owner = await made.acquire("live", "o1", AT)
        await made.register(NodeEntry("o1", "origin", AT))
        await soon(lambda: made.owner("live"))

        async def remembered() -> bool:
            files = list((tmp_path / "run").glob("*/*@.json"))
            texts = {file.name: file.read_text() for file in files}
            nodes = texts.get("origin@.json", "")
            ready = "o1" in nodes and '"starting"' not in nodes
            return ready and "o1" in texts.get("live@.json", "")

        await soon(remembered)
        both.client.freeze()
        try:
            async with registry(both.client, tmp_path / "run", prefix="known") as late:
                assert await late.owner("live") == owner
                assert [node.name for node in await late.nodes("origin")] == ["o1"]
        finally:
            both.client.thaw()


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Agent]:
    """A Consul that denies by default and speaks TLS with whoever has a certificate."""
    with consul(tmp_path) as made:
        certificates = tmp_path / "tls"
        certificates.mkdir()
        for words in (
            "ca create",
            f"cert create -server -dc dc1 -additional-ipaddress={made.network}.1",
            "cert create -client -dc dc1",
        ):
            subprocess.run(
                ["consul", "tls", *words.split()], cwd=certificates, check=True, capture_output=True
            )
        master = str(uuid.uuid4())
        agent = made.add(
            "only",
            bootstrap_expect=1,
            acl={
                "enabled": True,
                "default_policy": "deny",
                "tokens": {"master": master, "agent": master},
            },
            ports={"dns": -1, "grpc": -1, "https": HTTPS},
            ca_file=str(certificates / "consul-agent-ca.pem"),
            cert_file=str(certificates / "dc1-server-consul-0.pem"),
            key_file=str(certificates / "dc1-server-consul-0-key.pem"),
            verify_incoming_https=True,
        )
        agent.token = master
        made.start()
        yield agent


async def test_a_token_and_a_certificate_are_all_that_is_needed(
    closed: Agent, tmp_path: Path
) -> None:
    policy = re.findall(r"^```hcl\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    closed.call("acl/policy", "PUT", {"Name": "headwater", "Rules": policy[0]})
    token = closed.call("acl/token", "PUT", {"Policies": [{"Name": "headwater"}]})["SecretID"]
    (tmp_path / "token").write_text(token)
    tls = {
        "address": f"https://{closed.address}:{HTTPS}",
        "ca": str(tmp_path / "tls/consul-agent-ca.pem"),
        "cert": str(tmp_path / "tls/dc1-client-consul-0.pem"),
        "key": str(tmp_path / "tls/dc1-client-consul-0-key.pem"),
    }
    good = {**tls, "token_file": str(tmp_path / "token")}
    entry = NodeEntry("o1", "origin", AT)
    async with registry(closed, tmp_path / "a", **good) as near:
        owner = await near.acquire("live", "o1", AT)
        await near.register(entry)
        await near.define("live", {"open": True})
        await near.drain("o1", True)

        async def all_there() -> bool:
            draining = [node.draining for node in await near.nodes()] == [True]
            return draining and await near.definitions() == {"live": {"open": True}}

        await soon(all_there)
        seen = await asyncio.to_thread(closed.call, "kv/headwater/live/owners/live")
        assert json.loads(base64.b64decode(seen[0]["Value"]))["term"] == owner.term
        assert seen[0]["Session"]
    async with registry(closed, tmp_path / "b", **tls) as denied:
        with pytest.raises(ConfigError, match="token does not allow"):
            await denied.register(entry)
    for missing in ("ca", "cert"):
        how = {name: value for name, value in good.items() if name != missing}
        async with registry(closed, tmp_path / missing, **how) as outside:
            assert await outside.nodes() == []
            reason = outside.trouble()
            assert reason, "nothing says why there is no answer"
            assert missing == "cert" or "certificate" in reason.lower()
