"""What a nursery of the tests forks: a child that says what it found, and ends as it is told."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

LOADED = time.monotonic()
"""When this module was loaded, by a clock that all processes share."""


def born(text: str, fds: Sequence[int]) -> int:
    """Write into the first descriptor what this process is; ``text`` is its exit code.

    With the text ``stay`` it stays until the second descriptor is closed, with ``fail`` it fails.
    """
    line = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    said = f"{os.getpid()} {os.getppid()} {os.getsid(0)} {LOADED} {line[-1].decode()}"
    os.write(fds[0], said.encode())
    if text == "fail":
        raise LookupError("as it was told")
    if text == "stay":
        os.read(fds[1], 1)
        return 0
    return int(text)
