from pathlib import Path

import pytest

from common.formats.cmaf import init_segment
from common.formats.mp4 import iter_boxes
from common.formats.mp4_read import read_fragments, read_init
from common.media.track import Track
from common.track.limits import Limits
from common.track.reader import StreamReader
from common.track.record import Flag
from common.track.store import StreamWriter
from edge.packager import Packager, Packed
from edge.playlists import Directives, Playlists, Text
from edge.timelines import Timelines
from tests.unit.edge.cuts import AUDIO, EPOCH, VIDEO, CutStream, Entry, Pages

MEGABYTE = 1 << 20


def opened(root: Path) -> Timelines:
    timelines = Timelines(StreamReader.open(root, "live", EPOCH))
    timelines.update()
    return timelines


@pytest.fixture
def stream() -> CutStream:
    return CutStream().run(9)


@pytest.fixture
def timelines(tmp_path: Path, stream: CutStream) -> Timelines:
    Pages(tmp_path, stream).write()
    return opened(tmp_path)


def payloads_of(stream: CutStream, track: int, segment: int) -> list[bytes]:
    return [data for number, r, data in stream.entries if number == track and r.segment == segment]


@pytest.mark.parametrize("track", [VIDEO, AUDIO])
def test_a_segment_is_its_parts_and_holds_every_frame(
    timelines: Timelines, stream: CutStream, track: Track
) -> None:
    packager = Packager(MEGABYTE)
    whole = packager.segment(timelines, track.id, 2)
    found = timelines.tracks[track.id].segment(2)
    assert whole is not None
    assert found is not None
    parts = [
        packager.part(timelines, track.id, number)
        for number in range(found.first_part, found.first_part + found.part_count)
    ]
    assert whole.body == b"".join(part.body for part in parts if part is not None)
    runs = read_fragments(whole.body, read_init(init_segment([(track, 0)])))
    assert [s.data for run in runs for s in run.samples] == payloads_of(stream, track.id, 2)
    assert [run.sequence for run in runs] == [
        found.first_part + position + 1 for position in range(found.part_count)
    ]
    assert len(whole.etag) == 34


def test_every_part_begins_with_the_clock_of_its_first_frame(timelines: Timelines) -> None:
    part = Packager(MEGABYTE).part(timelines, VIDEO.id, 21)
    assert part is not None
    assert [box.kind for box in iter_boxes(part.body)] == [b"prft", b"moof", b"mdat"]
    ntp = int.from_bytes(part.body[16:24], "big")
    # The 21st part begins 4.2 s after the stream did, at 10 s of stream time.
    assert abs((ntp >> 32) - 2_208_988_800 + (ntp & 0xFFFFFFFF) / 2**32 - 1_800_000_014.2) < 1e-6


def test_an_old_segment_is_made_again_from_the_pages_with_equal_bytes(
    tmp_path: Path, stream: CutStream
) -> None:
    pages = Pages(tmp_path, stream)
    pages.write()
    packager = Packager(MEGABYTE)
    early = opened(tmp_path)
    first = packager.segment(early, VIDEO.id, 1)
    parts = [packager.part(early, VIDEO.id, number) for number in range(10, 20)]
    stream.run(40)
    pages.write()
    late = opened(tmp_path)
    found = late.tracks[VIDEO.id].segment(1)
    assert found is not None
    assert found.parts == ()
    assert Packager(MEGABYTE).segment(late, VIDEO.id, 1) == first
    assert [Packager(MEGABYTE).part(late, VIDEO.id, n) for n in range(10, 20)] == parts


def test_an_object_is_made_once_while_the_cache_has_room(timelines: Timelines) -> None:
    packager = Packager(MEGABYTE)
    first = packager.part(timelines, VIDEO.id, 3)
    assert packager.part(timelines, VIDEO.id, 3) is first
    assert packager.made == 1
    assert first is not None
    assert packager.size == len(first.body)


def test_the_cache_keeps_what_was_used_last_within_its_budget(timelines: Timelines) -> None:
    packager = Packager(1200)
    for number in range(6):
        assert packager.part(timelines, VIDEO.id, number) is not None
        assert packager.part(timelines, VIDEO.id, 0) is not None
        assert packager.size <= 1200
    assert packager.made == 6
    assert Packager(0).part(timelines, VIDEO.id, 0) == packager.part(timelines, VIDEO.id, 0)


