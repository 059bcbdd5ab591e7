"""Boxes of the ISO base media file format: writing them, and walking through foreign ones.

ISO/IEC 14496-12 section 4.2. What stands inside is the work of :mod:`common.formats.mp4_entries`
(sample entries), :mod:`common.formats.cmaf` (init segments, parts) and
:mod:`common.formats.mp4_read` (the way back).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from common.errors import FormatError

MAX_BOX = 64 * 1024 * 1024
"""Bytes of one top-level box that a reader of a byte stream will collect. A larger one is a
FormatError."""

MAX_BOXES = 65_536
"""Boxes on one level. More are a FormatError."""

_HEADER = struct.Struct(">I4s")
_FULL = struct.Struct(">I4sI")
_LARGE = struct.Struct(">Q")

LARGE_SIZE = 1
"""``size`` of a box whose real size follows its type in eight bytes."""

MATRIX = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
"""The unity matrix of ``mvhd`` and ``tkhd``."""


def box(kind: bytes, *parts: bytes) -> bytes:
    """Write a box with ``parts`` one after the other as its contents."""
    body = b"".join(parts)
    return _HEADER.pack(8 + len(body), kind) + body


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """Write a box that begins with a version and 24 bits of flags."""
    body = b"".join(parts)
    return _FULL.pack(12 + len(body), kind, version << 24 | flags) + body


class Box(NamedTuple):
    """Where one box stands in the bytes around it."""

    kind: bytes
    start: int
    """Position of its header."""

    body: int
    """Position of its contents."""

    stop: int
    """Position after its last byte."""


def iter_boxes(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[Box]:
    """Walk through the boxes between two positions.

    Raises:
        FormatError: If a box does not fit in there, or there are too many.
    """
    stop = len(data) if stop is None else stop
    count = 0
    while start < stop:
        if count >= MAX_BOXES:
            raise FormatError("mp4: too many boxes on one level")
        count += 1
        found = _box_at(data, start, stop)
        yield found
        start = found.stop


def _box_at(data: bytes, start: int, stop: int) -> Box:
    if stop - start < 8:
        raise FormatError("mp4: a box is cut short")
    size, kind = _HEADER.unpack_from(data, start)
    body = start + 8
    if size == LARGE_SIZE:
        if stop - start < 16:
            raise FormatError("mp4: a box is cut short")
        size, body = _LARGE.unpack_from(data, body)[0], start + 16
    elif size == 0:  # reaches to the end of the file
        size = stop - start
    if start + size > stop or start + size < body:
        raise FormatError(f"mp4: the size of box {kind!r} is wrong")
    return Box(kind, start, body, start + size)


def find(data: bytes, *path: bytes, within: Box | None = None) -> Box | None:
    """Return the first box at ``path``, each kind inside the one before it.

    Raises:
        FormatError: If a box on the way is malformed.
    """
    for kind in path:
        start, stop = (within.body, within.stop) if within else (0, len(data))
        within = next((b for b in iter_boxes(data, start, stop) if b.kind == kind), None)
        if within is None:
            return None
    return within


class BoxSplitter:
    """Cut a byte stream into its top-level boxes."""

    def __init__(self, limit: int = MAX_BOX) -> None:
        """``limit``: bytes of one box, its header included."""
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the boxes that are complete now.

        Raises:
            FormatError: If a box is too large or its size is impossible.
        """
        self._buffer += data
        boxes = []
        position = 0
        while (size := self._size_at(position)) is not None:
            if len(self._buffer) - position < size:
                break
            boxes.append(bytes(self._buffer[position : position + size]))
            position += size
        del self._buffer[:position]
        return boxes

    def _size_at(self, position: int) -> int | None:
        """Return the size of the box there; None until its header has come."""
        if len(self._buffer) - position < 8:
            return None
        size: int = _HEADER.unpack_from(self._buffer, position)[0]
        least = 8
        if size == LARGE_SIZE:
            if len(self._buffer) - position < 16:
                return None
            size, least = _LARGE.unpack_from(self._buffer, position + 8)[0], 16
        if not least <= size <= self._limit:
            raise FormatError(f"mp4: a box of {size} bytes in a stream")
        return size
