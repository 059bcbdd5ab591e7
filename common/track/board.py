"""The counter board of a page folder: which streams moved, seen at one glance.

``ROOT/board`` gives every stream folder a slot with two counters, data and catalog. The writer adds
one to them with single 8-byte stores; readers, woken by an eventfd or by the clock, copy both
columns and compare them with their last copy. One process writes a counter, all may read it.

Layout, u64 words: 0 magic, 1 generation (streams added or removed), 2 slots ever used, 512 data
counters, then catalog counters, then owners (a hash of the folder's name, 0 for a free slot).
"""

import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import StoreFull
from common.track.folder import FOLDER_MODE, folder_name, streams_under
from common.track.page import PAGE_MODE

BOARD = "board"
SLOTS = 4096
"""Streams with pages in one page folder. One more is not carried: there is no room for it."""

_HEAD = 512
_SIZE = (_HEAD + 3 * SLOTS) * 8
_MAGIC = int.from_bytes(b"HWBOARD1", "little")
_MAGIC_WORD, _GENERATION_WORD, _USED_WORD = range(3)

Counters = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The counters at one moment, indexed by slot."""

    generation: int
    data: Counters
    catalogs: Counters

    def moved(self, since: "Snapshot") -> list[int]:
        """Return the slots whose data counter differs from that of an earlier snapshot."""
        return _differences(self.data, since.data)

    def catalogs_moved(self, since: "Snapshot") -> list[int]:
        """Return the slots whose catalog counter differs from that of an earlier snapshot."""
        return _differences(self.catalogs, since.catalogs)


def _differences(now: Counters, then: Counters) -> list[int]:
    if len(then) < len(now):
        then = np.concatenate([then, np.zeros(len(now) - len(then), np.uint64)])
    found: list[int] = np.flatnonzero(now != then[: len(now)]).tolist()
    return found


class Board:
    """A map of ``ROOT/board``."""

    __slots__ = ("_columns", "_fd", "_map", "_root", "_words")

    def __init__(self, root: Path, fd: int) -> None:
        """Map an open board file."""
        self._root = root
        self._fd = fd
        self._map = mmap.mmap(fd, _SIZE)
        self._words = memoryview(self._map).cast("Q")
        self._columns = np.frombuffer(self._map, np.uint64)[_HEAD:].reshape(3, SLOTS)

    @classmethod
    def open(cls, root: Path) -> "Board":
        """Attach to the board of ``root``; it is made if it is not there yet.

        Raises:
            StoreFull: If there is no room for it.
        """
        path = root / BOARD
        try:
            root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PAGE_MODE)
        except OSError as error:
            raise StoreFull(f"cannot create {path}: {error.strerror}") from error
        try:
            os.posix_fallocate(fd, 0, _SIZE)
        except OSError as error:
            os.close(fd)
            raise StoreFull(f"no room for {path}: {error.strerror}") from error
        board = cls(root, fd)
        with board._alone():
            if board._words[_MAGIC_WORD] != _MAGIC:
                board._map[:] = bytes(_SIZE)
                board._words[_MAGIC_WORD] = _MAGIC
        return board

    @classmethod
    def create(cls, root: Path) -> "Board":
        """Attach as the writer: as :meth:`open`, and free the slots of folders that are gone."""
        board = cls.open(root)
        with board._alone():
            held = {_hash(stream, epoch) for stream, epoch in streams_under(root)}
            for slot in range(board._words[_USED_WORD]):
                owner = board._owner(slot)
                if owner and owner not in held:
                    board._set_owner(slot, 0)
        return board

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from handing out slots meanwhile."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _owner(self, slot: int) -> int:
        return self._words[_HEAD + 2 * SLOTS + slot]

    def _set_owner(self, slot: int, owner: int) -> None:
        self._words[_HEAD + 2 * SLOTS + slot] = owner
        self._words[_GENERATION_WORD] += 1

    def claim(self, stream: str, epoch: int) -> int:
        """Return the slot of a stream folder, a free one if it has none yet. For its writer.

        Raises:
            StoreFull: If all slots are taken.
        """
        with self._alone():
            slot = self.slot_of(stream, epoch)
            if slot is None:
                free = np.flatnonzero(self._columns[2] == 0)
                if not len(free):
                    raise StoreFull(f"{self._root} holds {SLOTS} streams, the most there can be")
                slot = int(free[0])
                self._words[_USED_WORD] = max(self._words[_USED_WORD], slot + 1)
                self._set_owner(slot, _hash(stream, epoch))
            return slot

    def release(self, stream: str, epoch: int) -> None:
        """Free the slot of a stream folder. Its counters go on, so that readers see the next."""
        with self._alone():
            slot = self.slot_of(stream, epoch)
            if slot is not None:
                self.bump(slot)
                self._set_owner(slot, 0)

    def slot_of(self, stream: str, epoch: int) -> int | None:
        """Return the slot of a stream folder, ``None`` if it has none (yet)."""
        found = np.flatnonzero(self._columns[2] == np.uint64(_hash(stream, epoch)))
        return int(found[0]) if len(found) else None

    def bump(self, slot: int) -> None:
        """Tell readers that the stream in this slot has new records or pages."""
        self._words[_HEAD + slot] += 1

    def bump_catalog(self, slot: int) -> None:
        """Tell readers that the stream in this slot has a new catalog."""
        self._words[_HEAD + SLOTS + slot] += 1

    @property
    def generation(self) -> int:
        """Counts the streams that were added or removed."""
        return self._words[_GENERATION_WORD]

    def snapshot(self) -> Snapshot:
        """Copy the counters of all slots ever used."""
        used = min(self._words[_USED_WORD], SLOTS)
        return Snapshot(
            self.generation, self._columns[0, :used].copy(), self._columns[1, :used].copy()
        )

    def close(self) -> None:
        """Let go of the file; the map goes with the last array made from it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


def _hash(stream: str, epoch: int) -> int:
    digest = hashlib.blake2b(folder_name(stream, epoch).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") | 1
