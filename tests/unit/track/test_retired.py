"""Pages that have left the window give their files to later ones, once nobody reads them."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.track.page import lock_mapped, retire_page
from common.track.store import Limits, StreamWriter
from common.track.view import PageView
from tests.unit.track.build import EPOCH, STREAM, catalog, page_path, payload
from tests.unit.track.test_store import fill, pages


def files(root: Path) -> dict[int, int]:
    """Return the inode of each page by its first seq."""
    found = {int(path.stem.split("-")[1]): path for path in root.glob("*/1-*.page")}
    return {first: path.stat().st_ino for first, path in found.items()}


@pytest.fixture
def short(tmp_path: Path) -> Iterator[StreamWriter]:
    """A writer of a window of two pages of 100 frames each, four pages on."""
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits(window_us=8_000_000))
    writer.set_catalog(catalog())
    fill(writer, 0, 400)
    yield writer
    writer.close()


def test_a_page_that_nobody_reads_gives_its_file_to_a_later_one(
    short: StreamWriter, tmp_path: Path
) -> None:
    first = files(tmp_path)[100]
    with contextlib.closing(short.reader()) as reader:
        track = reader.track(1)
        assert track.payload(100) == payload(100)
        later: dict[int, int] = {}
        for start in (400, 500, 600):
            fill(short, start, start + 100)
            later |= files(tmp_path)
            assert track.head == start + 100  # it lets go of what has left the window
        (again,) = [page for page, inode in later.items() if inode == first and page > 100]
        held = range(again, again + 100)
        assert track.payloads(again, again + 100) == [payload(seq) for seq in held]
        assert track.array(again, again + 100)["seq"].tolist() == list(held)


def test_a_page_that_is_still_read_keeps_its_file(short: StreamWriter, tmp_path: Path) -> None:
    path = page_path(next(tmp_path.glob("*/1-100-*.page")).parent, 1, 100)
    view, first = PageView(path), files(tmp_path)[100]
    fill(short, 400, 1000)
    assert first not in files(tmp_path).values()
    assert view.payloads(0, 100, verify=True) == [payload(seq) for seq in range(100, 200)]


def test_a_page_cannot_be_mapped_once_it_is_retired(short: StreamWriter, tmp_path: Path) -> None:
    path = page_path(next(tmp_path.glob("*/1-100-*.page")).parent, 1, 100)
    handle = os.open(path, os.O_RDONLY)  # a reader that is about to map it
    retired = retire_page(path)
    with pytest.raises(FileNotFoundError):
        lock_mapped(handle, path)
    os.close(handle)
    os.rename(retired, path)
    handle = os.open(path, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as the writer does, to use it again
    with pytest.raises(FileNotFoundError, match="retired"):
        PageView(path)
    os.close(handle)
    PageView(path)


def test_retired_pages_go_before_held_ones_when_memory_is_short(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits(window_us=8_000_000))
    writer.set_catalog(catalog())
    fill(writer, 0, 1000)
    assert list(tmp_path.glob("*/.*.spare"))
    assert writer.evict_oldest()
    assert not list(tmp_path.glob("*/.*.spare"))
    assert pages(tmp_path) == [700, 800, 900]
    fill(writer, 1000, 1300)
    writer.close()
    assert not list(tmp_path.glob("*/.*.spare"))
