"""The access log: one JSON line for each viewer's visit that has ended, with its totals.

``docs/reference/logs.md`` has the format. Several processes append to the same file: each line is
one write, and lines are short enough that no other gets between. A file that was moved away or
removed is opened anew, so logrotate needs to tell nobody.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from common.runtime.logs import Limited, Log, redact

LOOK = 1.0
"""Seconds between two looks whether the file is still the one that is open."""

MOST = 1000
"""Lines a second that a process writes into the access log. What is more is counted in the next
line."""

MODE = 0o640

log = Log("access")
limited = Limited(log, 60.0)


class AccessLog:
    """One file; nothing of it ever fails a viewer."""

    def __init__(
        self,
        path: str,
        node: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._node = node
        self._clock = clock
        self._wall = wall
        self._fd = -1
        self._looked = float("-inf")
        self._second = 0
        self._count = 0
        self._left_out = 0

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line; ``time`` and ``node`` are put before what is given."""
        now = self._clock()
        if int(now) != self._second:
            self._second, self._count = int(now), 0
        self._count += 1
        if self._count > MOST:
            self._left_out += 1
            return
        at = self._wall()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"
        told: dict[str, Any] = {"time": stamp, "node": self._node}
        told |= {k: redact(v) if isinstance(v, str) else v for k, v in entry.items()}
        if self._left_out:
            told["left_out"] = self._left_out
        try:
            self._look(now)
            os.write(self._fd, json.dumps(told).encode() + b"\n")
            self._left_out = 0
        except OSError as error:
            self.close()
            self._left_out += 1
            limited.warning("access log not written", extra={"error": str(error)})

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _look(self, now: float) -> None:
        """Open the file, or open it anew if it is another one by now."""
        if self._fd >= 0 and now - self._looked < LOOK:
            return
        self._looked = now
        if self._fd >= 0 and not self._same():
            self.close()
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, MODE)

    def _same(self) -> bool:
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))
