import msgpack
import pytest

from common.errors import FormatError
from common.media.codec import Codec
from common.media.track import Track
from common.track.catalog import Catalog
from common.track.record import Flag, Record
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
from common.wire.media import MAX_ROWS, Item
from common.wire.messages import (
    CATALOG,
    HEARTBEAT,
    MAX_TOPIC,
    MEDIA,
    NODE_TOPIC,
    CatalogChange,
    Heartbeat,
    Media,
    NodeHeartbeat,
    decode_bus,
    encode_catalog,
    encode_heartbeat,
    encode_media,
    encode_node,
    parse_topic,
    topic,
)


def record(seq: int = 7, size: int = 3, flags: int = Flag.KEY) -> Record:
    return Record(seq, -5, 11, 12, -3, 3000, 4, 9, 0, size, 0xFFFFFFFF, flags, 2)


CAT = Catalog("live+a", epoch=100, term=200, tracks=(Track(1, Codec.H264, 90_000, (b"init",)),))


def test_media_survives_the_wire() -> None:
    items = [
        Item(1, record(7, 3), b"abc"),
        Item(2, record(8, 0, Flag.LOST), b""),
        Item(2, record(9, 2), b"de"),
    ]
    frames = encode_media("live+a", 100, 200, items)
    assert len(frames) == 3
    assert frames[0] == b"Mlive+a\0"
    assert frames[2] == b"abcde"
    assert decode_bus(frames) == Media("live+a", 100, 200, items)


def test_a_single_payload_is_not_copied() -> None:
    payload = bytes(100_000)
    item = Item(1, record(1, len(payload)), payload)
    frames = encode_media("a", 1, 1, [item])
    assert frames[2] is payload


def test_where_a_payload_stands_in_a_page_does_not_travel() -> None:
    sent = Item(1, record()._replace(offset=4096), b"abc")
    received = decode_bus(encode_media("a", 1, 1, [sent]))
    assert isinstance(received, Media)
    assert received.items[0].record.offset == 0


def test_catalog_and_heartbeats_survive_the_wire() -> None:
    assert decode_bus(encode_catalog(CAT)) == CatalogChange("live+a", CAT)
    frames = encode_heartbeat(CAT, {0: 3, 1: 50}, {0: 0, 1: 10})
    assert decode_bus(frames) == Heartbeat("live+a", 100, 200, 1, {0: 3, 1: 50}, {0: 0, 1: 10})
    assert decode_bus(encode_node("origin-1", 5)) == NodeHeartbeat("origin-1", 5)


@pytest.mark.parametrize(
    "message",
    [
        Hello("edge-1", "0.1"),
        Join(3, "live+a"),
        Joined(3, "live+a", CAT, {0: Position(0, 4, 9), 1: Position(7, 7, 7)}),
        Absent(3, "live+a"),
        Pull(9, "live+a", 100, 1, 5, 50, 1000, True),
        Records(9, "live+a", 100, 200, [Item(1, record(5), b"abc"), Item(1, record(6), b"def")]),
        Gone(9, "live+a", 100, 1, 40),
        Ping(123),
        Pong(123),
    ],
)
def test_control_messages_survive_the_wire(message: Control) -> None:
    assert decode_control(encode_control(message)) == message


@pytest.mark.parametrize(
    "name",
    [b"", b"M", b"Ma", b"Xa\0", b"M\0", b"Ma\0b\0", b"M../a\0", b"MA\0", b"M\xff\0", b"N", b"Na\0"],
)
def test_only_topics_that_a_node_publishes_are_topics(name: bytes) -> None:
    with pytest.raises(FormatError):
        parse_topic(name)


def test_topics_name_kind_and_stream() -> None:
    assert parse_topic(topic(MEDIA, "live+a")) == (b"M", "live+a")
    assert parse_topic(topic(CATALOG, "a")) == (b"C", "a")
    assert parse_topic(topic(HEARTBEAT, "a")) == (b"H", "a")
    assert parse_topic(NODE_TOPIC) == (b"N", "")
    with pytest.raises(FormatError, match="too long"):
        parse_topic(b"M" + b"a" * MAX_TOPIC + b"\0")


def test_a_subscription_to_a_stream_does_not_match_a_longer_name() -> None:
    assert not topic(MEDIA, "live+ab").startswith(topic(MEDIA, "live+a"))


@pytest.mark.parametrize("payload", [b"", b"ab", b"abcd"])
def test_sizes_must_add_up_to_the_payload_frame(payload: bytes) -> None:
    frames = encode_media("a", 1, 1, [Item(1, record(1, 3), b"abc")])
    with pytest.raises(FormatError, match="sizes"):
        decode_bus([frames[0], frames[1], payload])


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, -1),
        (0, 65_536),
        (0, "1"),
        (1, -1),
        (1, 2**63),
        (1, None),
        (2, 2**63),
        (5, 2**31),
        (6, -1),
        (9, 2**32),
        (9, 3.0),
        (11, 65_536),
        (11, int(Flag.LOST)),
    ],
)
def test_a_row_with_a_field_out_of_range_is_refused(at: int, value: object) -> None:
    row: list[object] = [1, 7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]
    row[at] = value
    header = msgpack.packb([1, 1, 1, [row]])
    with pytest.raises(FormatError):
        decode_bus([b"Ma\0", header, b"abc"])


@pytest.mark.parametrize(
    "header",
    [
        [],
        [1],
        [2, 1, 1, []],
        [True, 1, 1, []],
        [1, 1, 1, []],
        [1, -1, 1, [[0] * 13]],
        [1, 1, 1, [[0] * 12]],
        [1, 1, 1, [[0] * 13] * (MAX_ROWS + 1)],
        {"version": 1},
        1,
    ],
)
def test_a_header_that_is_not_one_is_refused(header: object) -> None:
    with pytest.raises(FormatError):
        decode_bus([b"Ma\0", msgpack.packb(header), b""])


def test_a_catalog_must_be_the_one_that_its_message_announces() -> None:
    frames = encode_catalog(CAT)
    with pytest.raises(FormatError, match="another stream"):
        decode_bus([b"Cother\0", frames[1], frames[2]])
    with pytest.raises(FormatError, match="contradicts"):
        decode_bus([frames[0], msgpack.packb([1, 100, 201, 1]), frames[2]])


def test_pulled_records_must_be_one_run() -> None:
    items = [Item(1, record(5), b"abc"), Item(1, record(7), b"def")]
    with pytest.raises(FormatError, match="one run"):
        decode_control(encode_control(Records(1, "a", 1, 1, items)))


@pytest.mark.parametrize("frames", [[], [b"", b"", b""], [msgpack.packb([1, "join", 1, "a"]), b""]])
def test_control_messages_have_their_number_of_frames(frames: list[bytes]) -> None:
    with pytest.raises(FormatError):
        decode_control(frames)


def test_a_pull_of_nothing_is_refused() -> None:
    with pytest.raises(FormatError, match="nothing"):
        decode_control(encode_control(Pull(1, "a", 1, 1, 5, 5)))
