"""An event loop whose time jumps to the next timer: a simulated minute takes a second.

What runs on it is unchanged asyncio code. There are no threads and no descriptors; sockets have
made-up numbers, and whoever has something for one says :meth:`VirtualLoop.ready`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any

Dial = Callable[[str, int], Awaitable[None]]


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs until there is nothing to do, without ever waiting."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self
        self.readers: dict[int, tuple[Callable[[], object], Context]] = {}
        self.dial: Dial | None = None
        """Opens a TCP connection, or raises what the kernel would."""

    def time(self) -> float:
        """Return simulated seconds."""
        return self._now

    def select(self, timeout: float | None) -> list[object]:
        """Let time pass."""
        if timeout is None:
            raise RuntimeError(f"nothing is due after {self._now:.3f} s: somebody waits for ever")
        self._now += max(0.0, timeout)
        return []

    def _process_events(self, event_list: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else could call."""

    def run_in_executor(self, *_: object) -> Any:
        """Refuse: what a thread does cannot be repeated."""
        raise RuntimeError("no threads in a simulation")

    def add_reader(self, fd: int, callback: Callable[[], object], *_: Any) -> None:  # type: ignore[override]
        """Call back whenever a socket is ready."""
        self.readers[fd] = (callback, copy_context())

    def remove_reader(self, fd: int) -> bool:  # type: ignore[override]
        """Call back no more."""
        return self.readers.pop(fd, None) is not None

    def ready(self, fd: int) -> None:
        """Wake the reader of a socket."""
        found = self.readers.get(fd)
        if found is not None:
            self.call_soon(self._read, fd, context=found[1])

    def _read(self, fd: int) -> None:
        found = self.readers.get(fd)
        if found is not None:
            found[0]()

    async def create_connection(self, factory: Any, host: str, port: int, **_: Any) -> Any:  # type: ignore[override]
        """Connect as far as it takes to know that somebody listens."""
        assert self.dial is not None
        await self.dial(host, port)
        protocol = factory()
        transport = _Opened()
        protocol.connection_made(transport)
        return transport, protocol

    def pending(self) -> list[str]:
        """Return what is still to be called."""
        timers = [handle for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        return [repr(handle) for handle in timers] + [f"reader {fd}" for fd in self.readers]


class _Opened(asyncio.Transport):
    """A connection that is only looked at."""

    def is_closing(self) -> bool:
        return True

    def abort(self) -> None:
        """It is of no further use."""

    def close(self) -> None:
        """It is of no further use."""