def test_what_is_not_complete_is_not_made(timelines: Timelines) -> None:
    packager = Packager(MEGABYTE)
    assert packager.segment(timelines, VIDEO.id, 4) is None
    assert packager.part(timelines, VIDEO.id, 45) is None
    assert packager.part(timelines, 9, 0) is None
    assert packager.init(timelines, 9, 0) is None
    assert packager.init(timelines, VIDEO.id, 1) is None
    assert packager.made == 0


def test_an_object_around_a_lost_record_is_not_made(tmp_path: Path, stream: CutStream) -> None:
    writer = StreamWriter.open(tmp_path, "live", EPOCH, Limits())
    writer.set_catalog(stream.catalog)
    for number, record, data in stream.entries:
        lost = number == VIDEO.id and record.seq == 60
        changed = record._replace(flags=int(Flag.LOST), size=0, crc32=0, dts=0)
        writer.append(number, changed if lost else record, b"" if lost else data)
    timelines = opened(tmp_path)
    packager = Packager(MEGABYTE)
    assert packager.segment(timelines, VIDEO.id, 1) is None
    assert packager.part(timelines, VIDEO.id, 12) is None
    assert packager.segment(timelines, VIDEO.id, 0) is not None
    assert packager.segment(timelines, VIDEO.id, 2) is not None
    assert packager.segment(timelines, AUDIO.id, 1) is not None


def test_timelines_follow_the_pages_as_they_grow(tmp_path: Path, stream: CutStream) -> None:
    pages = Pages(tmp_path, stream)
    pages.write(0)
    timelines = opened(tmp_path)
    packager = Packager(MEGABYTE)
    made: list[Packed] = []
    for _ in range(len(stream.entries)):
        pages.write(1)
        timelines.update()
        while (part := packager.part(timelines, VIDEO.id, len(made))) is not None:
            made.append(part)
    assert len(made) == 45
    whole = packager.segment(timelines, VIDEO.id, 0)
    assert whole is not None
    assert whole.body == b"".join(part.body for part in made[:10])


def test_an_edge_that_joins_late_makes_the_same_bytes_and_playlists(
    tmp_path: Path, stream: CutStream
) -> None:
    early_root, late_root = tmp_path / "early", tmp_path / "late"
    for root in (early_root, late_root):
        root.mkdir()
    stream.run(20)
    Pages(early_root, stream).write()
    early = opened(early_root)
    writer = StreamWriter.open(late_root, "live", EPOCH, Limits())
    writer.set_catalog(stream.catalog)
    by_track: dict[int, list[Entry]] = {}
    for entry in stream.entries:
        by_track.setdefault(entry[0], []).append(entry)
    # Rows first, then the live segment, then what is older, the newest first.
    for _, record, data in by_track.pop(0):
        writer.append(0, record, data)
    live = stream.segmenter.segment - 1
    older: dict[int, list[Entry]] = {}
    for number, entries in by_track.items():
        older[number] = [entry for entry in entries if entry[1].segment < live]
        for _, record, data in entries[len(older[number]) :]:
            writer.append(number, record, data)
    late = Timelines(StreamReader.open(late_root, "live", EPOCH))
    late.update()
    assert not Playlists(late).settled(VIDEO.id)
    assert Packager(MEGABYTE).segment(late, VIDEO.id, live - 1) is None
    while any(older.values()):
        for number, entries in older.items():
            run = [(record, data) for _, record, data in entries[-37:]]
            del entries[-37:]
            if run:
                writer.insert(number, run)
        late.update()
    for track in (VIDEO.id, AUDIO.id):
        assert Playlists(late).settled(track)
        one, other = (Playlists(t).media(track, Directives()) for t in (early, late))
        assert isinstance(one, Text)
        assert isinstance(other, Text)
        assert one.body == other.body
        for number in range(live):
            assert Packager(MEGABYTE).segment(late, track, number) == Packager(MEGABYTE).segment(
                early, track, number
            )


def test_what_has_left_the_window_for_long_is_forgotten(tmp_path: Path) -> None:
    stream = CutStream(window_us=4_000_000).run(100)
    Pages(tmp_path, stream).write()
    timelines = opened(tmp_path)
    oldest = timelines.tracks[VIDEO.id].oldest
    assert oldest is not None
    assert 10 <= oldest <= 16
