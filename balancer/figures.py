"""What serving costs: the figures that ``headwater size`` reckons with, each with its source.

CPU is microseconds of one core of an AMD EPYC "Genoa" at 2.6 GHz. ``headwater bench`` measures the
first ones anew on another machine; :func:`read` takes what it wrote.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec

from common.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Figures:
    """Costs of one machine; CPU in microseconds of a core, memory in bytes."""

    write: float = 8.3
    """CPU of one write to the socket of one viewer, apart from its bytes."""

    megabit: float = 8.6
    """CPU of sending a megabit to a viewer in such writes."""

    request: float = 85.0
    """CPU of one request for a playlist, part or segment, apart from the bytes of the answer."""

    megabit_answered: float = 13.8
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
    "write": "send loop of a viewer process, 30 writes a second of 4 Mbit/s; `headwater bench`",
    "megabit": "likewise",
    "request": "answers of the edge's HTTP server from memory, keep-alive; `headwater bench` "
    "said 157 where other work made a write cost 16.3 instead of 8.3; so scaled",
    "megabit_answered": "answers of 1 kB to 1 MB; `headwater bench`",
    "megabit_packaged": "parts of a stream of 4 Mbit/s, with their tags; `headwater bench` said "
    "144, scaled likewise",
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

MEASURED = ("write", "megabit", "request", "megabit_answered", "megabit_packaged")
"""The figures that ``headwater bench`` measures."""


def read(text: str | bytes) -> Figures:
    """Return the figures, some of them replaced by those of a calibration (JSON).

    Raises:
        ConfigError: If it is no calibration.
    """
    try:
        tree = msgspec.json.decode(text)
        return build(tree["figures"])
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ConfigError("figures", "not a file that headwater bench wrote") from error


def build(given: dict[str, Any]) -> Figures:
    """Return the figures with some of them changed.

    Raises:
        ConfigError: If one is unknown or no positive number.
    """
    known = {field.name for field in fields(Figures)}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"figures.{name}", "no such figure")
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError(f"figures.{name}", "must be a number above 0")
    return replace(Figures(), **{name: float(value) for name, value in given.items()})
