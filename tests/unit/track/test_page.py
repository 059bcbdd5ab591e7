"""A page file: its header, its commit counter, what sealing leaves."""

import errno
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from common.errors import FormatError, StoreFull
from common.track.page import (
    HEADER_SIZE,
    Disk,
    PageName,
    PageWriter,
    decode_header,
    page_name,
    parse_page_name,
    read_header,
    table_size,
)
from common.track.record import RECORD, RECORD_DTYPE, RECORD_SIZE
from common.track.view import PageCorrupt, PageView
from tests.unit.track.build import payload, video


def page(
    folder: Path, *, first: int = 0, arena: int = 4096, disk: Disk | None = None
) -> PageWriter:
    return PageWriter(folder, PageName(1, first, 9), 10, arena, disk or Disk())


def test_the_struct_and_the_numpy_layout_of_a_record_agree() -> None:
    record = video(7)
    row = RECORD.pack(*record)
    assert RECORD_DTYPE.itemsize == RECORD_SIZE == len(row)
    assert np.frombuffer(row, RECORD_DTYPE)[0].item() == tuple(record)


def test_a_record_is_seen_when_it_is_committed_and_not_before(tmp_path: Path) -> None:
    writer = page(tmp_path, first=40)
    view = PageView(writer.path)
    assert view.count == 0
    stored = writer.append(video(40), payload(40), 100)
    assert view.refresh() == 1
    assert view.record(0) == stored
    assert view.payload(stored, verify=True) == payload(40)
    writer.seal()


def test_the_barrier_stands_between_the_record_and_its_commit(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def barrier() -> None:
        data = (tmp_path / page_name(1, 0, 9)).read_bytes()
        header = decode_header(data, len(data))
        row = data[HEADER_SIZE + header.committed * RECORD_SIZE :][:RECORD_SIZE]
        seen.append((header.committed, RECORD.unpack(row)[0]))

    writer = page(tmp_path, disk=Disk(barrier=barrier))
    for seq in range(3):
        writer.append(video(seq), payload(seq), 100)
    assert seen == [(0, 0), (1, 1), (2, 2)]
    writer.seal()


def test_the_file_is_private_and_sealing_cuts_it_to_what_is_used(tmp_path: Path) -> None:
    writer = page(tmp_path, arena=1 << 20)
    writer.append(video(0), payload(0), 100)
    view = PageView(writer.path)
    writer.seal()
    status = writer.path.stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_size == table_size(10) + 100
    assert read_header(writer.path).sealed == status.st_size
    assert view.payloads(0, 1, verify=True) == [payload(0)]


def test_an_open_page_takes_no_memory_for_what_was_not_written(tmp_path: Path) -> None:
    writer = page(tmp_path, arena=8 << 20)
    assert writer.path.stat().st_blocks * 512 < 64 * 1024
    writer.seal()


def test_no_room_for_a_page_leaves_nothing_behind(tmp_path: Path) -> None:
    def full(fd: int, start: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreFull, match="No space left"):
        page(tmp_path, disk=Disk(reserve=full))
    assert list(tmp_path.iterdir()) == []


def test_a_payload_that_is_written_in_part_is_not_published(tmp_path: Path) -> None:
    writer = page(tmp_path, disk=Disk(write=lambda fd, data, at: len(data) // 2))
    with pytest.raises(StoreFull):
        writer.append(video(0), payload(0), 100)
    assert PageView(writer.path).count == 0
    writer.seal()


def test_the_crc_is_computed_where_the_caller_gives_none(tmp_path: Path) -> None:
    writer = page(tmp_path)
    stored = writer.append(video(0)._replace(crc32=0), b"abc", 3)
    assert (stored.crc32, stored.size) == (zlib.crc32(b"abc"), 3)
    writer.seal()


@pytest.mark.parametrize(
    "name",
    [
        "catalog",
        "1-2.page",
        "1-2-.page",
        "-1-2.page",
        "1-2-3.pages",
        "a-2-3.page",
        "1-²-3.page",
        ".1-2-3.page",
        f"1-{10**20}-3.page",
        "1-2-3.page\n",
    ],
)
def test_other_files_are_not_taken_for_pages(name: str) -> None:
    assert parse_page_name(name) is None


def test_page_names_are_read_back() -> None:
    assert parse_page_name(page_name(3, 2**63, 7)) == (3, 2**63, 7)


@pytest.mark.parametrize("place", [0, 8, 12, 20, 30, 40, 45])
def test_a_damaged_header_is_refused(tmp_path: Path, place: int) -> None:
    writer = page(tmp_path)
    writer.append(video(0), payload(0), 100)
    writer.seal()
    data = bytearray(writer.path.read_bytes())
    data[place] ^= 0x40
    writer.path.write_bytes(data)
    with pytest.raises(FormatError):
        PageView(writer.path)
    with pytest.raises(FormatError):
        read_header(writer.path)


@pytest.mark.parametrize("length", [0, 10, 127, 130, 767])
def test_a_page_that_is_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    writer = page(tmp_path)
    writer.seal()
    os.truncate(writer.path, length)
    with pytest.raises(FormatError):
        PageView(writer.path)


def test_a_damaged_record_never_reaches_outside_of_its_page(tmp_path: Path) -> None:
    writer = page(tmp_path)
    for seq in range(3):
        writer.append(video(seq), payload(seq), 100)
    writer.seal()
    data = bytearray(writer.path.read_bytes())
    data[HEADER_SIZE + RECORD_SIZE + 48 + 3] = 0x7F  # offset of the second record
    writer.path.write_bytes(data)
    view = PageView(writer.path)
    with pytest.raises(PageCorrupt):
        view.payload(view.record(1), verify=False)
    with pytest.raises(PageCorrupt):
        view.payloads(0, 3, verify=False)
    assert view.payload(view.record(2), verify=True) == payload(2)


def test_a_flipped_bit_in_a_payload_is_found_on_demand(tmp_path: Path) -> None:
    writer = page(tmp_path)
    for seq in range(3):
        writer.append(video(seq), payload(seq), 100)
    writer.seal()
    data = bytearray(writer.path.read_bytes())
    data[table_size(10) + 150] ^= 1
    writer.path.write_bytes(data)
    view = PageView(writer.path)
    assert view.payload(view.record(0), verify=True) == payload(0)
    for read in (
        lambda: view.payload(view.record(1), verify=True),
        lambda: view.payloads(0, 3, verify=True),
        lambda: view.joined(0, 3, verify=True),
    ):
        with pytest.raises(PageCorrupt):
            read()


def test_an_impossible_commit_counter_is_an_error(tmp_path: Path) -> None:
    writer = page(tmp_path)
    writer.append(video(0), payload(0), 100)
    view = PageView(writer.path)
    with writer.path.open("r+b") as file:
        file.seek(64)
        file.write((1 << 40).to_bytes(8, "little"))
    with pytest.raises(PageCorrupt):
        view.refresh()
    with pytest.raises(FormatError):
        PageView(writer.path)
    writer.seal()
