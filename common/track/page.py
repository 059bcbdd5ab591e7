"""One page: a file on tmpfs with a header, fixed-size records and an arena for payloads.

Layout, little endian::

    0    header: magic, format, record size, capacity, arena offset, arena size, first seq, track,
         crc32 of all that
    64   commit counter, u64: how many records are valid
    72   seal, u64: 0 while a writer may still append, else the length of the file
    128  records, 64 bytes each, seq = first seq + index
    ...  arena (from a multiple of 4096): payloads in seq order, one right behind the other

**Publication.** One writer, any number of readers, no locks: the payload is written first, then the
record, then the commit counter as one aligned 8-byte store. That store goes through a
``memoryview`` of machine words: ``struct.pack_into`` zeroes its target before it writes, and a
reader on another core sees that zero. x86 keeps stores in order; on other machines the writer is
given a ``barrier`` to call before the commit.

**Space.** What the writer maps (header and records) is reserved when the page is created; payloads
are written with ``pwrite`` into a sparse arena. A full tmpfs is therefore an error from a system
call, never a SIGBUS, and an open page holds no memory that it does not use. Sealing cuts the file
to what is used. Readers touch only what was committed.

**Use of a file again.** To get memory and to clear it costs more than to fill it. A page that has
left the window may therefore give its file to a later one, once nobody can see it any more: its
name is gone for a while, and no reader has it mapped. A reader holds a shared lock on each file
that it maps, as long as the map lives, and gives up if it cannot have it or if the file is not the
one of that name any more; the writer takes the file only with an exclusive lock.
"""

import errno
import fcntl
import mmap
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.errors import FormatError, StoreFull
from common.track import checksum
from common.track.record import RECORD, RECORD_SIZE, Record

MAGIC = b"HWPAGE\r\n"
FORMAT = 1
HEADER = struct.Struct("<8sHHIQQQI")
HEADER_SIZE = 128
COMMIT_AT = 64
SEAL_AT = 72
BLOCK = 4096

MAX_PAYLOAD = 16 * 1024 * 1024
"""Bytes of the largest payload, and of the largest arena. A larger frame is refused, and counted as
dropped."""

MAX_CAPACITY = 65_536
"""Records of the largest page. A file that claims more is no page."""

PAGE_MODE = 0o600

Buffer = bytes | bytearray | memoryview

_record = tuple.__new__  # as Record._make, without a look at the length

_CRC = struct.Struct("<I")
_WORD = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Disk:
    """How a page reaches the disk: parameters, so that tests can have it full."""

    reserve: Callable[[int, int, int], None] = os.posix_fallocate
    write: Callable[[int, Buffer, int], int] = os.pwrite
    barrier: Callable[[], None] | None = None
    """Called before each commit on machines that reorder stores."""


class Header(NamedTuple):
    """What is fixed about a page when it is created, and how far it is."""

    track: int
    first: int
    capacity: int
    arena: int
    """Where the arena starts in the file."""

    arena_size: int
    committed: int
    """Records that are valid."""

    sealed: int
    """Length of the file if sealed, else 0."""


_NAME = re.compile(r"([0-9]{1,10})-([0-9]{1,20})-([0-9]{1,20})\.page")


class PageName(NamedTuple):
    """What the name of a page's file says."""

    track: int
    first: int
    """Its first seq."""

    serial: int
    """Makes the name unlike that of any earlier page of the folder with the same first seq."""


def page_name(track: int, first: int, serial: int) -> str:
    """Return the file name of a page; see :class:`PageName`."""
    return f"{track}-{first}-{serial}.page"


def parse_page_name(name: str) -> PageName | None:
    """Return what a page's file name says, or ``None`` for any other file."""
    match = _NAME.fullmatch(name)
    return PageName(*map(int, match.groups())) if match is not None else None


def decode_header(data: Buffer, length: int) -> Header:
    """Read the first 128 bytes of a page file that is ``length`` bytes long.

    Raises:
        FormatError: If they are not the header of a page of this format, or claim more than the
            file can hold.
    """
    if len(memoryview(data)) < HEADER_SIZE:
        raise FormatError("page: shorter than its header")
    magic, version, width, capacity, arena, arena_size, first, track = HEADER.unpack_from(data)
    if magic != MAGIC or version != FORMAT or width != RECORD_SIZE:
        raise FormatError("page: not a page of this format")
    if _CRC.unpack_from(data, HEADER.size)[0] != zlib.crc32(memoryview(data)[: HEADER.size]):
        raise FormatError("page: header is damaged")
    (count,) = _WORD.unpack_from(data, COMMIT_AT)
    (sealed,) = _WORD.unpack_from(data, SEAL_AT)
    if capacity > MAX_CAPACITY or arena_size > MAX_PAYLOAD or count > capacity:
        raise FormatError("page: impossible counts")
    if HEADER_SIZE + capacity * RECORD_SIZE > arena or arena > length:
        raise FormatError("page: shorter than its records")
    return Header(track, first, capacity, arena, arena_size, count, sealed)


