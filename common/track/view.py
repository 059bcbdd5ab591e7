"""Read one page through a map of its file. Copies leave this module, memoryviews never do."""

import mmap
import os
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import FormatError, PageGone
from common.track import checksum
from common.track.page import COMMIT_AT, HEADER_SIZE, decode_header, lock_mapped
from common.track.record import RECORD, RECORD_DTYPE, RECORD_SIZE, Record

_WORD = struct.Struct("<Q")
_PLACE = struct.Struct("<48xIII4x")
"""Offset, size and crc32 of a record's payload, for reads of whole runs."""

_unpack = RECORD.unpack_from
_commit = _WORD.unpack_from


class PageCorrupt(PageGone):
    """A stored record or payload is not what was written; it must not be served."""


class PageView:
    """A page as a reader sees it: records ``first`` to ``first + count``.

    The map goes with the last reference to this object.
    """

    __slots__ = ("_arena", "_capacity", "_end", "_map", "count", "first")

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            FileNotFoundError: If it was unlinked.
            FormatError: If it is not a page.
        """
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            lock_mapped(handle, path)
            # The size is left to mmap: a writer that seals right now makes the file shorter.
            self._map = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise FormatError("page: an empty file") from error
        finally:
            os.close(handle)
        header = decode_header(self._map[:HEADER_SIZE], len(self._map))
        self.first = header.first
        self._capacity = header.capacity
        self._arena = header.arena
        self._end = header.arena
        self.count = 0
        self.refresh()

    def refresh(self) -> int:
        """Read the commit counter; return how many records are valid."""
        count: int = _commit(self._map, COMMIT_AT)[0]
        if count != self.count:
            if count > self._capacity:
                raise PageCorrupt("the commit counter of a page is damaged")
            # What the last record ends at bounds all the others: a damaged offset must never
            # make us touch what a seal has cut off.
            last = _unpack(self._map, HEADER_SIZE + (count - 1) * RECORD_SIZE)
            self._end = min(self._arena + last[8] + last[9], len(self._map))
            self.count = count
        return count

    def record(self, index: int) -> Record:
        """Return the record at ``index``, which must be below ``count``."""
        return Record._make(_unpack(self._map, HEADER_SIZE + index * RECORD_SIZE))

    def records(self, start: int, stop: int) -> list[Record]:
        """Return the records at ``start`` to ``stop``."""
        return list(map(Record._make, RECORD.iter_unpack(self._rows(start, stop))))

    def array(self, start: int, stop: int) -> npt.NDArray[np.void]:
        """Return a structured array (``RECORD_DTYPE``), a copy."""
        return np.frombuffer(self._rows(start, stop), RECORD_DTYPE)

    def _rows(self, start: int, stop: int) -> bytes:
        return self._map[HEADER_SIZE + start * RECORD_SIZE : HEADER_SIZE + stop * RECORD_SIZE]

    def payload(self, record: Record, verify: bool) -> bytes:
        """Return a copy of a record's payload.

        Raises:
            PageCorrupt: If it is outside of what was committed or, with ``verify``, if its crc32
                is wrong.
        """
        start = self._arena + record.offset
        end = start + record.size
        if end > self._end:
            raise PageCorrupt(f"record {record.seq} points outside of its page")
        data = self._map[start:end]
        if verify and checksum.crc32(data) != record.crc32 and not record.lost:
            raise PageCorrupt(f"payload of record {record.seq} is damaged")
        return data

    def payloads(self, start: int, stop: int, verify: bool) -> list[bytes]:
        """Return copies of the payloads of the records at ``start`` to ``stop``.

        Raises:
            PageCorrupt: As :meth:`payload`.
        """
        places = self._places(start, stop)
        view = self._map
        base = self._arena
        found = [view[base + offset : base + offset + size] for offset, size, _ in places]
        if verify:
            for data, (_, size, crc32) in zip(found, places, strict=True):
                if size and checksum.crc32(data) != crc32:
                    raise PageCorrupt("a payload is damaged")
        return found

    def joined(self, start: int, stop: int, verify: bool) -> bytes:
        """Return the payloads of the records at ``start`` to ``stop`` as one: a single copy.

        Raises:
            PageCorrupt: As :meth:`payload`.
        """
        places = self._places(start, stop)
        if not places:
            return b""
        base = places[0][0]
        end = places[-1][0] + places[-1][1]
        data = self._map[self._arena + base : self._arena + end]
        if verify:
            whole = memoryview(data)
            for offset, size, crc32 in places:
                piece = whole[offset - base : offset - base + size]
                if size and checksum.crc32(piece) != crc32:
                    raise PageCorrupt("a payload is damaged")
        return data

    def _places(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        places: list[tuple[int, int, int]] = list(_PLACE.iter_unpack(self._rows(start, stop)))
        room = self._end - self._arena
        if any(offset + size > room for offset, size, _ in places):
            raise PageCorrupt("a record points outside of its page")
        return places
