"""Tell systemd how this process is (``Type=notify``, sd_notify(3)), and that it lives (watchdog).

Without ``NOTIFY_SOCKET`` in the environment nothing happens. The variables stay there, because a
node that restarts executes itself again under the same process id
(:mod:`common.runtime.restart`): between ``RELOADING=1`` and the next ``READY=1`` systemd shows it
as reloading. Children have another process id than the one that systemd watches, and it listens to
that one alone (``NotifyAccess=main``).
"""

import asyncio
import os
import socket
import time
from collections.abc import Mapping

from common.runtime.logs import Log

log = Log("notify")

SOCKET = "NOTIFY_SOCKET"

PATIENCE = 0.5
"""Seconds that a word may wait where systemd has not read the earlier ones."""


def tell(**words: str | int) -> bool:
    """Send ``NAME=value`` lines to systemd; return whether there was somebody to send them to.

    What cannot be sent is logged: a node does not stop because nobody listens.
    """
    address = os.environ.get(SOCKET, "")
    if not address:
        return False
    text = "\n".join(f"{name}={value}" for name, value in words.items())
    path = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(PATIENCE)
        try:
            sender.sendto(text.encode(), path)
        except OSError as error:
            log.warning("systemd not told", extra={"error": str(error), "words": sorted(words)})
            return False
    return True


def ready(status: str = "") -> None:
    """Say that the service serves, for the first time or again; ``status`` is for people."""
    tell(READY=1, STATUS=status or "serving", MAINPID=os.getpid())


def reloading() -> None:
    """Say that the process is about to become its next image, and takes care of itself."""
    usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    tell(RELOADING=1, MONOTONIC_USEC=usec, STATUS="restarting in place", WATCHDOG=1)


def stopping() -> None:
    """Say that the service has begun to stop."""
    tell(STOPPING=1, STATUS="stopping")


def refused(reason: str) -> None:
    """Say why the service goes on as it was."""
    tell(STATUS=f"restart refused: {' '.join(reason.split())[:400]}")


def interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return every how many seconds systemd wants to hear of this process; None if it does not.

    That is half of what it allows (``WatchdogSec``), as sd_watchdog_enabled(3) advises.
    """
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isdecimal() and int(text) > 0 else None


async def watchdog() -> None:
    """Say again and again that the event loop runs, if systemd wants to hear it."""
    every = interval()
    while every is not None:
        tell(WATCHDOG=1)
        await asyncio.sleep(every)
