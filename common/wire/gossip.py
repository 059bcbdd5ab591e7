"""What a node says of its load twice a second, as a two-frame message of a PUB socket.

Frame 1, the topic: ``b"G" + node + b"\\0"``. Frame 2, a msgpack array, version first::

    [1, node, boot, seq, unix_ms, bw_out_bps, sessions, cpu, mem, flags,
     accepted_total, refused_total, [stream, ...], [viewers, ...], [bps, ...], restart_s]

``boot`` is the Unix microsecond at which the node started and ``seq`` counts its reports:
together they order reports, whatever the clocks do. ``cpu`` is the share of a core that the
node's busiest process uses, ``mem`` the share of the machine's memory that is not available.
Bit 0 of ``flags`` says that the node drains. The last two arrays say how many viewers each stream
has and what they get; they follow the order of the streams and may be shorter. ``restart_s`` is
not 0 in the last reports before a restart in place: for so many seconds the node may be silent
while its old processes serve. Arrays and ``restart_s`` may be missing. A reader ignores what
follows the known fields, so that a later version may add some.

Edges, origins (sessions are publishers, bandwidth is what they take in) and balancers (a beacon:
they only say that they are there) use the same form.
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
"""Bytes of a report. A longer one is a FormatError, and ignored."""

MAX_STREAMS = 4096
"""Streams in a report. A node that carries more names the first ones."""

MAX_STREAM_BYTES = MAX_GOSSIP - 8192
"""Bytes that the streams of a report may take. Of more, the first ones are named."""

STREAM_FIGURES = 21
"""Bytes, at most, that a stream takes besides its name."""

MAX_NAME = 255
"""Bytes of a node's or a stream's name. A report with a longer one is ignored."""

CPU_FULL = 0.85
"""Share of a core from which a process is full."""

MEMORY_FULL = 0.9
"""Share of the machine's memory from which a node is full."""


@dataclass(frozen=True, slots=True)
class Gossip:
    """One report of one node."""

    node: str
    boot: int
    """Unix microseconds when the node started; a higher one is a restart."""

    sequence: int
    unix_ms: int
    bandwidth: float
    """Bits a second going out to viewers."""

    sessions: int
    cpu: float
    """0 to 1 of a core: the busiest process of the node."""

    memory: float
    """0 to 1."""

    draining: bool = False
    accepted: int = 0
    """Sessions opened since boot."""

    refused: int = 0
    """Viewers turned away since boot because the edge was full."""

    streams: tuple[str, ...] = ()
    """Streams this node carries now."""

    viewers: tuple[int, ...] = ()
    """Viewers of each of the streams, in their order; as far as it is known."""

    bits: tuple[float, ...] = ()
    """Bits a second that the viewers of each of the streams get."""

    restarting: float = 0.0
    """Seconds from now for which its silence means nothing: it restarts, and serves meanwhile."""


def fullness(
    bandwidth: float, sessions: float, cpu: float, memory: float, most: tuple[float, float]
) -> float:
    """Return how full a node is, 0 to about 1: the fullest of its resources.

    ``most`` is what it can carry: bits a second, and sessions.
    """
    return max(
        bandwidth / max(most[0], 1.0),
        sessions / max(most[1], 1.0),
        cpu / CPU_FULL,
        memory / MEMORY_FULL,
    )


def encode_gossip(report: Gossip) -> list[bytes]:
    """Return the two frames of a report."""
    named = _that_fit(report.streams)
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
            list(report.streams[:named]),
            list(report.viewers[:named]),
            [float(bits) for bits in report.bits[:named]],
            float(report.restarting),
        ]
    )
    return [TOPIC + report.node.encode() + b"\0", body]


def _that_fit(streams: tuple[str, ...]) -> int:
    """Return how many of the streams a report has room for."""
    room = MAX_STREAM_BYTES
    for number, stream in enumerate(streams[:MAX_STREAMS]):
        room -= len(stream.encode()) + STREAM_FIGURES
        if room < 0:
            return number
    return min(len(streams), MAX_STREAMS)


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
    viewers, bits = _figures(items[FIELDS:], len(streams))
    return Gossip(
        node, boot, sequence, unix_ms, float(bandwidth), sessions, float(cpu), float(memory),
        bool(flags & FLAG_DRAIN), accepted, refused, tuple(streams), viewers, bits,
        _restarting(items[FIELDS + 2 :]),
    )  # fmt: skip


def _restarting(items: list[Any]) -> float:
    """Return for how long the node may be silent; 0 if it does not say."""
    match items[:1]:
        case []:
            return 0.0
        case [int() | float() as seconds] if 0 <= seconds < 2**63:
            return float(seconds)
        case _:
            raise FormatError("gossip: the time of a restart is not a number")


def _figures(items: list[Any], streams: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the viewers and bits a second of each stream; nothing if they are not there."""
    match items[:2]:
        case [list(viewers), list(bits)]:
            pass
        case [] | [_]:
            return (), ()
        case _:
            raise FormatError("gossip: the figures of the streams are not two arrays")
    if len(viewers) > streams or len(bits) > streams:
        raise FormatError("gossip: figures of a stream that is not named")
    if not all(type(one) is int and 0 <= one < 2**63 for one in viewers):
        raise FormatError("gossip: viewers of a stream are not a number")
    if not all(isinstance(one, int | float) and 0 <= one < 2**63 for one in bits):
        raise FormatError("gossip: bits of a stream are not a number")
    return tuple(viewers), tuple(map(float, bits))


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
