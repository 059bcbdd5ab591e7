import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from common.bus.answers import answer_pull, positions
from common.bus.broadcast import Broadcast, BroadcastSettings
from common.bus.subscriptions import MAX_REFUSED, Subscriptions, Verdict
from common.errors import ConfigError, ListenError, StreamNotFound
from common.media.track import INDEX_TRACK
from common.runtime.connections import Sender
from common.runtime.machine import Machine
from common.wire.control import (
    Absent,
    Control,
    Gone,
    Hello,
    Join,
    Joined,
    Ping,
    Pong,
    Position,
    Pull,
    Records,
    decode_control,
    encode_control,
)
from common.wire.messages import (
    NODE_TOPIC,
    BusMessage,
    CatalogChange,
    Heartbeat,
    Media,
    NodeHeartbeat,
    decode_bus,
    topic,
)
from tests.harness.bus import AUDIO, GOP, VIDEO, Source, catalog


class Edge:
    """The sockets of an edge, used by hand."""

    def __init__(self, broadcast: Broadcast) -> None:
        self.context = zmq.asyncio.Context()
        self.bus = self.context.socket(zmq.SUB)
        self.control = self.context.socket(zmq.DEALER)
        for sock, endpoint in ((self.bus, "bus"), (self.control, "control")):
            sock.setsockopt(zmq.LINGER, 0)
            sock.setsockopt(zmq.RCVTIMEO, 5000)
            sock.connect(broadcast.endpoints()[endpoint])

    async def subscribe(self, *topics: bytes) -> None:
        """Subscribe, and wait until the origin knows."""
        for name in topics:
            self.bus.setsockopt(zmq.SUBSCRIBE, name)
        self.bus.setsockopt(zmq.SUBSCRIBE, NODE_TOPIC)
        await self.hear(NodeHeartbeat)

    async def hear(self, kind: type[BusMessage]) -> BusMessage:
        while True:
            message = decode_bus(await self.bus.recv_multipart())
            if isinstance(message, kind):
                return message

    async def ask(self, message: Control) -> Control:
        await self.control.send_multipart(encode_control(message))
        return decode_control(await self.control.recv_multipart())

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path, catalog())


@pytest.fixture
async def broadcast(source: Source) -> AsyncIterator[Broadcast]:
    made = Broadcast("127.0.0.1:0", "127.0.0.1:0", node="origin-1")
    made.attach(source.writer)
    made.catalog(source.catalog)
    yield made
    made.close()


@pytest.fixture
async def edge(broadcast: Broadcast) -> AsyncIterator[Edge]:
    made = Edge(broadcast)
    yield made
    made.close()


async def test_audio_rides_with_video(broadcast: Broadcast, source: Source, edge: Edge) -> None:
    await edge.subscribe(topic(b"M", "live"))
    items = source.next()
    for item in items:
        broadcast.record("live", *item, flush=item.track == VIDEO)
    message = await edge.hear(Media)
    assert isinstance(message, Media)
    assert [item.track for item in message.items] == [item.track for item in items]
    assert [item.payload for item in message.items] == [item.payload for item in items]
    assert (message.epoch, message.term) == (1000, 2000)


async def test_audio_alone_leaves_after_a_moment(
    broadcast: Broadcast, source: Source, edge: Edge
) -> None:
    await edge.subscribe(topic(b"M", "live"))
    audio = next(item for item in source.next() if item.track == AUDIO)
    broadcast.record("live", *audio, flush=False)
    message = await edge.hear(Media)
    assert isinstance(message, Media)
    assert [item.track for item in message.items] == [AUDIO]


async def test_heartbeats_tell_the_heads_that_were_sent(
    broadcast: Broadcast, source: Source, edge: Edge
) -> None:
    await edge.subscribe(topic(b"H", "live"))
    sent, kept = source.next(), source.next()
    for item in sent:
        broadcast.record("live", *item, flush=item.track == VIDEO)
    assert kept
    message = await edge.hear(Heartbeat)
    assert isinstance(message, Heartbeat)
    assert message.heads == {item.track: item.record.seq + 1 for item in sent}
    assert message.catalog_version == 1


async def test_a_new_catalog_is_announced(broadcast: Broadcast, source: Source, edge: Edge) -> None:
    await edge.subscribe(topic(b"C", "live"))
    broadcast.catalog(source.catalog.evolve(live=False))
    message = await edge.hear(CatalogChange)
    assert isinstance(message, CatalogChange)
    assert not message.catalog.live


async def test_hello_and_ping_are_answered(broadcast: Broadcast, edge: Edge) -> None:
    assert await edge.ask(Ping(5)) == Pong(5)
    answer = await edge.ask(Hello("edge-1", "0"))
    assert isinstance(answer, Hello)
    assert answer.node == "origin-1"


async def test_a_join_tells_catalog_and_positions(
    broadcast: Broadcast, source: Source, edge: Edge
) -> None:
    for _ in range(GOP + 5):
        source.next()
    answer = await edge.ask(Join(7, "live"))
    assert isinstance(answer, Joined)
    assert answer.catalog == source.catalog
    assert answer.positions[VIDEO] == Position(0, GOP, GOP + 5)
    assert answer.positions[INDEX_TRACK] == Position(0, 0, 3)
    assert await edge.ask(Join(8, "other")) == Absent(8, "other")


