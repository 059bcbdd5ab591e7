"""When a viewer process looks for cyclic garbage: at set times, never in the middle of a wake.

A collection of everything stops a process with thousands of viewers for tens of milliseconds, and
finds next to nothing: sessions, connections and answers go with their last reference. So the
collector's oldest generation is left to this module. Each minute, what has come since is looked
through once and then set aside (``gc.freeze``); what was set aside is looked through too, once in
a long while, when the process has little to do.
"""

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable

from common.runtime.logs import Log

log = Log("edge.memory")

SHORT = 60.0
"""Seconds between two looks at what has come."""

LONG = 3600.0
"""Seconds between two looks at everything."""

CALM = 0.3
"""Share of a core up to which the process has time for that."""

OVERDUE = 6 * LONG
"""Seconds after which it has to find the time."""

GEN2_NEVER = 1_000_000
"""Collections of the middle generation before the interpreter looks at the oldest by itself."""


def trim() -> None:
    """Give memory that was freed back to the machine, where the C library can."""
    with contextlib.suppress(AttributeError):  # another library than glibc
        ctypes.CDLL(None).malloc_trim(0)


class Collector:
    """The collector's timetable."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._short = self._long = clock()

    def settle(self) -> None:
        """Set aside what lives as long as the process; call it once that is there."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(700, 10, GEN2_NEVER)
        self._short = self._long = self._clock()

    def tick(self, load: float) -> None:
        """Do what is due; ``load`` is the share of a core in use. Call it every second."""
        now = self._clock()
        if now - self._short < SHORT:
            return
        self._short = now
        since = now - self._long
        whole = since > OVERDUE or (since > LONG and load < CALM)
        if whole:
            gc.unfreeze()
            self._long = now
        found = gc.collect()
        gc.freeze()
        took = self._clock() - now
        if whole:
            log.info("memory looked through", extra={"objects": found, "seconds": round(took, 3)})
