import struct

import pytest

from common.errors import FormatError
from common.formats.mp4 import BoxSplitter, box, find, full_box, iter_boxes
from common.formats.mp4_read import read_fragments, read_init


def test_a_box_is_its_size_its_kind_and_its_contents() -> None:
    assert box(b"free", b"ab", b"c") == b"\0\0\0\x0bfreeabc"


def test_a_full_box_has_version_and_flags_in_front() -> None:
    assert full_box(b"tfdt", 1, 2, b"x") == b"\0\0\0\x0dtfdt\x01\0\0\x02x"


def test_boxes_are_found_along_a_path() -> None:
    data = box(b"free") + box(b"moov", box(b"mvhd"), box(b"trak", box(b"tkhd", b"here")))
    found = find(data, b"moov", b"trak", b"tkhd")
    assert found is not None
    assert data[found.body : found.stop] == b"here"
    assert find(data, b"moov", b"mvex") is None


def test_a_box_with_a_large_size_and_one_to_the_end_of_the_file_are_read() -> None:
    large = struct.pack(">I4sQ", 1, b"mdat", 19) + b"abc"
    data = large + struct.pack(">I4s", 0, b"free") + b"rest"
    boxes = list(iter_boxes(data))
    assert [(b.kind, data[b.body : b.stop]) for b in boxes] == [
        (b"mdat", b"abc"),
        (b"free", b"rest"),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0",
        struct.pack(">I4s", 9, b"free"),
        struct.pack(">I4s", 4, b"free"),
        struct.pack(">I4s", 1, b"free"),
        struct.pack(">I4sQ", 1, b"free", 8),
    ],
)
def test_an_impossible_size_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        list(iter_boxes(data))


def test_the_splitter_gives_whole_boxes_however_the_bytes_come() -> None:
    boxes = [box(b"ftyp", b"iso6"), struct.pack(">I4sQ", 1, b"mdat", 20) + b"abcd", box(b"moof")]
    splitter = BoxSplitter()
    out = [found for byte in b"".join(boxes) for found in splitter.feed(bytes([byte]))]
    assert out == boxes


def test_the_splitter_refuses_a_box_above_its_limit_before_it_has_come() -> None:
    with pytest.raises(FormatError):
        BoxSplitter(limit=100).feed(struct.pack(">I4s", 101, b"mdat"))
    with pytest.raises(FormatError):
        BoxSplitter(limit=100).feed(struct.pack(">I4s", 7, b"mdat"))


def test_an_init_segment_without_moov_is_refused() -> None:
    with pytest.raises(FormatError, match="no moov"):
        read_init(box(b"ftyp", b"iso6"))


def test_a_track_without_a_sample_entry_is_refused() -> None:
    tkhd = full_box(b"tkhd", 0, 0, bytes(20))
    mdhd = full_box(b"mdhd", 0, 0, bytes(20))
    hdlr = full_box(b"hdlr", 0, 0, bytes(20))
    stsd = full_box(b"stsd", 0, 0, bytes(4))
    mdia = box(b"mdia", mdhd, hdlr, box(b"minf", box(b"stbl", stsd)))
    with pytest.raises(FormatError, match="no sample entry"):
        read_init(box(b"moov", box(b"trak", tkhd, mdia)))


def _movie() -> bytes:
    trex = full_box(b"trex", 0, 0, struct.pack(">IIIII", 1, 1, 40, 3, 0x10000))
    return box(b"moov", box(b"mvex", trex))


def test_defaults_of_the_track_hold_where_a_fragment_is_silent() -> None:
    trun = full_box(b"trun", 0, 0x5, struct.pack(">IiI", 2, 84, 0))
    traf = box(
        b"traf",
        full_box(b"tfhd", 0, 0x20000, struct.pack(">I", 1)),
        full_box(b"tfdt", 0, 0, struct.pack(">I", 7)),
        trun,
    )
    moof = box(b"moof", full_box(b"mfhd", 0, 0, struct.pack(">I", 5)), traf)
    data = moof + box(b"mdat", b"abcdef")
    data = data.replace(struct.pack(">iI", 84, 0), struct.pack(">iI", len(moof) + 8, 0))
    (run,) = read_fragments(data, read_init(_movie()))
    assert (run.track, run.sequence, run.dts) == (1, 5, 7)
    assert [(s.dts, s.duration, s.key, s.data) for s in run.samples] == [
        (7, 40, True, b"abc"),
        (47, 40, False, b"def"),
    ]


def test_a_fragment_of_a_track_that_the_file_does_not_have_is_refused() -> None:
    traf = box(
        b"traf",
        full_box(b"tfhd", 0, 0x20000, struct.pack(">I", 9)),
        full_box(b"tfdt", 0, 0, bytes(4)),
    )
    moof = box(b"moof", full_box(b"mfhd", 0, 0, bytes(4)), traf)
    with pytest.raises(FormatError, match="track 9"):
        read_fragments(moof, read_init(_movie()))


def test_a_sample_table_beyond_its_box_and_a_sample_beyond_the_data_are_refused() -> None:
    for count, size in ((1000, 3), (1, 1 << 30)):
        trun = full_box(b"trun", 0, 0x201, struct.pack(">IiI", count, 0, size))
        traf = box(
            b"traf",
            full_box(b"tfhd", 0, 0x20000, struct.pack(">I", 1)),
            full_box(b"tfdt", 0, 0, bytes(4)),
            trun,
        )
        moof = box(b"moof", full_box(b"mfhd", 0, 0, bytes(4)), traf)
        with pytest.raises(FormatError):
            read_fragments(moof, read_init(_movie()))
