"""Wake another process: an eventfd that one side rings and the other waits for.

Rings that come before the reader looks are one ring: it then looks at everything anyhow.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable


def create() -> int:
    """Return a new eventfd; its owner closes it with :func:`os.close`."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def ring(fd: int) -> None:
    """Wake whoever reads ``fd``; never waits."""
    with contextlib.suppress(BlockingIOError):  # 2**64 - 2 rings unread: it is awake anyhow
        os.eventfd_write(fd, 1)


class Wake:
    """The reading side, in the running event loop."""

    def __init__(self, fd: int, callback: Callable[[], None] | None = None) -> None:
        """Call ``callback`` once for each burst of rings, as long as this is not closed."""
        self._fd = fd
        self._callback = callback
        self._rung = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for a ring since the last wait; return False after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True

    def close(self) -> None:
        """Stop listening; the fd stays open, it belongs to whoever created it."""
        self._loop.remove_reader(self._fd)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        self._rung.set()
        if self._callback is not None:
            self._callback()
