"""RTMP however the bytes are cut, and whatever they are."""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError, ProtocolError
from common.formats import amf
from common.formats.rtmp import ClientConnection, Event, ServerConnection
from common.formats.rtmp_chunk import ChunkReader, ChunkWriter, Message, MessageType, chunked

T_co = TypeVar("T_co", covariant=True)


class Feeder(Protocol[T_co]):
    def feed(self, data: bytes) -> Sequence[T_co]: ...


seeds = st.integers(0, 2**32)
# Weighted towards what goes wrong: the extended form, the wrap, nothing new.
times = st.sampled_from([0, 1, 23, 40, 999, 1000, 0xFFFFFE, 0xFFFFFF, 0x1000000, 2**32 - 1])
kinds = st.sampled_from([4, 8, 9, 18, 20])
messages = st.builds(
    Message,
    kinds,
    times | st.integers(0, 2**32 - 1),
    st.integers(0, 2),
    st.binary(max_size=20) | st.integers(100, 700).map(lambda n: bytes(i & 0xFF for i in range(n))),
)
sizes = st.sampled_from([1, 2, 7, 128, 300, 4096, 65536])


def split(data: bytes, seed: int) -> list[bytes]:
    """Cut ``data`` into pieces of all sizes, single bytes among them."""
    choice = random.Random(seed)
    pieces, position = [], 0
    while position < len(data):
        size = choice.choice((1, 2, 3, 11, 60, 1460))
        pieces.append(data[position : position + size])
        position += size
    return pieces


def feed_all(parser: Feeder[T_co], pieces: list[bytes]) -> tuple[list[T_co], str]:
    """Return everything a parser makes of the pieces, and the error that stopped it."""
    found: list[T_co] = []
    for piece in pieces:
        try:
            found += parser.feed(piece)
        except (FormatError, ProtocolError) as error:
            return found, str(error)
    return found, ""


@given(st.lists(st.tuples(st.integers(3, 6), messages, sizes), max_size=12), seeds)
def test_messages_arrive_as_written_whatever_the_chunk_sizes_and_splits(
    items: list[tuple[int, Message, int]], seed: int
) -> None:
    writer, data = ChunkWriter(), b""
    for csid, message, size in items:
        resize = Message(MessageType.SET_CHUNK_SIZE, 0, 0, size.to_bytes(4, "big"))
        data += writer.message(2, resize) + writer.message(csid, message)
    expected = [message for _, message, _ in items]
    assert feed_all(ChunkReader(), [data]) == (expected, "")
    assert feed_all(ChunkReader(), split(data, seed)) == (expected, "")


@given(st.lists(messages, min_size=2, max_size=4), sizes, seeds)
def test_interleaved_chunks_come_together(sent: list[Message], size: int, seed: int) -> None:
    choice = random.Random(seed)
    resize = Message(MessageType.SET_CHUNK_SIZE, 0, 0, size.to_bytes(4, "big"))
    queues = [_chunks(csid, message, size) for csid, message in enumerate(sent, 3)]
    data = chunked(2, resize, 128)
    while any(queues):
        data += choice.choice([queue for queue in queues if queue]).pop(0)
    found, error = feed_all(ChunkReader(), split(data, seed))
    assert not error
    assert sorted(found) == sorted(sent)


def _chunks(csid: int, message: Message, size: int) -> list[bytes]:
    data = chunked(csid, message, size)
    extended = 4 if message.timestamp >= 0xFFFFFF else 0
    first = 12 + extended + min(size, len(message.body))
    step = 1 + extended + size
    return [data[:first]] + [data[i : i + step] for i in range(first, len(data), step)]


@given(st.binary(max_size=400), seeds)
def test_garbage_in_chunks_gives_messages_or_a_format_error_whatever_the_splits(
    data: bytes, seed: int
) -> None:
    _same_outcome(ChunkReader, b"", data, seed)


def _same_outcome(make: type[Feeder[object]], lead: bytes, data: bytes, seed: int) -> None:
    _, whole = feed_all(make(), [lead + data])
    _, pieces = feed_all(make(), [lead, *split(data, seed)])
    assert whole == pieces


