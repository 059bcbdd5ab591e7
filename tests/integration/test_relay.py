"""Origin, relays and edges over real sockets in one process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import zmq

from common.bus.broadcast import Broadcast
from common.bus.desk import Desk
from common.bus.intake import Intake
from common.bus.pages import Pages
from common.bus.upstream import NAMES, Place, Ways, ways
from common.media.track import INDEX_TRACK
from common.runtime.loader import build
from common.runtime.registry import NodeEntry, Owner, Standby
from common.track.board import Board
from common.track.limits import Limits
from common.track.store import StreamReader
from common.wire.messages import MEDIA, topic
from relay.config import Config
from relay.relay import Relay
from tests.harness.bus import AUDIO, FPS, VIDEO, Source, catalog, content

LIMIT = 20.0


@dataclass
class Town:
    """A registry, an origin, and the relays and edges that a test adds."""

    folder: Path
    owner: Owner | None = None
    standbys: list[Standby] = field(default_factory=list)
    nodes: dict[str, NodeEntry] = field(default_factory=dict)
    relays: dict[str, Relay] = field(default_factory=dict)
    edges: dict[str, Intake] = field(default_factory=dict)
    desks: dict[str, Desk] = field(default_factory=dict)
    publishing: bool = True
    told: dict[str, list[str]] = field(default_factory=dict)
    """States of the stream that an edge's viewers were told, by edge."""

    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def start(self, frames: int = 2 * FPS) -> None:
        self.source = Source(self.folder / "origin", catalog(), size=4000)
        for _ in range(frames):
            self.source.next(time.time_ns() // 1000)
        self.origin = Broadcast("127.0.0.1:0", "127.0.0.1:0")
        self.origin.attach(self.source.writer)
        self.origin.catalog(self.source.catalog)
        self.owner = Owner("live", "origin", 1000, 2000, self.origin.endpoints())
        self.tasks += [asyncio.create_task(job()) for job in (self._publish, self._tick)]
        self.tasks.append(asyncio.create_task(self._follow()))

    def finder(self, place: Place) -> Callable[[str], object]:
        async def find(stream: str) -> Ways:
            owner = self.owner if stream == "live" else None
            return ways(place, stream, owner, self.standbys, self.nodes.values())

        return find

    async def everything(self) -> set[str]:
        return {self.owner.stream} if self.owner else set()

    def pages(self, name: str) -> Pages:
        root = self.folder / name
        return Pages(root, Board.create(root), Limits())

    def relay(self, name: str, *upstream: str, datacenter: str = "") -> Relay:
        ports = dict.fromkeys(("bus", "control", "admin"), "127.0.0.1:0")
        config = build(Config, {"node": {"name": name}, "relay": {**ports, "linger": 0.5}})
        place = Place(name, "relay", datacenter, upstream)
        made = Relay(config, self.pages(name), self.finder(place), self.everything)  # type: ignore[arg-type]
        endpoints = {**made.broadcast.endpoints(), NAMES: ",".join(upstream)}
        self.nodes[name] = NodeEntry(name, "relay", endpoints, datacenter=datacenter)
        self.relays[name] = made
        return made

    def edge(self, name: str, datacenter: str = "", paths: int = 1) -> Intake:
        self.told[name] = []
        made = Intake(
            node=name,
            pages=self.pages(name),
            find=self.finder(Place(name, "edge", datacenter)),  # type: ignore[arg-type]
            tell=lambda _stream, state, _epoch: self.told[name].append(state),
            settled=lambda *_: None,
            paths=paths,
        )
        made.want(["live"])
        self.edges[name] = made
        desk = self.desks[name] = Desk("127.0.0.1:0", made, node=name, rate=31_000_000)
        endpoints = {"control": f"tcp://127.0.0.1:{desk.port}"}
        self.nodes[name] = NodeEntry(name, "edge", endpoints, datacenter=datacenter)
        return made

    def remove_edge(self, name: str) -> None:
        self.edges.pop(name).close()
        self.desks.pop(name).close()
        del self.nodes[name]

    async def _publish(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if self.publishing:
                for item in self.source.next(time.time_ns() // 1000):
                    self.origin.record("live", *item, flush=item.track == VIDEO)
            due += 1 / FPS
            await asyncio.sleep(due - loop.time())

    async def _tick(self) -> None:
        while True:
            for relay in self.relays.values():
                relay.intake.tick()
            for edge in self.edges.values():
                edge.tick()
            await asyncio.sleep(0.05)

    async def _follow(self) -> None:
        while True:
            for relay in list(self.relays.values()):
                await relay.follow()
            for edge in list(self.edges.values()):
                await edge.follow()
            await asyncio.sleep(0.05)

    def remove_relay(self, name: str) -> None:
        """Let a relay die; the registry finds out."""
        self.relays.pop(name).close()
        del self.nodes[name]

    def head(self, name: str) -> int:
        receiver = self.edges[name].receiver("live")
        return receiver.shelf.heads().get(VIDEO, 0) if receiver else 0

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not done():  # noqa: ASYNC110 - sockets and pages are asked, not tasks
                await asyncio.sleep(0.02)

    async def caught_up(self, *names: str) -> None:
        """Wait until edges have what the origin has now, from the beginning on."""
        head = self.source.writer.head(VIDEO)
        for name in names:
            await self.until(lambda name=name: self.head(name) >= head)  # type: ignore[misc]
            receiver = self.edges[name].receiver("live")
            assert receiver is not None
            await self.until(lambda r=receiver: not r._backfill.busy)  # type: ignore[misc]

    def same(self, name: str) -> int:
        """Check that an edge holds exactly what the origin sent; return how many pictures."""
        reader = StreamReader.open(self.folder / name, "live", 1000)
        origin = self.source.writer.reader()
        try:
            for track in (INDEX_TRACK, VIDEO, AUDIO):
                ours, theirs = content(reader, track), content(origin, track)
                assert sorted(ours) == list(range(len(ours))), (name, track, sorted(ours)[:3])
                assert all(theirs[seq] == held for seq, held in ours.items())
            return len(content(reader, VIDEO))
        finally:
            reader.close()
            origin.close()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for name in list(self.edges):
            self.remove_edge(name)
        for relay in self.relays.values():
            relay.close()
        self.origin.close()
        self.source.writer.close()


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    made = Town(tmp_path)
    yield made
    await made.close()


async def test_edges_behind_a_chain_of_relays_hold_what_the_origin_sent(town: Town) -> None:
    town.start()
    town.relay("hub")
    town.relay("leaf", "hub", datacenter="far")
    town.edge("near")
    town.edge("far", "far")
    await town.caught_up("near", "far")
    assert [one.node for one in town.edges["near"].upstreams("live")] == ["hub"]
    assert [one.node for one in town.edges["far"].upstreams("live")] == ["leaf"]
    assert [one.node for one in town.relays["leaf"].intake.upstreams("live")] == ["hub"]
    assert min(town.same("near"), town.same("far")) >= 2 * FPS


async def test_one_copy_of_a_stream_comes_into_a_datacenter_and_goes_with_its_last_edge(
    town: Town,
) -> None:
    town.start()
    relay = town.relay("relay")
    for name in ("a", "b", "c"):
        town.edge(name)
    await town.caught_up("a", "b", "c")
    assert town.origin._subscriptions._counts[topic(MEDIA, "live")] == 1
    for name in ("a", "b", "c"):
        town.remove_edge(name)
    await town.until(lambda: relay.intake.streams == [])
    await town.until(lambda: town.origin.wanted() == set())


async def test_nobody_makes_a_relay_take_in_streams_that_do_not_exist(town: Town) -> None:
    town.start()
    relay = town.relay("relay")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peer = context.socket(zmq.SUB)
    peer.setsockopt(zmq.LINGER, 0)
    for number in range(500):
        peer.setsockopt(zmq.SUBSCRIBE, topic(MEDIA, f"made-up{number}"))
    peer.setsockopt(zmq.SUBSCRIBE, topic(MEDIA, "live"))
    peer.connect(relay.broadcast.endpoints()["bus"])
    await town.until(lambda: len(relay.broadcast.wanted()) == 501)
    await town.until(lambda: relay.intake.streams == ["live"])
    peer.close()
    context.destroy(linger=0)


async def test_a_relay_sends_on_the_very_bytes_that_came(town: Town) -> None:
    town.start()
    relay = town.relay("relay")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    got: list[dict[bytes, list[bytes]]] = [{}, {}]
    peers = []
    for endpoint in (town.origin.endpoints()["bus"], relay.broadcast.endpoints()["bus"]):
        peer = context.socket(zmq.SUB)
        peer.setsockopt(zmq.LINGER, 0)
        peer.setsockopt(zmq.SUBSCRIBE, topic(MEDIA, "live"))
        peer.connect(endpoint)
        peers.append(peer)

    def read() -> bool:
        for peer, messages in zip(peers, got, strict=True):
            while peer.poll(0):
                frames = peer.recv_multipart()
                messages[frames[1]] = frames
        return len(got[1]) > 2 * FPS

    await town.until(read)
    both = got[0].keys() & got[1].keys()
    assert len(both) > FPS
    assert all(got[0][header] == got[1][header] for header in both)
    for peer in peers:
        peer.close()
    context.destroy(linger=0)


async def test_a_relay_that_has_just_joined_gives_the_whole_window(town: Town) -> None:
    town.start(frames=30 * FPS)
    town.relay("relay")
    town.edge("edge")
    await town.caught_up("edge")
    assert town.same("edge") >= 30 * FPS
    receiver = town.edges["edge"].receiver("live")
    assert receiver is not None
    assert receiver.tally.backfilled["relay"] > 20 * FPS
    assert receiver.tally.backfilled["owner"] == 0


async def test_a_relay_dies_and_the_other_goes_on(town: Town) -> None:
    town.start()
    for name in ("one", "two"):
        town.relay(name)
    town.edge("single")
    town.edge("double", paths=2)
    await town.caught_up("single", "double")
    assert {one.node for one in town.edges["double"].upstreams("live")} == {"one", "two"}
    (used,) = town.edges["single"].upstreams("live")
    town.remove_relay(used.node)
    await town.until(lambda: used not in town.edges["single"].upstreams("live"))
    (now,) = town.edges["single"].upstreams("live")
    assert {used.node, now.node} == {"one", "two"}
    head = town.source.frame
    await town.until(lambda: min(town.head("single"), town.head("double")) > head + FPS)
    for name in ("single", "double"):
        receiver = town.edges[name].receiver("live")
        assert receiver is not None
        assert receiver.tally.lost.total() == 0
        town.same(name)


async def test_without_an_origin_a_late_edge_is_helped_by_its_siblings(town: Town) -> None:
    town.start(frames=10 * FPS)
    for name in ("first", "second"):
        town.edge(name)
    await town.caught_up("first", "second")
    town.publishing = False
    over = town.source.catalog.evolve(live=False)
    town.source.writer.set_catalog(over)
    town.origin.catalog(over)
    await town.until(lambda: town.told["second"][-1] == "ended")
    town.origin.close()
    town.owner = None
    town.edge("late")
    await town.caught_up("late")
    assert town.told["late"][-2:] == ["live", "ended"], "viewers open pages of what is live"
    assert town.same("late") >= 10 * FPS
    receiver = town.edges["late"].receiver("live")
    assert receiver is not None
    assert receiver.tally.backfilled["edge"] + receiver.tally.repaired["edge"] >= 10 * FPS


async def test_a_successor_is_heard_before_the_registry_names_it(town: Town) -> None:
    town.start()
    heir = Broadcast("127.0.0.1:0", "127.0.0.1:0", node="heir")
    town.standbys = [Standby("live", "heir", heir.endpoints())]
    town.edge("edge")
    await town.caught_up("edge")
    assert [one.node for one in town.edges["edge"].upstreams("live")] == ["origin", "heir"]
    town.origin.close()
    after = replace(town.source.catalog, term=3000)
    heir.attach(town.source.writer)
    heir.catalog(after)
    town.origin = heir  # the same pages, and the next records under a higher term
    head = town.source.frame
    await town.until(lambda: town.head("edge") > head + FPS)
    receiver = town.edges["edge"].receiver("live")
    assert receiver is not None
    assert (receiver.term, receiver.tally.lost.total()) == (3000, 0)
    assert receiver.tally.dropped["restart"] == 0
    town.same("edge")
