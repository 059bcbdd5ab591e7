"""CURVE and ZAP on real sockets: who gets in, who does not, and who is thrown out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import zmq

from balancer.gossip import GossipListener
from common.bus.broadcast import Broadcast
from common.bus.gossip import Gossiper, Load
from common.bus.link import Endpoints, Link, Message
from common.errors import AccessDenied
from common.runtime.config import NodeSettings
from common.runtime.curve import PLAIN, Guard, guarded
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registries import node_entry
from common.wire.control import Absent, Join, Joined, Pull
from common.wire.gossip import Gossip
from common.wire.messages import Heartbeat, Media
from tests.harness.bus import VIDEO, Source, catalog
from tests.harness.secure import Nodes

LIMIT = 10.0
QUIET = 1.0
"""Seconds in which somebody who is let in would long have heard something."""


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not done():  # noqa: ASYNC110 - sockets are asked, not tasks
            await asyncio.sleep(0.01)


class Bus:
    """An origin with one stream, and links to it."""

    def __init__(self, folder: Path) -> None:
        self.nodes = Nodes()
        self.guard = self.nodes.add("origin", "origin")
        self.source = Source(folder / "origin", catalog())
        self.source.next()
        self.rules: list[str] = []
        self.broadcast = Broadcast(
            "127.0.0.1:0",
            "127.0.0.1:0",
            node="origin",
            guard=self.guard,
            rules_of=lambda _: self.rules,
        )
        self.broadcast.attach(self.source.writer)
        self.broadcast.catalog(self.source.catalog)
        self.endpoints = Endpoints.of(self.broadcast.endpoints())
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.links: list[Link] = []

    def link(self, node: str, guard: Guard, endpoints: Endpoints | None = None) -> list[Message]:
        """Connect, subscribe and join; return the list of what will come."""
        heard: list[Message] = []
        made = Link(
            self.context,
            endpoints or self.endpoints,
            node,
            deliver=lambda _link, message, _frames: heard.append(message),
            renewed=lambda _: None,
            broken=lambda _: None,
            settled=lambda: None,
            now_us=lambda: 0,
            guard=guard,
        )
        self.links.append(made)
        made.subscribe("live")
        made.send(Join(1, "live"))
        return heard

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.broadcast.close()
        self.source.writer.close()
        self.context.destroy(0)


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    made = Bus(tmp_path)
    yield made
    made.close()


def kinds(heard: list[Message]) -> set[type]:
    return {type(message) for message in heard}


async def test_a_registered_edge_gets_both_sides_of_the_bus(bus: Bus) -> None:
    heard = bus.link("edge", bus.nodes.add("edge", "edge"))
    await until(lambda: {Heartbeat, Joined} <= kinds(heard))


async def test_strangers_plain_peers_and_other_roles_get_nothing(bus: Bus) -> None:
    quiet = [
        bus.link("edge", bus.nodes.stranger()),
        bus.link("edge", PLAIN, Endpoints(bus.endpoints.bus, bus.endpoints.control)),
        bus.link("balancer", bus.nodes.add("balancer", "balancer")),
    ]
    friend = bus.link("edge", bus.nodes.add("edge", "edge"))
    await until(lambda: {Heartbeat, Joined} <= kinds(friend))
    await asyncio.sleep(QUIET)
    assert quiet == [[], [], []]


async def test_an_edge_that_comes_before_its_entry_gets_in_once_it_is_listed(bus: Bus) -> None:
    edge = bus.nodes.add("edge", "edge")
    entry = bus.nodes.entries.pop("edge")
    heard = bus.link("edge", edge)
    await asyncio.sleep(QUIET)
    assert heard == []
    bus.nodes.entries["edge"] = entry
    await until(lambda: {Heartbeat, Joined} <= kinds(heard))


async def test_a_node_cannot_speak_under_the_name_of_another(bus: Bus) -> None:
    bus.nodes.add("victim", "edge")
    forged = bus.link("victim", bus.nodes.add("edge", "edge"))
    await until(lambda: Heartbeat in kinds(forged))  # the bus asks for no name
    await asyncio.sleep(QUIET)
    assert Joined not in kinds(forged)


async def test_a_removed_node_is_thrown_out_and_stays_out(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.runtime.roster.REMOVED_AFTER", 0.3)
    monkeypatch.setattr("common.runtime.roster.REFRESH", 0.1)
    heard = bus.link("edge", bus.nodes.add("edge", "edge"))
    other = bus.link("other", bus.nodes.add("other", "edge"))
    await until(lambda: {Heartbeat, Joined} <= kinds(heard) & kinds(other))
    assert bus.guard.roster is not None
    following = asyncio.create_task(bus.guard.roster.run())
    await bus.guard.roster.look()
    del bus.nodes.entries["edge"]
    assert bus.guard.roster is not None
    roster = bus.guard.roster
    await until(lambda: roster.node("edge") is None)
    heard.clear()
    other.clear()
    await until(lambda: Heartbeat in kinds(other))
    await asyncio.sleep(QUIET)
    bus.links[0].send(Join(2, "live"))
    bus.links[1].send(Join(2, "live"))
    await until(lambda: Joined in kinds(other))
    assert heard == []
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


async def test_a_node_gets_no_byte_of_a_stream_that_it_may_not_have(bus: Bus) -> None:
    bus.rules = ["edge", "tag:paid"]
    named = bus.link("edge", bus.nodes.add("edge", "edge"))
    tagged = bus.link("other", bus.nodes.add("other", "edge", tags=["paid"]))
    denied = bus.link("third", bus.nodes.add("third", "edge"))
    bus.links[2].send(Pull(2, "live", 1000, VIDEO, 0, 1))
    await until(lambda: {Heartbeat, Joined} <= kinds(named) & kinds(tagged))
    await until(lambda: Absent in kinds(denied))
    for item in bus.source.next():
        bus.broadcast.record("live", *item, flush=True)
    await until(lambda: Media in kinds(named))
    await asyncio.sleep(QUIET)
    assert kinds(denied) == {Absent}


async def test_rules_that_change_hold_for_connections_that_there_are(bus: Bus) -> None:
    heard = bus.link("edge", bus.nodes.add("edge", "edge"))
    await until(lambda: Heartbeat in kinds(heard))
    bus.rules = ["other"]
    await asyncio.sleep(2 * QUIET)
    heard.clear()
    await asyncio.sleep(QUIET)
    assert heard == []
    bus.rules = ["edge"]
    await until(lambda: Heartbeat in kinds(heard))


async def test_gossip_is_for_balancers(bus: Bus) -> None:
    edge = bus.nodes.add("edge", "edge")
    gossiper = Gossiper("edge", "127.0.0.1:0", edge)
    found: dict[str, list[Gossip]] = {}
    listeners = []
    for name, guard in {
        "balancer": bus.nodes.add("balancer", "balancer"),
        "origin": bus.guard,
        "nobody": bus.nodes.stranger(),
    }.items():
        listener = GossipListener(found.setdefault(name, []).append, guard)
        listener.follow({f"tcp://{gossiper.authority}": edge.endpoints["curve"]})
        listeners.append(listener)
    plain = GossipListener(found.setdefault("plain", []).append)
    plain.follow({f"tcp://{gossiper.authority}": ""})
    try:
        async with asyncio.timeout(LIMIT):
            while not found["balancer"]:
                gossiper.send(Load())
                await asyncio.sleep(0.05)
        for _ in range(10):
            gossiper.send(Load())
            await asyncio.sleep(QUIET / 10)
        assert [name for name, reports in found.items() if reports] == ["balancer"]
    finally:
        for one in [*listeners, plain]:
            one.close()
        gossiper.close()


async def test_one_listener_hears_plain_and_encrypted_edges(bus: Bus) -> None:
    secure = bus.nodes.add("edge", "edge")
    gossipers = {
        "edge": Gossiper("edge", "127.0.0.1:0", secure),
        "plain": Gossiper("plain", "127.0.0.1:0"),
    }
    heard: list[Gossip] = []
    balancer = bus.nodes.add("balancer", "balancer")
    listener = GossipListener(heard.append, Guard(balancer.keys, mode="auto"))
    listener.follow(
        {
            f"tcp://{gossipers['edge'].authority}": secure.endpoints["curve"],
            f"tcp://{gossipers['plain'].authority}": "",
        }
    )
    try:
        async with asyncio.timeout(LIMIT):
            while {report.node for report in heard} != {"edge", "plain"}:
                for gossiper in gossipers.values():
                    gossiper.send(Load())
                await asyncio.sleep(0.05)
    finally:
        listener.close()
        for gossiper in gossipers.values():
            gossiper.close()


@pytest.mark.parametrize(
    ("mode", "address", "secure"),
    [
        ("auto", "127.0.0.1:1", False),
        ("auto", "[::1]:1", False),
        ("auto", "localhost:1", False),
        ("auto", "[::]:1", True),
        ("auto", "10.0.0.1:1", True),
        ("auto", "origin.example:1", True),
        ("curve", "127.0.0.1:1", True),
        ("none", "[::]:1", False),
    ],
)
async def test_auto_encrypts_what_leaves_the_machine(
    tmp_path: Path, mode: str, address: str, secure: bool
) -> None:
    node = NodeSettings(
        name="edge",
        keys=str(tmp_path / "key"),
        bus_security=mode,  # type: ignore[arg-type]
    )
    registry = EmbeddedRegistry(tmp_path / "registry")
    async with guarded(node, registry, {"x": "127.0.0.1:0", "y": address}) as guard:
        assert guard.secure is secure
        assert ("curve" in guard.endpoints) is secure


async def test_nobody_connects_in_the_clear_over_a_network_by_accident(tmp_path: Path) -> None:
    registry = EmbeddedRegistry(tmp_path / "registry")
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        for mode, endpoint, refused in (
            ("auto", "tcp://10.0.0.1:5550", True),
            ("auto", "tcp://[2001:db8::1]:5550", True),
            ("auto", "tcp://127.0.0.1:5550", False),
            ("auto", "tcp://[::1]:5550", False),
            ("curve", "tcp://127.0.0.1:5550", True),
            ("none", "tcp://10.0.0.1:5550", False),
        ):
            node = NodeSettings(
                name="edge",
                keys=str(tmp_path / "key"),
                bus_security=mode,  # type: ignore[arg-type]
            )
            async with guarded(node, registry) as guard:
                expected = (
                    pytest.raises(AccessDenied, match="bus_security")
                    if refused
                    else contextlib.nullcontext()
                )
                with expected:
                    guard.client(socket, endpoint, "")


async def test_a_node_in_the_registry_of_the_machine_is_admitted(tmp_path: Path) -> None:
    registry = EmbeddedRegistry(tmp_path / "registry")
    nodes = {
        name: NodeSettings(name=name, keys=str(tmp_path / name), bus_security="curve")
        for name in ("origin", "edge")
    }
    async with (
        guarded(nodes["origin"], registry, {"bus": "127.0.0.1:0"}) as ours,
        guarded(nodes["edge"], registry) as theirs,
    ):
        broadcast = Broadcast("127.0.0.1:0", "127.0.0.1:0", node="origin", guard=ours)
        await registry.register(node_entry(nodes["origin"], "origin", broadcast.endpoints()))
        await registry.register(node_entry(nodes["edge"], "edge", {}))
        heard: list[Message] = []
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        link = Link(
            context,
            Endpoints.of(broadcast.endpoints()),
            "edge",
            deliver=lambda _link, message, _frames: heard.append(message),
            renewed=lambda _: None,
            broken=lambda _: None,
            settled=lambda: None,
            now_us=lambda: 0,
            guard=theirs,
        )
        link.send(Join(1, "live"))
        await until(lambda: Absent in kinds(heard))
        link.close()
        broadcast.close()
        context.destroy(0)