def _session() -> tuple[list[bytes], list[bytes], list[Event], list[Event]]:
    """Run a client against a server; return both directions' bytes and all events."""
    client, server = ClientConnection("live", "rtmp://o/live"), ServerConnection()
    up: list[bytes] = []
    down: list[bytes] = []
    at_server: list[Event] = []
    at_client: list[Event] = []

    def settle() -> None:
        while (to := b"".join(client.data_to_send())) or server._out:
            back = b"".join(server.data_to_send())
            up.append(to)
            down.append(back)
            at_server.extend(server.feed(to))
            at_client.extend(client.feed(back))

    settle()
    client.publish("KEY?x=1")
    settle()
    server.accept()
    settle()
    client.send_data(0, "@setDataFrame", "onMetaData", {"width": 64})
    for number in range(6):
        client.send_video(number * 40, bytes([number]) * 3000)
        client.send_audio(number * 40 + 7, bytes([number]) * 90)
    settle()
    client.stop()
    settle()
    return up, down, at_server, at_client


UP, DOWN, AT_SERVER, AT_CLIENT = _session()


@given(seeds)
def test_a_server_sees_the_same_events_however_its_bytes_are_cut(seed: int) -> None:
    server = ServerConnection()
    found: list[Event] = []
    for turn, data in enumerate(UP):
        for piece in split(data, seed + turn):
            found += server.feed(piece)
        if server.state.value == "publish asked":
            server.accept()
    assert found == AT_SERVER


@given(seeds)
def test_a_client_sees_the_same_events_however_its_bytes_are_cut(seed: int) -> None:
    client = ClientConnection("live", "rtmp://o/live")
    found: list[Event] = []
    for turn, data in enumerate(DOWN):
        for piece in split(data, seed + turn):
            found += client.feed(piece)
        if client.state.value == "idle" and turn < len(DOWN) // 2:
            client.publish("KEY?x=1")
    assert found == AT_CLIENT


commands = st.builds(
    lambda name, number, rest: Message(20, 0, 1, amf.encode(name, number, *rest)),
    st.sampled_from(
        ["connect", "createStream", "publish", "play", "deleteStream", "FCUnpublish", "_result"]
    )
    | st.text(max_size=8),
    st.floats(),
    st.lists(
        st.none()
        | st.floats()
        | st.text(max_size=8)
        | st.dictionaries(st.sampled_from(["app", "capsEx", "tcUrl"]), st.floats() | st.text()),
        max_size=3,
    ),
)
anything = commands | st.builds(
    Message, st.integers(0, 255), st.integers(0, 2**32 - 1), st.just(1), st.binary(max_size=30)
)


def _greeted_server() -> ServerConnection:
    server = ServerConnection()
    server.feed(b"\x03" + bytes(2 * 1536))
    return server


def _greeted_client() -> ClientConnection:
    client = ClientConnection("live", "rtmp://o/live")
    client.feed(b"\x03" + bytes(2 * 1536))
    return client


@given(st.lists(anything, max_size=8), st.booleans())
def test_any_messages_give_events_or_a_typed_error(sent: list[Message], connected: bool) -> None:
    hello = Message(20, 0, 0, amf.encode("connect", 1, {"app": "live"}))
    data = b"".join(chunked(3, m, 128) for m in ([hello, *sent] if connected else sent))
    feed_all(_greeted_server(), [data])
    feed_all(_greeted_client(), [data])


@given(st.binary(max_size=200), seeds)
def test_garbage_after_the_handshake_gives_a_typed_error_whatever_the_splits(
    data: bytes, seed: int
) -> None:
    _same_outcome(ServerConnection, b"\x03" + bytes(2 * 1536), data, seed)


@given(st.binary(max_size=1600))
def test_garbage_instead_of_a_handshake_gives_a_typed_error(data: bytes) -> None:
    feed_all(ServerConnection(), [data])
    feed_all(ClientConnection("live", "rtmp://o/live"), [data])
