"""Reading: lookups, runs, the catalog, rows, what happens when pages go."""

import gc
import os
from pathlib import Path

import pytest

from common.errors import FormatError, PageGone, StreamNotFound
from common.track.index import Closed, Opened, Piece, encode_row
from common.track.listing import MAX_MAPS, Listing
from common.track.record import RECORD_DTYPE, Flag, Record
from common.track.store import Limits, PageCorrupt, StreamReader, StreamWriter
from tests.unit.track.build import (
    EPOCH,
    STREAM,
    audio,
    catalog,
    lost,
    page_path,
    payload,
    video,
)


def fill(writer: StreamWriter, start: int, stop: int) -> None:
    for seq in range(start, stop):
        writer.append(1, video(seq), payload(seq))


def test_an_empty_track_holds_nothing(writer: StreamWriter) -> None:
    track = writer.reader().track(1)
    assert (track.head, track.oldest, track.contiguous_from, track.runs()) == (0, 0, 0, [])
    assert track.records(0, 0) == []
    assert track.payloads(3, 3) == []
    assert track.joined(0, 0) == b""
    assert track.array(0, 0).dtype == RECORD_DTYPE
    assert track.keyframe_at_or_before(5) is None
    assert track.keyframe_at_or_after(0) is None
    assert track.first_of_segment(0) is None
    assert track.first_held(0) is None
    with pytest.raises(PageGone):
        track.record(0)


def test_a_reader_follows_the_head_over_pages(writer: StreamWriter) -> None:
    track = writer.reader().track(1)
    for seq in range(250):
        writer.append(1, video(seq), payload(seq))
        assert track.head == seq + 1
        assert track.payload(seq, verify=True) == payload(seq)
        with pytest.raises(PageGone):
            track.record(seq + 1)


def test_bulk_reads_go_over_pages(writer: StreamWriter) -> None:
    fill(writer, 0, 330)
    track = writer.reader().track(1)
    assert [record.seq for record in track.records(95, 305)] == list(range(95, 305))
    assert track.array(95, 305)["dts"].tolist() == [seq * 3600 for seq in range(95, 305)]
    expected = [payload(seq) for seq in range(95, 305)]
    assert track.payloads(95, 305) == track.payloads(95, 305, verify=True) == expected
    assert track.joined(95, 305) == track.joined(95, 305, verify=True) == b"".join(expected)
    assert track.payload(track.record(17)) == payload(17)
    with pytest.raises(PageGone):
        track.records(95, 331)


def test_a_run_longer_than_all_maps_is_read(writer: StreamWriter) -> None:
    stop = (MAX_MAPS + 5) * 100
    fill(writer, 0, stop)
    reader = writer.reader()
    assert reader.track(1).payloads(0, stop) == [payload(seq) for seq in range(stop)]
    assert reader._pages.mapped == MAX_MAPS


def test_negative_and_far_seqs_are_simply_not_held(writer: StreamWriter) -> None:
    fill(writer, 0, 10)
    track = writer.reader().track(1)
    for seq in (-1, 10, 1 << 70):
        with pytest.raises(PageGone):
            track.record(seq)


def test_segments_parts_and_keyframes_are_found(writer: StreamWriter) -> None:
    fill(writer, 0, 250)
    writer.skip(1, 400)
    fill(writer, 400, 430)
    track = writer.reader().track(1)
    assert [track.first_of_segment(n) for n in (0, 1, 4, 5, 8, 9)] == [0, 50, 200, None, 400, None]
    assert [track.first_of_part(n) for n in (0, 49, 50, 80, 99)] == [0, 245, None, 400, None]
    assert [track.first_from_segment(n) for n in (4, 5, 9)] == [200, 400, None]
    assert [track.keyframe_at_or_before(n) for n in (0, 49, 50, 399, 999)] == [0, 0, 50, 200, 400]
    assert [track.keyframe_at_or_after(n) for n in (0, 1, 201, 401)] == [0, 50, 400, None]
    assert [track.first_held(n) for n in (7, 250, 429, 430)] == [7, 400, 429, None]


def test_a_lost_record_is_no_keyframe(writer: StreamWriter) -> None:
    fill(writer, 0, 50)
    writer.append(1, lost(50, video(49))._replace(flags=int(Flag.LOST | Flag.KEY)), b"")
    track = writer.reader().track(1)
    assert track.keyframe_at_or_before(50) == 0
    assert track.keyframe_at_or_after(50) is None


def test_pages_that_go_are_noticed_and_their_maps_dropped(writer: StreamWriter) -> None:
    fill(writer, 0, 250)
    reader = writer.reader()
    track = reader.track(1)
    track.payloads(0, 250)
    assert reader._pages.mapped == 3
    writer.evict(4_000_000)
    assert track.runs() == [(100, 250)]
    assert reader._pages.mapped == 2
    with pytest.raises(PageGone):
        track.payload(99)


def test_a_page_that_goes_between_listing_and_mapping_is_gone(writer: StreamWriter) -> None:
    fill(writer, 0, 250)
    track = writer.reader().track(1)
    assert track.runs() == [(0, 250)]
    page_path(writer._folder, 1, 0).unlink()
    with pytest.raises(PageGone):
        track.record(0)
    assert track.record(100).seq == 100


def test_a_page_that_is_damaged_after_listing_is_corrupt(writer: StreamWriter) -> None:
    fill(writer, 0, 250)
    track = writer.reader().track(1)
    assert track.head == 250
    with page_path(writer._folder, 1, 0).open("r+b") as file:
        file.write(b"garbage")
    with pytest.raises(PageCorrupt):
        track.record(0)


