"""What edges and origins say to each other over DEALER and ROUTER (DESIGN 4.3).

A message is a msgpack array ``[version, kind, ...]`` in one frame; ``joined`` has the catalog, and
``records`` the payloads, in a second one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgpack

from common.errors import FormatError
from common.names import check_name
from common.track.catalog import Catalog
from common.wire.media import (
    MAX_TRACK,
    VERSION,
    Item,
    items_of,
    number,
    rows_of,
    text,
    unpack,
)
from common.wire.messages import decode_catalog

MAX_PULL = 256 * 1024
"""Bytes of payload in one answer to a pull, unless a single frame is larger. The rest is asked for
with the next pull."""

PING_US = 1_000_000
"""How often an edge asks whether the origin is there."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of an edge, and the origin's answer to it."""

    node: str
    version: str
    """Of the software; for logs."""


@dataclass(frozen=True, slots=True)
class Join:
    """Tell me all about this stream."""

    id: int
    stream: str


@dataclass(frozen=True, slots=True)
class Position:
    """What the origin holds of one track."""

    oldest: int
    gop: int
    """First seq of the live GOP: where a viewer who comes now starts."""

    head: int
    """Next seq."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The stream is here; ``id`` is the join's."""

    id: int
    stream: str
    catalog: Catalog
    positions: dict[int, Position]


@dataclass(frozen=True, slots=True)
class Absent:
    """The stream is not here; ``id`` is the join's."""

    id: int
    stream: str


@dataclass(frozen=True, slots=True)
class Pull:
    """Send me the records ``first`` to ``stop - 1``, or as many of them as fit."""

    id: int
    stream: str
    epoch: int
    track: int
    first: int
    stop: int
    max_bytes: int = MAX_PULL
    newest_first: bool = False
    """Whether those right before ``stop`` come first; in a message seq always rises."""


@dataclass(frozen=True, slots=True)
class Records:
    """An answer to a pull: one contiguous run of one track."""

    id: int
    stream: str
    epoch: int
    term: int
    items: list[Item]


@dataclass(frozen=True, slots=True)
class Gone:
    """An answer to a pull: nothing before ``oldest`` is held any more."""

    id: int
    stream: str
    epoch: int
    track: int
    oldest: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?"""

    sent_us: int


@dataclass(frozen=True, slots=True)
class Pong:
    """I am here; ``sent_us`` is the ping's."""

    sent_us: int


Control = Hello | Join | Joined | Absent | Pull | Records | Gone | Ping | Pong


def encode_control(message: Control) -> list[bytes]:
    """Return the frames of a message."""
    match message:
        case Hello(node, version):
            return [_pack("hello", node, version)]
        case Join(number_, stream):
            return [_pack("join", number_, stream)]
        case Joined(number_, stream, catalog, positions):
            rows = {track: [p.oldest, p.gop, p.head] for track, p in positions.items()}
            return [_pack("joined", number_, stream, rows), catalog.encode()]
        case Absent(number_, stream):
            return [_pack("absent", number_, stream)]
        case Pull():
            return [_pack("pull", *_pull_fields(message))]
        case Records(number_, stream, epoch, term, items):
            header = _pack("records", number_, stream, epoch, term, rows_of(items))
            return [header, b"".join([item.payload for item in items])]
        case Gone(number_, stream, epoch, track, oldest):
            return [_pack("gone", number_, stream, epoch, track, oldest)]
        case Ping(sent):
            return [_pack("ping", sent)]
        case Pong(sent):
            return [_pack("pong", sent)]


def _pack(kind: str, *fields: Any) -> bytes:
    packed: bytes = msgpack.packb([VERSION, kind, *fields])
    return packed


def _pull_fields(pull: Pull) -> list[Any]:
    return [
        pull.id,
        pull.stream,
        pull.epoch,
        pull.track,
        pull.first,
        pull.stop,
        pull.max_bytes,
        pull.newest_first,
    ]


def decode_control(frames: Sequence[bytes]) -> Control:
    """Read one message of the other side.

    Raises:
        FormatError: If it is not one, is of another version, or exceeds a limit.
    """
    if not 1 <= len(frames) <= 2:
        raise FormatError("bus: a control message has one frame or two")
    fields = unpack(frames[0])
    kind = fields[0] if fields else None
    # A dict of another kind would raise TypeError for an unhashable key.
    entry = _DECODERS.get(kind) if type(kind) is str else None
    if entry is None or len(frames) != entry[0]:
        raise FormatError("bus: no such control message")
    return entry[1](fields[1:], frames[-1])


def _hello(fields: list[Any], _: bytes) -> Control:
    node, version = _take(fields, 2)
    return Hello(text(node), text(version))


def _join(fields: list[Any], _: bytes) -> Control:
    id_, stream = _take(fields, 2)
    return Join(number(id_), _stream(stream))


def _joined(fields: list[Any], data: bytes) -> Control:
    id_, stream, rows = _take(fields, 3)
    name = _stream(stream)
    if type(rows) is not dict:
        raise FormatError("bus: positions are missing")
    positions = {number(track, MAX_TRACK): _position(row) for track, row in rows.items()}
    return Joined(number(id_), name, decode_catalog(data, name), positions)


def _position(row: Any) -> Position:
    if type(row) is not list or len(row) != 3:
        raise FormatError("bus: a position has three numbers")
    position = Position(*(number(value) for value in row))
    if not position.oldest <= position.gop <= position.head:
        raise FormatError("bus: a position is out of order")
    return position


def _absent(fields: list[Any], _: bytes) -> Control:
    id_, stream = _take(fields, 2)
    return Absent(number(id_), _stream(stream))


def _pull(fields: list[Any], _: bytes) -> Control:
    id_, stream, epoch, track, first, stop, size, newest_first = _take(fields, 8)
    pull = Pull(
        number(id_),
        _stream(stream),
        number(epoch),
        number(track, MAX_TRACK),
        number(first),
        number(stop),
        number(size, MAX_PULL),
        newest_first is True,
    )
    if pull.first >= pull.stop:
        raise FormatError("bus: a pull of nothing")
    return pull


def _records(fields: list[Any], data: bytes) -> Control:
    id_, stream, epoch, term, rows = _take(fields, 5)
    items = items_of(rows, data)
    for before, item in pairwise(items):
        if item.track != before.track or item.record.seq != before.record.seq + 1:
            raise FormatError("bus: pulled records are not one run")
    return Records(number(id_), _stream(stream), number(epoch), number(term), items)


def _gone(fields: list[Any], _: bytes) -> Control:
    id_, stream, epoch, track, oldest = _take(fields, 5)
    return Gone(
        number(id_), _stream(stream), number(epoch), number(track, MAX_TRACK), number(oldest)
    )


def _ping(fields: list[Any], _: bytes) -> Control:
    (sent,) = _take(fields, 1)
    return Ping(number(sent))


def _pong(fields: list[Any], _: bytes) -> Control:
    (sent,) = _take(fields, 1)
    return Pong(number(sent))


def _take(fields: list[Any], count: int) -> list[Any]:
    if len(fields) != count:
        raise FormatError("bus: a control message has the wrong number of fields")
    return fields


def _stream(value: Any) -> str:
    return check_name(text(value))


_DECODERS: dict[str, tuple[int, Callable[[list[Any], bytes], Control]]] = {
    "hello": (1, _hello),
    "join": (1, _join),
    "joined": (2, _joined),
    "absent": (1, _absent),
    "pull": (1, _pull),
    "records": (2, _records),
    "gone": (1, _gone),
    "ping": (1, _ping),
    "pong": (1, _pong),
}
