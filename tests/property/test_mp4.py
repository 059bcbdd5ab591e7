import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.formats.cmaf import init_segment, part
from common.formats.mp4 import BoxSplitter, box, find, iter_boxes
from common.formats.mp4_read import read_fragments, read_init
from common.media.codec import Codec
from common.media.track import Track
from common.track.record import Flag, Record

TRACK = Track(2, Codec.AAC, 48_000, (bytes.fromhex("1190"),))
INIT = init_segment([(TRACK, 0)])
RECORDS = [Record(n, 480_000 + n * 1024, 0, 0, 0, 1024, 0, 0, 0, 3, 0, Flag.KEY, 0) for n in (0, 1)]
PART = part(TRACK, RECORDS, [b"abc", b"def"], None, (480_000, 1))
MOVIE = read_init(INIT)

boxes = st.lists(st.tuples(st.binary(min_size=4, max_size=4), st.binary(max_size=40)), max_size=6)


@given(boxes)
def test_boxes_come_back_as_they_were_written(written: list[tuple[bytes, bytes]]) -> None:
    data = b"".join(box(kind, body) for kind, body in written)
    read = [(b.kind, data[b.body : b.stop]) for b in iter_boxes(data)]
    assert read == written


@given(boxes, st.data())
def test_the_splitter_does_not_mind_how_bytes_are_cut(
    written: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    whole = [box(kind, body) for kind, body in written]
    rest = b"".join(whole)
    splitter, out = BoxSplitter(), []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out += splitter.feed(rest[:size])
        rest = rest[size:]
    assert out == whole


def _spoil(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    out = bytearray(data)
    for position, value in changes:
        out[position % len(out)] = value
    return bytes(out[:cut])


spoils = st.tuples(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    st.integers(0, 2000),
)


@given(spoils)
def test_a_spoilt_init_segment_is_read_or_a_format_error(
    spoil: tuple[list[tuple[int, int]], int],
) -> None:
    try:
        read_init(_spoil(INIT, *spoil))
    except FormatError:
        return


@given(spoils)
def test_a_spoilt_part_is_read_or_a_format_error(
    spoil: tuple[list[tuple[int, int]], int],
) -> None:
    try:
        read_fragments(_spoil(PART, *spoil), MOVIE)
    except FormatError:
        return


@given(st.binary(max_size=200))
def test_garbage_is_a_format_error_or_nothing_at_all(data: bytes) -> None:
    with pytest.raises(FormatError):
        read_init(data)
    for read in (lambda: find(data, b"moov", b"trak"), lambda: BoxSplitter().feed(data)):
        try:
            read()
        except FormatError:
            continue