def read_header(path: Path) -> Header:
    """Read the header of a page file.

    Raises:
        FileNotFoundError: If it was unlinked.
        FormatError: If it is not a page.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return decode_header(os.pread(handle, HEADER_SIZE, 0), os.fstat(handle).st_size)
    finally:
        os.close(handle)


def table_size(capacity: int) -> int:
    """Return the bytes of header and records of a page for ``capacity`` records."""
    return -(-(HEADER_SIZE + capacity * RECORD_SIZE) // BLOCK) * BLOCK


class PageWriter:
    """The page that is being written. There is one a track, and one writer."""

    __slots__ = (
        "_base",
        "_disk",
        "_fd",
        "_map",
        "_words",
        "arena_size",
        "capacity",
        "count",
        "first",
        "path",
        "used",
    )

    def __init__(
        self,
        folder: Path,
        name: PageName,
        capacity: int,
        arena_size: int,
        disk: Disk,
        spare: Path | None = None,
    ) -> None:
        """Create the file; it appears under its name with its header in place.

        ``spare`` is the file of a page that has been retired (:func:`retire_page`): it is used if
        nobody reads it any more, and gone in any case.

        Raises:
            StoreFull: If there is no room; nothing is left behind.
        """
        self._base = table_size(min(capacity, MAX_CAPACITY))
        self.capacity = min((self._base - HEADER_SIZE) // RECORD_SIZE, MAX_CAPACITY)
        self.arena_size = min(arena_size, MAX_PAYLOAD)
        self.first = name.first
        self.count = 0
        self.used = 0
        self.path = folder / page_name(*name)
        self._disk = disk
        scratch = folder / f".{self.path.name}"
        self._fd = -1
        self._fd = _take(spare, scratch) if spare is not None else -1
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._fd = os.open(scratch, flags, PAGE_MODE)
        try:
            disk.reserve(self._fd, 0, self._base)
            os.ftruncate(self._fd, self._base + self.arena_size)
            self._map = mmap.mmap(self._fd, self._base)
            self._write_header(name.track)
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            scratch.rename(self.path)
        except OSError as error:
            self._let_go()
            scratch.unlink(missing_ok=True)
            raise StoreFull(f"no room for a page in {folder}: {error.strerror}") from error
        self._words = memoryview(self._map)[:HEADER_SIZE].cast("Q")

    def _write_header(self, track: int) -> None:
        self._map[:HEADER_SIZE] = bytes(HEADER_SIZE)
        fields = (self.capacity, self._base, self.arena_size, self.first, track)
        HEADER.pack_into(self._map, 0, MAGIC, FORMAT, RECORD_SIZE, *fields)
        _CRC.pack_into(self._map, HEADER.size, zlib.crc32(self._map[: HEADER.size]))

    def fits(self, size: int) -> bool:
        """Whether one more record with a payload of ``size`` bytes has room."""
        return self.count < self.capacity and self.used + size <= self.arena_size

    def append(self, record: Record, payload: Buffer, size: int) -> Record:
        """Publish a record that :meth:`fits`; return it with offset, size and crc32 set.

        Raises:
            StoreFull: If the tmpfs is full or the disk fails; nothing was published.
            ValueError: If a field is out of its range; nothing was published.
        """
        offset = self.used
        crc32 = record.crc32
        if size:
            self._write(payload, size, self._base + offset)
            crc32 = crc32 or checksum.crc32(payload)
        stored = _record(Record, (*record[:8], offset, size, crc32, *record[11:]))
        try:
            RECORD.pack_into(self._map, HEADER_SIZE + self.count * RECORD_SIZE, *stored)
        except struct.error as error:
            raise ValueError(f"{record} does not fit into a page") from error
        self.used = offset + size
        self.count += 1
        if self._disk.barrier is not None:
            self._disk.barrier()
        self._words[COMMIT_AT // 8] = self.count
        return stored

    def _write(self, payload: Buffer, size: int, at: int) -> None:
        try:
            done = self._disk.write(self._fd, payload, at)
            if done != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise StoreFull(f"cannot write to {self.path}: {error.strerror}") from error

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return self._base + self.used

    def seal(self) -> None:
        """Cut the file to what is used and let go of it. Readers may go on reading."""
        self._words[SEAL_AT // 8] = self.size
        os.ftruncate(self._fd, self.size)
        self._words.release()
        self._map.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self._let_go()


def retire_page(path: Path) -> Path:
    """Take a sealed page out of the sight of readers who have not mapped it; return its file.

    The file is for :class:`PageWriter`, later: readers who have it mapped let go of it when they
    hear that pages have gone.
    """
    spare = path.with_name(f".{path.name}.spare")
    path.rename(spare)
    return spare


def _take(spare: Path, scratch: Path) -> int:
    """Make a retired page's file the one at ``scratch``, or remove it if somebody reads it.

    Return its descriptor, with an exclusive lock, or -1.
    """
    try:
        handle = os.open(spare, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        spare.rename(scratch)
    except OSError:
        os.close(handle)
        spare.unlink(missing_ok=True)
        return -1
    return handle


def lock_mapped(handle: int, path: Path) -> None:
    """Keep the writer from using the file at ``path`` again, as long as ``handle`` is open.

    Copies of the descriptor count, such as that of a map.

    Raises:
        FileNotFoundError: If the page is not there any more.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileNotFoundError(errno.ENOENT, "the page was retired", str(path)) from None
    if os.stat(path).st_ino != os.fstat(handle).st_ino:
        raise FileNotFoundError(errno.ENOENT, "the page was retired", str(path))


def seal_file(path: Path, count: int, size: int) -> None:
    """Seal the page of a dead writer: ``count`` records are kept, the file gets ``size`` bytes."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(handle, _WORD.pack(count) + _WORD.pack(size), COMMIT_AT)
        os.ftruncate(handle, size)
    finally:
        os.close(handle)
