"""Writing: heads, page cuts, budgets, insertion, eviction, adoption."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import PageGone, StoreFull
from common.track.chain import PAGE_US
from common.track.page import MAX_PAYLOAD, Disk, table_size
from common.track.store import Budget, Limits, StreamWriter
from tests.unit.track.build import (
    EPOCH,
    FRAME,
    STREAM,
    VIDEO,
    audio,
    catalog,
    lost,
    page_path,
    payload,
    video,
)


def fill(writer: StreamWriter, start: int, stop: int, size: int = 100) -> None:
    for seq in range(start, stop):
        writer.append(1, video(seq, size=size), payload(seq, size))


def pages(root: Path, track: int = 1) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in root.glob(f"*/{track}-*.page"))


def test_only_the_head_can_be_appended(writer: StreamWriter) -> None:
    fill(writer, 10, 12)
    assert (writer.oldest(1), writer.head(1)) == (10, 12)
    for seq in (11, 13):
        with pytest.raises(ValueError, match="at head 12"):
            writer.append(1, video(seq), b"")
    assert writer.tracks() == [1]
    assert (writer.oldest(9), writer.head(9)) == (0, 0)


def test_a_stored_record_is_the_given_one_with_its_place(writer: StreamWriter) -> None:
    writer.append(1, video(0), payload(0))
    stored = writer.append(1, video(1), payload(1))
    assert stored == video(1)._replace(offset=100, size=100)
    assert writer.reader().track(1).record(1) == stored


def test_a_page_ends_at_the_first_keyframe_after_some_seconds(
    writer: StreamWriter, tmp_path: Path
) -> None:
    fill(writer, 0, 251)
    assert pages(tmp_path) == [0, 100, 200]
    assert PAGE_US == 100 * FRAME * 1_000_000 // 90_000


def test_a_page_that_is_full_ends_anywhere(tmp_path: Path) -> None:
    limits = Limits(bytes_per_stream=16 * 64 * 1024)
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, limits)
    writer.set_catalog(catalog())
    fill(writer, 0, 5, size=30_000)
    assert pages(tmp_path) == [0, 2, 4]
    assert writer.reader().track(1).payloads(0, 5) == [payload(seq, 30_000) for seq in range(5)]
    writer.close()


def test_a_frame_larger_than_an_arena_gets_a_page_that_fits(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits(bytes_per_stream=4 << 20))
    fill(writer, 0, 1)
    fill(writer, 1, 2, size=1 << 20)
    fill(writer, 2, 3)
    assert pages(tmp_path) == [0, 1, 2]
    assert writer.reader().track(1).payload(1, verify=True) == payload(1, 1 << 20)
    writer.close()


def test_a_payload_beyond_the_cap_is_a_programming_error(writer: StreamWriter) -> None:
    huge = bytes(MAX_PAYLOAD + 1)
    with pytest.raises(ValueError, match="payload"):
        writer.append(1, video(0), huge)
    with pytest.raises(ValueError, match="cannot stand"):
        writer.insert(1, [(video(0), huge)])
    writer.append(1, video(0)._replace(crc32=0), huge[1:])
    assert writer.reader().track(1).payload(0) == huge[1:]


def test_the_table_of_a_page_follows_the_rate_of_the_track(
    writer: StreamWriter, tmp_path: Path
) -> None:
    for seq in range(9_000):
        record = audio(seq)._replace(dts=seq * 48, duration=48)
        writer.append(2, record, b"x")
    assert pages(tmp_path, 2)[:4] == [0, 254, 4254, 8254]


def test_pages_behind_the_window_go_when_a_page_begins(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits(window_us=8_000_000))
    writer.set_catalog(catalog())
    fill(writer, 0, 1000)
    assert pages(tmp_path) == [700, 800, 900]
    retired = table_size(200) + 100 * 100  # its memory is for the next page
    assert writer.bytes_held == table_size(200) * 3 + 300 * 100 + retired
    writer.close()


def test_eviction_is_by_whole_page_and_leaves_the_newest(
    writer: StreamWriter, tmp_path: Path
) -> None:
    fill(writer, 0, 300)
    reader = writer.reader().track(1)
    reader.record(0)
    writer.evict(3_999_999)
    assert reader.oldest == 0
    writer.evict(4_000_000)
    assert (reader.oldest, writer.oldest(1)) == (100, 100)
    with pytest.raises(PageGone):
        reader.record(0)
    writer.evict(10**15)
    assert pages(tmp_path) == [200]


def test_a_stream_over_its_bytes_loses_its_oldest_page(tmp_path: Path) -> None:
    limits = Limits(bytes_per_stream=1 << 20)
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, limits)
    writer.set_catalog(catalog())
    fill(writer, 0, 500, size=10_000)
    assert writer.bytes_held <= limits.bytes_per_stream
    assert limits.budget.used == writer.bytes_held
    reader = writer.reader().track(1)
    assert reader.runs() == [(writer.oldest(1), 500)]
    assert reader.oldest > 300
    writer.close()
    assert limits.budget.used == 0


def test_the_budget_of_a_node_takes_from_the_biggest_stream(tmp_path: Path) -> None:
    budget = Budget(2 << 20)
    limits = Limits(budget=budget)
    big, small = (StreamWriter.open(tmp_path, name, 1, limits) for name in ("big", "small"))
    for writer in (big, small):
        writer.set_catalog(catalog())
    fill(small, 0, 120, size=1000)
    fill(big, 0, 400, size=10_000)
    assert budget.used == big.bytes_held + small.bytes_held <= budget.total
    assert small.oldest(1) == 0
    assert big.oldest(1) > 0
    big.close()
    small.close()


def test_a_budget_that_newest_pages_take_up_is_full(tmp_path: Path) -> None:
    for limits in (Limits(bytes_per_stream=1 << 20), Limits(budget=Budget(1 << 20))):
        writer = StreamWriter.open(tmp_path, STREAM, EPOCH, limits)
        fill(writer, 0, 1)
        with pytest.raises(StoreFull):
            fill(writer, 1, 2, size=1 << 20)
        fill(writer, 1, 2)
        writer.remove()


def test_older_runs_are_inserted_where_nothing_is_held(writer: StreamWriter) -> None:
    fill(writer, 100, 110)
    run = [(video(seq), payload(seq)) for seq in range(90, 115)]
    assert writer.insert(1, run[:10]) == 10
    assert writer.insert(1, run) == 0
    assert writer.insert(1, [(video(seq), payload(seq)) for seq in range(50, 60)]) == 10
    assert writer.insert(1, [(video(seq), payload(seq)) for seq in range(40, 95)]) == 40
    reader = writer.reader().track(1)
    assert reader.runs() == [(40, 110)]
    assert reader.payloads(40, 110) == [payload(seq) for seq in range(40, 110)]
    assert (writer.oldest(1), writer.head(1)) == (40, 110)


def test_a_run_into_an_empty_track_makes_its_head(writer: StreamWriter) -> None:
    assert writer.insert(1, [(video(seq), payload(seq)) for seq in range(5, 9)]) == 4
    assert writer.head(1) == 9
    fill(writer, 9, 10)
    assert writer.reader().track(1).runs() == [(5, 10)]
    assert writer.insert(1, []) == 0


def test_a_run_with_a_hole_is_refused(writer: StreamWriter) -> None:
    with pytest.raises(ValueError, match="cannot stand"):
        writer.insert(1, [(video(1), b""), (video(3), b"")])


def test_a_long_run_becomes_several_pages(writer: StreamWriter, tmp_path: Path) -> None:
    run = [(video(seq, size=0), b"") for seq in range(20_000)]
    assert writer.insert(1, run) == 20_000
    assert len(pages(tmp_path)) == 3
    assert len(writer.reader().track(1).records(0, 20_000)) == 20_000


def test_nothing_newer_goes_for_an_older_run(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits(bytes_per_stream=1 << 20))
    fill(writer, 100, 160, size=10_000)
    run = [(video(seq, size=10_000), payload(seq, 10_000)) for seq in range(50, 100)]
    with pytest.raises(StoreFull):
        writer.insert(1, run)
    assert writer.reader().track(1).runs() == [(100, 160)]
    writer.close()


def test_a_skip_leaves_a_hole_that_can_be_filled(writer: StreamWriter) -> None:
    fill(writer, 0, 10)
    writer.skip(1, 50)
    assert writer.head(1) == 50
    with pytest.raises(ValueError, match="cannot skip back"):
        writer.skip(1, 49)
    fill(writer, 50, 60)
    reader = writer.reader().track(1)
    assert reader.runs() == [(0, 10), (50, 60)]
    assert (reader.contiguous_from, reader.oldest) == (50, 0)
    with pytest.raises(PageGone):
        reader.records(5, 55)
    assert writer.insert(1, [(video(seq), payload(seq)) for seq in range(60)]) == 40
    assert reader.runs() == [(0, 60)]


def test_lost_records_are_held_like_others(writer: StreamWriter) -> None:
    fill(writer, 0, 3)
    writer.append(1, lost(3, video(2)), b"")
    fill(writer, 4, 5)
    reader = writer.reader().track(1)
    assert [record.lost for record in reader.records(0, 5)] == [False] * 3 + [True, False]
    assert reader.payloads(0, 5, verify=True)[3] == b""
    assert reader.payload(3, verify=True) == b""


def test_adopted_pages_are_sealed_and_the_numbering_goes_on(tmp_path: Path) -> None:
    dead = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    dead.set_catalog(catalog(version=3))
    fill(dead, 0, 130)
    dead._state.close()  # killed: nothing is sealed, the lock is free
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    assert (writer.adoption.pages, writer.adoption.records, writer.adoption.dropped) == (2, 130, [])
    assert writer.catalog == catalog(version=3)
    assert writer.bytes_held == sum(os.stat(path).st_size for path in tmp_path.glob("*/*.page"))
    fill(writer, 130, 140)
    assert pages(tmp_path) == [0, 100, 130]
    reader = writer.reader().track(1)
    assert reader.payloads(0, 140, verify=True) == [payload(seq) for seq in range(140)]
    writer.close()


def test_what_is_no_page_is_dropped_and_reported(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    fill(writer, 0, 10)
    writer.close()
    folder = tmp_path / f"{STREAM}~{EPOCH}"
    good = page_path(folder, 1, 0).read_bytes()
    (folder / "1-50-1.page").write_bytes(b"garbage")
    (folder / "2-0-1.page").write_bytes(good)
    (folder / ".1-99-1.page").write_bytes(good)
    (folder / "catalog").write_bytes(b"\xff")
    (folder / "notes.txt").touch()
    kept = page_path(folder, 1, 0).name
    again = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    assert len(again.adoption.dropped) == 3
    assert again.catalog is None
    assert sorted(os.listdir(folder)) == [kept, "notes.txt", "state"]
    assert again.head(1) == 10
    again.close()


def test_a_damaged_end_of_a_page_is_cut_off(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    fill(writer, 0, 10)
    writer.close()
    path = page_path(tmp_path / f"{STREAM}~{EPOCH}", 1, 0)
    data = bytearray(path.read_bytes())
    data[-250] ^= 1  # the payload of record 7
    path.write_bytes(data)
    again = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    assert again.adoption.dropped == [f"{path.name}: 3 damaged records"]
    assert again.reader().track(1).payloads(0, 7, verify=True) == [payload(s) for s in range(7)]
    fill(again, 7, 8)
    again.close()


def test_overlapping_pages_are_dropped(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    fill(writer, 5, 10)
    writer.close()
    folder = tmp_path / f"{STREAM}~{EPOCH}"
    path = page_path(folder, 1, 5)
    keep = path.read_bytes()
    path.unlink()
    other = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    fill(other, 0, 7)
    other.close()
    path.write_bytes(keep)
    again = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    assert again.adoption.dropped == [f"{path.name}: overlaps the page before it"]
    assert again.head(1) == 7
    again.close()


def test_a_full_tmpfs_refuses_the_record_and_takes_it_later(tmp_path: Path) -> None:
    full = [False]

    def reserve(fd: int, start: int, length: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(fd, start, length)

    def write(fd: int, data: bytes | bytearray | memoryview, at: int) -> int:
        return os.pwrite(fd, data[: len(data) // 2] if full[0] else data, at)

    disk = Disk(reserve, write)
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits(), disk=disk)
    writer.set_catalog(catalog(VIDEO))
    fill(writer, 0, 99)
    full[0] = True
    for seq in (99, 99):
        with pytest.raises(StoreFull):
            fill(writer, seq, seq + 1)
    full[0] = False
    fill(writer, 99, 100)
    full[0] = True
    with pytest.raises(StoreFull):
        fill(writer, 100, 101)
    with pytest.raises(StoreFull):
        writer.insert(2, [(audio(0), b"x")])
    assert writer.tracks() == [1]
    full[0] = False
    fill(writer, 100, 102)
    reader = writer.reader().track(1)
    assert reader.payloads(0, 102, verify=True) == [payload(seq) for seq in range(102)]
    assert pages(tmp_path) == [0, 100]
    assert pages(tmp_path, 2) == []
    writer.close()


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from common.errors import StoreFull
from common.track.store import Limits, StreamWriter
from tests.unit.track.build import catalog, payload, video
writer = StreamWriter.open(Path(sys.argv[1]), "s", 1, Limits())
writer.set_catalog(catalog())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    writer.append(1, video(0), payload(0))
except StoreFull as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
"""


