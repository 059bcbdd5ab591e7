"""What serving costs: the figures that ``headwater size`` reckons with, each with its source.

CPU is microseconds of one core of an AMD EPYC "Genoa" at 2.6 GHz, otherwise idle. On another
machine ``headwater bench`` measures a few loops, and :func:`read` scales the first figures by what
these loops take there and here (``LOOPS``).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from common.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Figures:
    """Costs of one machine; CPU in microseconds of a core, memory in bytes."""

    write: float = 16.8
    """CPU of one write to the socket of one viewer, apart from its bytes."""

    megabit: float = 17.3
    """CPU of sending a megabit to a viewer in such writes."""

    request: float = 13.0
    """CPU of one request for a playlist, part or segment, apart from the bytes of the answer."""

    megabit_answered: float = 32.0
    """CPU of sending a megabit as the answer to a request."""

    megabit_packaged: float = 75.0
    """CPU of making parts and segments out of a megabit of pages; once a process, not a viewer."""

    record: float = 65.0
    """CPU of passing one frame through the bus into the pages, at either end."""

    tls_write: float = 5.5
    """What a write costs more over TLS."""

    tls_request: float = 10.0
    """What a request costs more over TLS."""

    tls_megabit: float = 51.0
    """What sending a megabit costs more over TLS."""

    process: float = 70e6
    """Memory of a process of a node before it has streams or viewers."""

    viewer_push: float = 17_500.0
    """Memory of a viewer who is sent a stream over one connection."""

    viewer_request: float = 14_000.0
    """Memory of a viewer who fetches playlists and segments."""

    viewer_tls: float = 287_000.0
    """What a viewer's connection takes more over TLS."""

    framing: float = 1.055
    """Bits on the wire for each bit of media sent: TCP, IP and Ethernet."""


SOURCES = {
    "write": "docs/performance.md: a viewer takes 2.6 times the CPU of a loop in C, which takes "
    "220 us a second for 4 Mbit/s and 30 writes",
    "megabit": "likewise; a bare loop of asyncio splits its time in this proportion",
    "request": "docs/performance.md: 83 % of the requests per CPU of nginx, which takes 11 us",
    "megabit_answered": "likewise: 54 % of nginx's 12.7 us for 40 kB, 43 % of its 120 us for 1 MB",
    "megabit_packaged": "parts of a stream of 4 Mbit/s, with their tags: `headwater bench`",
    "record": "4 Mbit/s and AAC over TCP on loopback: 50 to 80 us at the edge, 68 to 100 at the "
    "origin",
    "tls_write": "difference of TLS 1.3, AES-GCM, to plain TCP in the same loop",
    "tls_request": "likewise",
    "tls_megabit": "likewise, answers of 1 MB",
    "process": "resident memory of the processes of `headwater demo`",
    "viewer_push": "user memory 14 kB of a WebSocket's viewer, kernel 3.5 kB",
    "viewer_request": "user memory 10 kB of a keep-alive connection, kernel 3.5 kB",
    "viewer_tls": "asyncio's TLS keeps a buffer of 256 kB for each connection; 43 kB with uvloop",
    "framing": "1538 bytes of Ethernet carry 1460 of TCP",
}
"""Where each figure comes from."""

IN_FLIGHT = 0.1
"""Seconds of media that are on their way to a viewer and wait for an acknowledgement."""

LOOPS = {
    "write": 8.3,
    "megabit": 8.6,
    "request": 85.0,
    "megabit_answered": 13.8,
    "megabit_packaged": 75.0,
}
"""What the loops of ``headwater bench`` take on the machine of the figures: bare writes, answers of
aiohttp from memory, parts with their tags. The last three are scaled from a run in which other work
made everything twice as dear."""


def read(text: str | bytes) -> Figures:
    """Return the figures, some of them replaced by those of a calibration (JSON).

    Raises:
        ConfigError: If it is no calibration.
    """
    try:
        tree = msgspec.json.decode(text)
        return scaled(tree["figures"])
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ConfigError("figures", "not a file that headwater bench wrote") from error


def scaled(measured: dict[str, Any]) -> Figures:
    """Return the figures of a machine on which the loops take what was measured.

    Raises:
        ConfigError: If one is unknown or no positive number.
    """
    for name, value in measured.items():
        if name not in LOOPS:
            raise ConfigError(f"figures.{name}", "no such figure")
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError(f"figures.{name}", "must be a number above 0")
    here = Figures()
    times = {name: value / LOOPS[name] for name, value in measured.items()}
    return replace(here, **{name: getattr(here, name) * by for name, by in times.items()})
