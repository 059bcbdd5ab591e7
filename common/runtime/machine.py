"""What a node has of the machine it runs on, beside its files: clocks, ZeroMQ, connections.

A parameter of everything on the bus, so that whole nodes can run where a
second passes in no time and the network does what a test says, as they run in a process.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from common.runtime.connections import address_of
from common.runtime.registry import now_us


def mono_us() -> int:
    """Return microseconds of a clock that does not jump."""
    return time.monotonic_ns() // 1000


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as a node sees it."""

    mono_us: Callable[[], int] = mono_us
    """Microseconds of a clock that does not jump."""

    wall_us: Callable[[], int] = now_us
    """Unix microseconds."""

    context: "Callable[[int], zmq.Context[zmq.Socket[bytes]]]" = zmq.Context
    """Makes a ZeroMQ context with so many threads."""

    address_of: Callable[[int], str] = address_of
    """Who is at the other end of a descriptor, nothing if it is not connected."""


HERE = Machine()
