"""The chunk stream: header forms, timestamps, limits."""

import pytest

from common.errors import FormatError
from common.formats import rtmp_chunk
from common.formats.rtmp_chunk import (
    EXTENDED,
    ChunkReader,
    ChunkWriter,
    Message,
    MessageType,
    chunked,
)

VIDEO = MessageType.VIDEO


def full(csid: int, time: int, length: int, kind: int = VIDEO, stream: int = 1) -> bytes:
    extended = time.to_bytes(4, "big") if time >= EXTENDED else b""
    return (
        bytes([csid])
        + min(time, EXTENDED).to_bytes(3, "big")
        + length.to_bytes(3, "big")
        + bytes([kind])
        + stream.to_bytes(4, "little")
        + extended
    )


def control(kind: MessageType, value: int) -> bytes:
    return full(2, 0, 4, kind, 0) + value.to_bytes(4, "big")


def test_all_four_header_forms_carry_messages() -> None:
    reader = ChunkReader()
    data = (
        full(6, 2000, 3)
        + b"one"
        + b"\x46\x00\x00\x28\x00\x00\x05\x08five!"
        + b"\x86\x00\x00\x17again"
        + b"\xc6third"
    )
    assert reader.feed(data) == [
        Message(VIDEO, 2000, 1, b"one"),
        Message(MessageType.AUDIO, 2040, 1, b"five!"),
        Message(MessageType.AUDIO, 2063, 1, b"again"),
        Message(MessageType.AUDIO, 2086, 1, b"third"),
    ]


def test_a_message_is_put_together_from_interleaved_chunks() -> None:
    video, audio = bytes(range(200)), b"a" * 130
    data = (
        full(6, 10, 200)
        + video[:128]
        + full(4, 10, 130, MessageType.AUDIO)
        + audio[:128]
        + b"\xc6"
        + video[128:]
        + b"\xc4"
        + audio[128:]
    )
    assert [m.body for m in ChunkReader().feed(data)] == [video, audio]


@pytest.mark.parametrize(
    ("csid", "head"), [(64, b"\x00\x00"), (319, b"\x00\xff"), (65599, b"\x01\xff\xff")]
)
def test_large_chunk_stream_ids_take_one_or_two_more_bytes(csid: int, head: bytes) -> None:
    data = head + full(3, 0, 2)[1:] + b"ok"
    for size in (1, len(data)):
        reader = ChunkReader()
        got = [m for i in range(0, len(data), size) for m in reader.feed(data[i : i + size])]
        assert [m.body for m in got] == [b"ok"]


def test_a_new_chunk_size_holds_from_the_next_chunk_on() -> None:
    reader = ChunkReader()
    data = control(MessageType.SET_CHUNK_SIZE, 4096) + full(6, 0, 1000) + bytes(1000)
    assert [len(m.body) for m in reader.feed(data)] == [1000]
    assert reader.chunk_size == 4096


@pytest.mark.parametrize("size", [0, rtmp_chunk.MAX_CHUNK_SIZE + 1, 2**31, 2**32 - 1])
def test_an_impossible_chunk_size_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="chunk size"):
        ChunkReader().feed(control(MessageType.SET_CHUNK_SIZE, size))


def test_chunks_of_one_byte_work() -> None:
    data = control(MessageType.SET_CHUNK_SIZE, 1) + full(6, 0, 3) + b"a\xc6b\xc6c"
    assert [m.body for m in ChunkReader().feed(data)] == [b"abc"]


def test_a_form_3_after_a_full_header_repeats_the_first_timestamp_as_delta() -> None:
    reader = ChunkReader()
    times = [m.timestamp for m in reader.feed(full(6, 40, 1) + b"a" + b"\xc6b" + b"\xc6c")]
    assert times == [40, 80, 120]


def test_a_form_3_late_in_a_stream_does_not_double_the_time() -> None:
    reader = ChunkReader()
    times = [m.timestamp for m in reader.feed(full(6, 3_600_000, 1) + b"a" + b"\xc6b")]
    assert times == [3_600_000, 3_600_000]


def test_librtmp_may_begin_a_chunk_stream_with_form_1() -> None:
    data = b"\x42\x00\x00\x00\x00\x00\x06\x04\x00\x03\x00\x00\x00\x01"
    assert ChunkReader().feed(data) == [Message(4, 0, 0, data[8:])]


@pytest.mark.parametrize("head", [b"\x86\x00\x00\x00", b"\xc6"])
def test_a_short_header_without_one_before_it_is_a_format_error(head: bytes) -> None:
    with pytest.raises(FormatError, match="form"):
        ChunkReader().feed(head)


def test_a_message_inside_an_unfinished_one_is_a_format_error() -> None:
    with pytest.raises(FormatError, match="unfinished"):
        ChunkReader().feed(full(6, 0, 200) + bytes(128) + full(6, 0, 200))


