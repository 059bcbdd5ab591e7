"""What an origin publishes: three frames a message, ``topic header payloads`` (DESIGN 4.3).

The topic is ``kind stream NUL``; the NUL keeps a subscription to ``live+a`` from matching
``live+ab``. The header is a msgpack array that starts with the version. Kinds: ``M`` media,
``C`` catalog, ``H`` heartbeat of one stream, ``N`` heartbeat of the node (no stream).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgpack

from common.errors import FormatError
from common.names import MAX_NAME, check_name
from common.track.catalog import Catalog
from common.wire.media import (
    VERSION,
    Item,
    items_of,
    number,
    numbers_by_track,
    rows_of,
    text,
    unpack,
)

MEDIA = b"M"
CATALOG = b"C"
HEARTBEAT = b"H"
NODE = b"N"
STREAM_KINDS = (MEDIA, CATALOG, HEARTBEAT)
NODE_TOPIC = NODE + b"\0"
MAX_TOPIC = 1 + MAX_NAME + 1
"""Bytes of a topic: its kind, a stream, NUL. A longer one is a FormatError: the message is
dropped."""

HEARTBEAT_US = 250_000
"""How often heads are told: no gap stays unseen for longer."""


@dataclass(slots=True)
class Media:
    """Frames as they come from the publisher; audio rides with video."""

    stream: str
    epoch: int
    term: int
    items: list[Item]


@dataclass(slots=True)
class CatalogChange:
    """A new version of a stream's catalog."""

    stream: str
    catalog: Catalog


@dataclass(slots=True)
class Heartbeat:
    """Where a stream is: finds what was lost at the tail."""

    stream: str
    epoch: int
    term: int
    catalog_version: int
    heads: dict[int, int]
    """Track -> next seq, counting only what has been sent."""

    oldest: dict[int, int]
    """Track -> oldest seq that can still be pulled."""


@dataclass(slots=True)
class NodeHeartbeat:
    """The node is there, whatever its streams do."""

    node: str
    sent_us: int
    """Unix microseconds."""


BusMessage = Media | CatalogChange | Heartbeat | NodeHeartbeat


def topic(kind: bytes, stream: str) -> bytes:
    """Return the topic of one kind of message about ``stream``."""
    return kind + stream.encode() + b"\0"


def parse_topic(data: bytes) -> tuple[bytes, str]:
    """Return kind and stream of a topic; the stream of a node heartbeat is empty.

    Raises:
        FormatError: If no node publishes under such a topic.
    """
    if len(data) > MAX_TOPIC:
        raise FormatError("bus: topic too long")
    return _parse_topic(data)


@lru_cache(maxsize=8192)
def _parse_topic(data: bytes) -> tuple[bytes, str]:
    if data == NODE_TOPIC:
        return NODE, ""
    kind = data[:1]
    if kind not in STREAM_KINDS or data[-1:] != b"\0":
        raise FormatError("bus: no such topic")
    try:
        return kind, check_name(data[1:-1].decode("ascii"))
    except UnicodeDecodeError as error:
        raise FormatError("bus: a stream name is not ASCII") from error


_pack = msgpack.Packer(autoreset=True).pack


def encode_media(stream: str, epoch: int, term: int, items: Sequence[Item]) -> list[bytes]:
    """Return the frames that carry ``items``: at most ``MAX_ROWS``, payloads ``MAX_PAYLOAD``."""
    payload = items[0].payload if len(items) == 1 else b"".join([item.payload for item in items])
    return [topic(MEDIA, stream), _pack([VERSION, epoch, term, rows_of(items)]), payload]


def encode_catalog(catalog: Catalog) -> list[bytes]:
    """Return the frames that announce ``catalog``."""
    header = _pack([VERSION, catalog.epoch, catalog.term, catalog.version])
    return [topic(CATALOG, catalog.stream), header, catalog.encode()]


def encode_heartbeat(
    catalog: Catalog, heads: Mapping[int, int], oldest: Mapping[int, int]
) -> list[bytes]:
    """Return the frames of a stream's heartbeat."""
    header = [VERSION, catalog.epoch, catalog.term, catalog.version, dict(heads), dict(oldest)]
    return [topic(HEARTBEAT, catalog.stream), _pack(header), b""]


def encode_node(node: str, sent_us: int) -> list[bytes]:
    """Return the frames of a node's heartbeat."""
    return [NODE_TOPIC, _pack([VERSION, node, sent_us]), b""]


def decode_bus(frames: Sequence[bytes]) -> BusMessage:
    """Read one message that an origin published.

    Raises:
        FormatError: If it is not one, is of another version, or exceeds a limit.
    """
    if len(frames) != 3:
        raise FormatError("bus: a message has three frames")
    kind, stream = parse_topic(frames[0])
    fields = unpack(frames[1])
    match kind, fields:
        case b"M", [epoch, term, rows]:
            return Media(stream, number(epoch), number(term), items_of(rows, frames[2]))
        case b"C", [epoch, term, version]:
            return CatalogChange(stream, _catalog(stream, frames[2], epoch, term, version))
        case b"H", [epoch, term, version, heads, oldest]:
            return Heartbeat(
                stream,
                number(epoch),
                number(term),
                number(version),
                numbers_by_track(heads),
                numbers_by_track(oldest),
            )
        case b"N", [node, sent_us]:
            return NodeHeartbeat(text(node), number(sent_us))
        case _:
            raise FormatError("bus: header does not fit its topic")


def _catalog(stream: str, data: bytes, epoch: object, term: object, version: object) -> Catalog:
    catalog = decode_catalog(data, stream)
    if (catalog.epoch, catalog.term, catalog.version) != (epoch, term, version):
        raise FormatError("bus: a catalog contradicts its header")
    return catalog


def decode_catalog(data: bytes, stream: str) -> Catalog:
    """Read a catalog that came with a message about ``stream``.

    Raises:
        FormatError: If it is not one, or another stream's.
    """
    catalog = Catalog.decode(data)
    if catalog.stream != stream:
        raise FormatError("bus: a catalog is another stream's")
    for value in (catalog.epoch, catalog.term, catalog.version):
        number(value)
    return catalog