async def test_a_pull_is_answered_from_the_pages(
    broadcast: Broadcast, source: Source, edge: Edge
) -> None:
    for _ in range(GOP):
        source.next()
    answer = await edge.ask(Pull(9, "live", 1000, VIDEO, 3, 8))
    assert isinstance(answer, Records)
    assert [item.record.seq for item in answer.items] == list(range(3, 8))


async def test_garbage_on_the_control_socket_is_ignored(broadcast: Broadcast, edge: Edge) -> None:
    await edge.control.send_multipart([b"garbage", b"x"])
    await edge.control.send_multipart([b""])
    assert await edge.ask(Ping(6)) == Pong(6)


async def test_answers_keep_to_the_rate(source: Source) -> None:
    now = 0
    settings = BroadcastSettings(repair_rate=10_000)
    made = Broadcast(
        "127.0.0.1:0", "127.0.0.1:0", settings=settings, machine=Machine(mono_us=lambda: now)
    )
    made.attach(source.writer)
    made.catalog(source.catalog)
    edge = Edge(made)
    for _ in range(GOP):
        source.next()
    bucket = made._controls._total
    bucket.charge(4 * 1024 * 1024 + 1)
    await edge.control.send_multipart(encode_control(Pull(1, "live", 1000, VIDEO, 0, 5)))
    assert await edge.ask(Ping(1)) == Pong(1)
    assert not await edge.control.poll(100)
    now = 1_000_000
    assert await edge.control.poll(2000)
    edge.close()
    made.close()


async def test_a_removed_stream_is_absent(broadcast: Broadcast, source: Source, edge: Edge) -> None:
    broadcast.remove("live", 1000)
    assert await edge.ask(Join(1, "live")) == Absent(1, "live")
    with pytest.raises(StreamNotFound):
        broadcast.record("live", *source.next()[0], flush=True)


async def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=r"origin\.control"):
            Broadcast("127.0.0.1:0", f"127.0.0.1:{port}")
        with pytest.raises(ConfigError, match=r"origin\.bus"):
            Broadcast("nonsense", "127.0.0.1:0")


def test_a_subscriber_may_ask_for_streams_and_no_more() -> None:
    known = Subscriptions(most=3)
    assert known.subscribe(Sender("", 4, "a"), b"Mlive\0") is Verdict.ACCEPT
    assert known.subscribe(Sender("", 4, "a"), b"Mlive\0") is Verdict.ACCEPT
    assert known.subscribe(Sender("", 4, "a"), b"M") is Verdict.IGNORE
    assert known.subscribe(Sender("", 4, "a"), b"Mb\0") is Verdict.ACCEPT
    assert known.subscribe(Sender("", 4, "a"), b"Mc\0") is Verdict.ACCEPT
    assert known.subscribe(Sender("", 4, "a"), b"Md\0") is Verdict.CUT
    assert known.topics == 3
    known.unsubscribe(Sender("", 4, "a"), b"Mb\0")
    assert b"Mb\0" not in known
    verdicts = [
        known.subscribe(Sender("", 5, "b"), b"%d" % number) for number in range(MAX_REFUSED + 1)
    ]
    assert verdicts[-1] is Verdict.CUT
    assert set(verdicts[:-1]) == {Verdict.IGNORE}


def test_topics_go_with_the_last_connection_that_has_them() -> None:
    known = Subscriptions()
    known.subscribe(Sender("", 4, "a"), b"Mlive\0")
    known.subscribe(Sender("", 5, "b"), b"Mlive\0")
    known.prune({5: "b"}.get)  # type: ignore[arg-type]
    assert b"Mlive\0" in known
    known.subscribe(Sender("", 5, "c"), b"Mother\0")  # the descriptor was used again
    assert b"Mlive\0" not in known


def test_a_pull_is_bounded_by_bytes_but_never_empty(source: Source) -> None:
    for _ in range(3 * GOP):
        source.next()
    reader = source.writer.reader()
    oldest_first = answer_pull(reader, Pull(1, "live", 1000, VIDEO, 0, 75, 1), 2000)
    assert isinstance(oldest_first, Records)
    assert [item.record.seq for item in oldest_first.items] == [0]
    newest = answer_pull(reader, Pull(1, "live", 1000, VIDEO, 0, 75, 2000, True), 2000)
    assert isinstance(newest, Records)
    found = [item.record.seq for item in newest.items]
    assert found == list(range(75 - len(found), 75))
    assert 1 < len(found) < 75
    assert answer_pull(reader, Pull(1, "live", 1000, VIDEO, 75, 80), 2000) is None
    reader.close()


def test_what_was_evicted_is_gone(source: Source) -> None:
    for _ in range(40 * GOP):
        source.next()
    source.writer.evict(10_000_000 + 20_000_000)
    reader = source.writer.reader()
    oldest = source.writer.oldest(VIDEO)
    assert oldest > 0
    assert answer_pull(reader, Pull(1, "live", 1000, VIDEO, 0, 50), 2000) == Gone(
        1, "live", 1000, VIDEO, 50
    )
    answer = answer_pull(reader, Pull(1, "live", 1000, VIDEO, 0, oldest + 5), 2000)
    assert answer == Gone(1, "live", 1000, VIDEO, oldest)
    places = positions(reader, source.catalog)
    assert places[VIDEO] == Position(oldest, 39 * GOP, 40 * GOP)
    reader.close()


def test_positions_of_a_stream_without_records_are_empty(source: Source) -> None:
    reader = source.writer.reader()
    assert positions(reader, source.catalog) == dict.fromkeys(
        (INDEX_TRACK, VIDEO, AUDIO), Position(0, 0, 0)
    )
    reader.close()