def test_files_that_are_no_pages_do_not_disturb_a_reader(writer: StreamWriter) -> None:
    (writer._folder / "1-7-0.page").write_bytes(b"garbage" * 100)
    fill(writer, 0, 5)
    os.link(page_path(writer._folder, 1, 0), writer._folder / "2-0-0.page")
    reader = writer.reader()
    assert reader.tracks() == [1]
    assert reader.track(1).runs() == [(0, 5)]


def test_the_catalog_is_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    reader = StreamReader.open(tmp_path, STREAM, EPOCH)
    with pytest.raises(StreamNotFound):
        _ = reader.catalog
    writer.set_catalog(catalog())
    assert reader.refresh()
    assert not reader.refresh()
    assert reader.catalog == catalog()
    writer.set_catalog(catalog(version=2))
    assert reader.catalog.version == 1
    assert reader.refresh()
    assert reader.catalog.version == 2
    writer.close()


def test_a_removed_stream_is_empty_for_those_who_still_read_it(writer: StreamWriter) -> None:
    fill(writer, 0, 10)
    reader = writer.reader()
    track = reader.track(1)
    assert (track.head, reader.removed) == (10, False)
    writer.remove()
    assert (track.head, reader.removed) == (0, True)
    assert (track.runs(), reader.tracks(), reader.refresh()) == ([], [], False)


def test_rows_are_decoded_and_lost_ones_left_out(writer: StreamWriter) -> None:
    opened = Opened(0, 10_000_000, 1, 0, False)
    closed = Closed(opened, 2_000_000, (Piece(1, 0, 50, 0, 0, 180_000, 5000, 0, 10, True),))
    rows = [opened, None, closed]
    for seq, row in enumerate(rows):
        record = Record(seq, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, Flag.KEY if row else Flag.LOST, 0)
        writer.append(0, record, encode_row(row) if row else b"")
    reader = writer.reader()
    assert reader.rows() == [(0, opened), (2, closed)]
    assert reader.rows(1) == reader.rows(2) == [(2, closed)]
    assert reader.rows(3) == []
    writer.append(0, Record(3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), b"\xc1")
    with pytest.raises(FormatError):
        reader.rows()


def test_a_restarted_writer_is_followed(tmp_path: Path) -> None:
    first = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    fill(first, 0, 30)
    reader = StreamReader.open(tmp_path, STREAM, EPOCH)
    track = reader.track(1)
    assert track.head == 30
    first.close()
    second = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    fill(second, 30, 40)
    assert track.runs() == [(0, 40)]
    assert track.payloads(25, 35) == [payload(seq) for seq in range(25, 35)]
    second.close()


def test_closing_a_reader_gives_its_files_back(writer: StreamWriter) -> None:
    fill(writer, 0, 250)
    for seq in range(100):
        writer.append(2, audio(seq), b"x")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    reader = writer.reader()
    reader.track(1).payloads(0, 250)
    reader.track(2).payloads(0, 100)
    assert len(os.listdir("/proc/self/fd")) > before
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_forgotten_without_being_closed_gives_its_files_back(tmp_path: Path) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    writer = StreamWriter.open(tmp_path / "other", "live", 1, Limits())
    writer.append(1, video(0), payload(0))
    reader = writer.reader()
    assert reader.track(1).payload(0) == payload(0)
    del writer, reader
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_page_that_comes_back_with_other_records_is_read_anew(writer: StreamWriter) -> None:
    fill(writer, 0, 250)
    track = writer.reader().track(1)
    assert track.runs() == [(0, 250)]
    writer.evict(4_000_000)
    writer.insert(1, [(video(seq), payload(seq)) for seq in range(30)])
    assert track.runs() == [(0, 30), (100, 250)]
    assert track.payloads(0, 30, verify=True) == [payload(seq) for seq in range(30)]


def test_a_page_that_is_sealed_while_it_is_mapped_is_read(
    writer: StreamWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(writer, 0, 5)
    reader = writer.reader()
    reader.tracks()
    real = os.open

    def racing(path: Path, flags: int) -> int:
        handle = real(path, flags)
        if str(path).endswith(".page"):
            monkeypatch.undo()
            writer.skip(1, 5)  # seals and cuts the page between our open and our map
        return handle

    monkeypatch.setattr(os, "open", racing)
    assert reader.track(1).payloads(0, 5, verify=True) == [payload(seq) for seq in range(5)]


def test_a_list_that_was_old_before_it_was_read_is_made_again(
    writer: StreamWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(writer, 0, 120)
    reader = writer.reader()
    real = Listing._names

    def slow(self: Listing) -> list[str]:
        names = real(self)
        monkeypatch.undo()
        fill(writer, 120, 450)
        writer.evict(16_000_000)  # all pages of the list are gone now
        return names

    monkeypatch.setattr(Listing, "_names", slow)
    assert reader.track(1).head == 450
    assert reader.track(1).runs() == [(400, 450)]


def test_a_newest_page_that_is_damaged_leaves_the_ones_before_it(writer: StreamWriter) -> None:
    fill(writer, 0, 120)
    reader = writer.reader()
    reader.tracks()
    with page_path(writer._folder, 1, 100).open("r+b") as file:
        file.write(b"garbage")
    assert reader.track(1).runs() == [(0, 100)]