@pytest.mark.parametrize("time", [EXTENDED, EXTENDED + 1, 2**31, 2**32 - 1])
def test_extended_timestamps_are_repeated_on_every_chunk(time: int) -> None:
    body = bytes(range(250)) * 2
    writer = ChunkWriter()
    data = writer.message(6, Message(VIDEO, time, 1, body))
    assert len(data) == 12 + len(body) + 3 + 4 * 4
    assert ChunkReader().feed(data) == [Message(VIDEO, time, 1, body)]


def test_an_encoder_may_leave_the_extended_timestamp_out_of_later_chunks() -> None:
    time, body = 20_000_000, bytes(range(100, 200)) * 3
    data = full(6, time, 300) + body[:128] + b"\xc6" + body[128:256] + b"\xc6" + body[256:]
    assert ChunkReader().feed(data) == [Message(VIDEO, time, 1, body)]
    reader = ChunkReader()
    got = [m for i in range(len(data)) for m in reader.feed(data[i : i + 1])]
    assert got == [Message(VIDEO, time, 1, body)]


def test_an_extended_delta_is_added() -> None:
    reader = ChunkReader()
    step = 17_000_000
    data = full(6, 1000, 1) + b"a" + b"\x86\xff\xff\xff" + step.to_bytes(4, "big") + b"b"
    data += b"\xc6" + step.to_bytes(4, "big") + b"c"
    assert [m.timestamp for m in reader.feed(data)] == [1000, 1000 + step, 1000 + 2 * step]


def test_deltas_wrap_at_32_bits() -> None:
    data = full(6, 2**32 - 10, 1) + b"a" + b"\x86\x00\x00\x14b"
    assert [m.timestamp for m in ChunkReader().feed(data)] == [2**32 - 10, 10]


def test_an_abort_message_drops_what_has_come_so_far() -> None:
    reader = ChunkReader()
    data = full(6, 0, 200) + bytes(128) + control(MessageType.ABORT, 6) + full(6, 5, 2) + b"ok"
    assert [m.body for m in reader.feed(data)] == [b"ok"]


def test_an_abort_of_nothing_does_nothing() -> None:
    assert ChunkReader().feed(control(MessageType.ABORT, 99)) == []


def test_an_empty_message_is_a_message() -> None:
    assert ChunkReader().feed(full(4, 7, 0)) == [Message(VIDEO, 7, 1, b"")]


def test_a_control_message_cut_short_is_a_format_error() -> None:
    with pytest.raises(FormatError, match="2 bytes"):
        ChunkReader().feed(full(2, 0, 2, MessageType.ABORT) + b"\x00\x00")


def test_too_many_chunk_streams_are_refused() -> None:
    reader = ChunkReader()
    for csid in range(rtmp_chunk.MAX_CHUNK_STREAMS):
        reader.feed(bytes([0, csid]) + full(3, 0, 0)[1:])
    with pytest.raises(FormatError, match="chunk streams"):
        reader.feed(b"\x00\xff" + full(3, 0, 0)[1:])


def test_a_huge_message_is_refused_at_its_header() -> None:
    with pytest.raises(FormatError, match="message of"):
        ChunkReader().feed(full(6, 0, rtmp_chunk.MAX_MESSAGE + 1))


def test_unfinished_messages_share_one_limit() -> None:
    reader = ChunkReader()
    size = rtmp_chunk.MAX_CHUNK_SIZE
    reader.feed(control(MessageType.SET_CHUNK_SIZE, size))
    piece = bytes(size)
    for csid in range(3, 3 + rtmp_chunk.MAX_IN_FLIGHT // size):
        assert reader.feed(full(csid, 0, rtmp_chunk.MAX_MESSAGE) + piece) == []
    with pytest.raises(FormatError, match="unfinished"):
        reader.feed(full(40, 0, rtmp_chunk.MAX_MESSAGE) + piece)


def test_finished_messages_give_their_room_back() -> None:
    reader = ChunkReader()
    size = rtmp_chunk.MAX_CHUNK_SIZE
    reader.feed(control(MessageType.SET_CHUNK_SIZE, size))
    piece = bytes(size)
    for _ in range(20):
        [message] = reader.feed(full(6, 0, 2 * size) + piece + b"\xc6" + piece)
        assert len(message.body) == 2 * size


def test_the_writer_uses_the_shortest_header_that_says_it() -> None:
    writer = ChunkWriter()
    sent = [
        Message(VIDEO, 1000, 1, b"ab"),
        Message(VIDEO, 1040, 1, b"cd"),
        Message(VIDEO, 1080, 1, b"ef"),
        Message(VIDEO, 1120, 1, b"longer"),
        Message(VIDEO, 900, 1, b"before"),
        Message(VIDEO, 900, 2, b"before"),
    ]
    data = [writer.message(6, message) for message in sent]
    assert [piece[0] >> 6 for piece in data] == [0, 2, 3, 1, 0, 0]
    assert ChunkReader().feed(b"".join(data)) == sent


def test_a_shared_message_needs_nothing_from_before() -> None:
    message = Message(VIDEO, 123456, 1, bytes(300))
    data = chunked(6, message, 128)
    assert ChunkReader().feed(data + data) == [message, message]
