"""What an edge says of its load twice a second, as a two-frame message of a PUB socket.

Frame 1, the topic: ``b"G" + node + b"\\0"``. Frame 2, a msgpack array, version first::

    [1, node, boot, seq, unix_ms, bw_out_bps, sessions, cpu, mem, flags,
     accepted_total, refused_total, [stream, ...]]

``boot`` is the Unix microsecond at which the supervisor started and ``seq`` counts its reports:
together they order reports, whatever the clocks do. ``cpu`` is the share of a core that the
edge's busiest process uses, ``mem`` the share of the machine's memory that is not available.
Bit 0 of ``flags`` says that the node drains. A reader ignores what follows the known fields, so
that a later version may add some.
"""

from dataclasses import dataclass
from typing import Any

import msgpack

from common.errors import FormatError

TOPIC = b"G"
VERSION = 1
FIELDS = 13

FLAG_DRAIN = 1

MAX_GOSSIP = 256 * 1024
"""Bytes of a report."""

MAX_STREAMS = 4096
"""Streams in a report; an edge that carries more names the first ones."""

MAX_NAME = 255
"""Bytes of a node's or a stream's name."""


@dataclass(frozen=True, slots=True)
class Gossip:
    """One report of one edge."""

    node: str
    boot: int
    """Unix microseconds when the edge started; a higher one is a restart."""

    sequence: int
    unix_ms: int
    bandwidth: float
    """Bits a second going out to viewers."""

    sessions: int
    cpu: float
    """0 to 1 of a core: the busiest process of the edge."""

    memory: float
    """0 to 1."""

    draining: bool = False
    accepted: int = 0
    """Sessions opened since boot."""

    refused: int = 0
    """Viewers turned away since boot because the edge was full."""

    streams: tuple[str, ...] = ()
    """Streams this edge carries now."""


def encode_gossip(report: Gossip) -> list[bytes]:
    """Return the two frames of a report."""
    body: bytes = msgpack.packb(
        [
            VERSION,
            report.node,
            report.boot,
            report.sequence,
            report.unix_ms,
            float(report.bandwidth),
            report.sessions,
            float(report.cpu),
            float(report.memory),
            FLAG_DRAIN if report.draining else 0,
            report.accepted,
            report.refused,
            list(report.streams[:MAX_STREAMS]),
        ]
    )
    return [TOPIC + report.node.encode() + b"\0", body]


def decode_gossip(parts: list[bytes]) -> Gossip:
    """Read a report from the frames of a message.

    Raises:
        FormatError: If it is no report, of a version we do not know, or exceeds a limit.
    """
    if len(parts) != 2 or not parts[0].startswith(TOPIC):
        raise FormatError("gossip: not a topic and a body")
    items = _unpack(parts[1])
    match items[:FIELDS]:
        case [
            int(version),
            str(node),
            int(boot),
            int(sequence),
            int(unix_ms),
            int() | float() as bandwidth,
            int(sessions),
            int() | float() as cpu,
            int() | float() as memory,
            int(flags),
            int(accepted),
            int(refused),
            list(streams),
        ]:
            pass
        case _:
            raise FormatError("gossip: not a report")
    if version != VERSION:
        raise FormatError(f"gossip: version {version}")
    if parts[0] != TOPIC + node.encode() + b"\0" or not 0 < len(node.encode()) <= MAX_NAME:
        raise FormatError("gossip: the topic names another node")
    if not all(0 <= value < 2**63 for value in (boot, sequence, unix_ms, bandwidth, sessions)):
        raise FormatError("gossip: a number is out of range")
    if not (0 <= accepted < 2**63 and 0 <= refused < 2**63):
        raise FormatError("gossip: a number is out of range")
    if not (0 <= cpu <= 1 and 0 <= memory <= 1):
        raise FormatError("gossip: a share is not between 0 and 1")
    if not all(isinstance(stream, str) for stream in streams):
        raise FormatError("gossip: a stream is not named by a text")
    return Gossip(
        node, boot, sequence, unix_ms, float(bandwidth), sessions, float(cpu), float(memory),
        bool(flags & FLAG_DRAIN), accepted, refused, tuple(streams),
    )  # fmt: skip


def _unpack(data: bytes) -> list[Any]:
    if len(data) > MAX_GOSSIP:
        raise FormatError("gossip: too large")
    try:
        items = msgpack.unpackb(
            data, max_array_len=MAX_STREAMS, max_map_len=0, max_str_len=MAX_NAME, max_ext_len=0
        )
    except (ValueError, msgpack.UnpackException, OverflowError) as error:
        raise FormatError(f"gossip: not msgpack: {error}") from error
    if not isinstance(items, list):
        raise FormatError("gossip: not an array")
    return items
