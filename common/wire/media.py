"""Rows of frames as they cross the bus: the one layout that live media and repair share.

A row is the msgpack array ``[track, seq, dts, capture_us, ingest_us, cts, duration, segment, part,
size, crc32, flags, init]``; the payloads of a message's rows stand one after the other in a frame
of their own (DESIGN 4.3).
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from common.errors import FormatError
from common.track.record import RECORD, Record

VERSION = 1
"""First element of every header on the bus. Another value is refused."""

MAX_HEADER = 64 * 1024
"""Bytes of a header frame, live or control. A longer one is a FormatError: the message is
dropped."""

MAX_ROWS = 512
"""Records in one message; 512 of the longest rows stay below ``MAX_HEADER``. More are a
FormatError: the message is dropped."""

MAX_PAYLOAD = 16 * 1024 * 1024
"""Bytes of a payload frame: one huge keyframe, or many small frames. A longer one is a FormatError:
the message is dropped."""

MAX_TRACK = 65_535
"""The largest number of a track. A larger one is a FormatError: the message is dropped."""

MAX_NUMBER = 2**63 - 1
"""The largest number of anything: 63 bits. A larger one is a FormatError: the message is
dropped."""

_ROW = 13
_WIDTH = 4096
"""Elements that any other array or map of a header may have."""


class Item(NamedTuple):
    """One frame on its way: the row and its payload."""

    track: int
    record: Record
    payload: bytes


def rows_of(items: Sequence[Item]) -> list[list[int]]:
    """Return the rows that announce ``items``."""
    return [
        [track, r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[9], r[10], r[11], r[12]]
        for track, r, _ in items
    ]


def items_of(rows: Any, payload: bytes) -> list[Item]:
    """Pair rows with their payloads.

    Raises:
        FormatError: If the rows are not rows, or their sizes do not add up to ``payload``.
    """
    if type(rows) is not list or not 0 < len(rows) <= MAX_ROWS:
        raise FormatError("bus: a message carries no rows, or too many")
    if len(payload) > MAX_PAYLOAD:
        raise FormatError("bus: payloads are too large")
    items = []
    position = 0
    for row in rows:
        track, record = _record(row)
        end = position + record.size
        if end > len(payload):
            raise FormatError("bus: sizes of the rows exceed the payloads")
        items.append(Item(track, record, payload[position:end]))
        position = end
    if position != len(payload):
        raise FormatError("bus: sizes of the rows do not add up to the payloads")
    return items


def _record(row: Any) -> tuple[int, Record]:
    if type(row) is not list or len(row) != _ROW:
        raise FormatError("bus: a row has the wrong length")
    track = row[0]
    if type(track) is not int or not 0 <= track <= MAX_TRACK:
        raise FormatError("bus: track out of range")
    try:
        # Packing checks type and range of all fields at once, ten times faster than by hand.
        packed = RECORD.pack(*row[1:9], 0, *row[9:])
    except struct.error as error:
        raise FormatError(f"bus: a field of a row is out of range: {error}") from error
    record = Record._make(RECORD.unpack(packed))
    if record.seq > MAX_NUMBER or (record.size and record.lost):
        raise FormatError("bus: a row contradicts itself")
    return track, record


def unpack(header: bytes) -> list[Any]:
    """Decode a header frame into its array, the version checked and taken off.

    Raises:
        FormatError: If it is too large, no msgpack array, or of another version.
    """
    if len(header) > MAX_HEADER:
        raise FormatError("bus: header too large")
    try:
        tree = msgpack.unpackb(
            header,
            strict_map_key=False,
            max_array_len=_WIDTH,
            max_map_len=_WIDTH,
            max_str_len=_WIDTH,
            max_bin_len=_WIDTH,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, OverflowError, TypeError) as error:
        raise FormatError(f"bus: header is not msgpack: {error}") from error
    if type(tree) is not list or not tree:
        raise FormatError("bus: header is not an array")
    if type(tree[0]) is not int or tree[0] != VERSION:
        raise FormatError(f"bus: version {tree[0]!r:.20}, this node speaks {VERSION}")
    return tree[1:]


def number(value: Any, limit: int = MAX_NUMBER) -> int:
    """Return ``value`` if it is an integer from 0 to ``limit``.

    Raises:
        FormatError: If it is not.
    """
    if type(value) is not int or not 0 <= value <= limit:
        raise FormatError("bus: a number is missing or out of range")
    return value


def text(value: Any, limit: int = 255) -> str:
    """Return ``value`` if it is a string of at most ``limit`` characters.

    Raises:
        FormatError: If it is not.
    """
    if type(value) is not str or len(value) > limit:
        raise FormatError("bus: a text is missing or too long")
    return value


def numbers_by_track(value: Any) -> dict[int, int]:
    """Return ``value`` if it maps tracks to numbers.

    Raises:
        FormatError: If it does not.
    """
    if type(value) is not dict:
        raise FormatError("bus: a map of tracks is missing")
    return {number(track, MAX_TRACK): number(entry) for track, entry in value.items()}
