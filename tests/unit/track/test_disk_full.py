"""A page folder on a disk that is smaller than the limits say: streams go on, their past goes."""

import errno
import os
from pathlib import Path

import pytest

from common.errors import StoreFull
from common.track.page import Disk
from common.track.store import Budget, Limits, StreamWriter
from tests.unit.track.build import catalog, payload, video

ROOM = 3 * 2**20
SIZE = 10_000


class Small:
    """A disk that holds so many bytes, all files of a folder together."""

    def __init__(self, root: Path, room: int = ROOM) -> None:
        self.root = root
        self.room = room
        self.refused = 0
        self.disk = Disk(self._reserve, self._write)

    def used(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self.root.rglob("*.page"))

    def _check(self, size: int) -> None:
        if self.used() + size > self.room:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _reserve(self, fd: int, start: int, length: int) -> None:
        self._check(length)
        os.posix_fallocate(fd, start, length)

    def _write(self, fd: int, data: bytes | bytearray | memoryview, at: int) -> int:
        self._check(len(data))
        return os.pwrite(fd, data, at)


def begin(root: Path, small: Small, *names: str) -> list[StreamWriter]:
    limits = Limits(budget=Budget())
    writers = [StreamWriter.open(root, name, 1, limits, disk=small.disk) for name in names]
    for writer in writers:
        writer.set_catalog(catalog())
    return writers


def fill(writer: StreamWriter, count: int) -> None:
    for seq in range(count):
        writer.append(1, video(seq, size=SIZE), payload(seq, SIZE))


def test_a_stream_goes_on_and_the_newest_of_it_is_there(tmp_path: Path) -> None:
    small = Small(tmp_path)
    [writer] = begin(tmp_path, small, "live")
    fill(writer, 1500)
    assert small.refused > 0
    assert small.used() <= ROOM
    first = writer.oldest(1)
    assert 1500 - ROOM // SIZE <= first < 1400, "as much as fits, but for a page or two"
    held = writer.reader().track(1).payloads(first, 1500, verify=True)
    assert held == [payload(seq, SIZE) for seq in range(first, 1500)]
    writer.close()


def test_the_biggest_stream_makes_room_for_a_small_one(tmp_path: Path) -> None:
    small = Small(tmp_path)
    big, little = begin(tmp_path, small, "big", "little")
    for seq in range(1000):
        big.append(1, video(seq, size=SIZE), payload(seq, SIZE))
        little.append(1, video(seq, size=100), payload(seq, 100))
    assert little.oldest(1) == 0
    assert big.oldest(1) > 0
    assert (big.head(1), little.head(1)) == (1000, 1000)
    big.close()
    little.close()


def test_where_nothing_can_go_the_record_is_refused_and_taken_later(tmp_path: Path) -> None:
    small = Small(tmp_path, room=100 * SIZE)
    [writer] = begin(tmp_path, small, "live")
    with pytest.raises(StoreFull):
        fill(writer, 1000)
    seq = writer.head(1)
    assert 50 < seq < 100
    small.room = ROOM
    writer.append(1, video(seq, size=SIZE), payload(seq, SIZE))
    assert writer.reader().track(1).payloads(0, seq + 1, verify=True)[-1] == payload(seq, SIZE)
    writer.close()


def test_a_catalog_finds_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(tmp_path)
    [writer] = begin(tmp_path, small, "live")
    fill(writer, 1000)
    oldest = writer.oldest(1)
    small.room = small.used()
    written = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        small._check(len(data))
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    writer.set_catalog(catalog(version=2))
    assert small.refused > 0
    assert writer.oldest(1) > oldest
    assert writer.reader().catalog.version == 2
    writer.close()