def test_a_limit_of_the_system_is_a_full_store_and_not_a_crash(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "no room for a page" in done.stdout, done.stderr
    assert list(tmp_path.glob("*/*.page")) == []


def test_a_field_that_does_not_fit_is_a_programming_error(writer: StreamWriter) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        writer.append(1, video(0)._replace(cts=1 << 31), payload(0))
    fill(writer, 0, 1)


def test_a_skip_before_anything_came_of_a_page_counts_nothing(tmp_path: Path) -> None:
    disk = Disk(write=lambda fd, data, at: 0)
    limits = Limits()
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, limits, disk=disk)
    with pytest.raises(StoreFull):
        fill(writer, 0, 1)
    assert writer.bytes_held > 0
    writer.skip(1, 7)
    assert writer.bytes_held == limits.budget.used == 0
    assert pages(tmp_path) == []
    writer.append(1, video(7, size=0), b"")
    writer.close()


def test_a_catalog_that_does_not_fit_leaves_the_old_one(
    writer: StreamWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreFull):
        writer.set_catalog(catalog(version=2))
    assert writer.catalog == catalog()
    assert writer.reader().catalog == catalog()


def test_closing_twice_and_removing_after_it_do_nothing(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    writer.close()
    writer.close()
    writer.remove()
    assert StreamWriter.existing(tmp_path) == [(STREAM, EPOCH)]
