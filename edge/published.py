"""What outputs have finished: answers for many viewers, and what such answers are waited for with.

The contract between an output and the bypass (``edge/bypass.py``). An output that says through
:meth:`edge.output.Output.published` what a target stands for has it answered without a request
object, a task or a response of its own. What it says must be what its handler would answer.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE

if TYPE_CHECKING:
    from edge.http import Connection

DATED = 1.0
"""Seconds for which a header block is used before its Date is written anew."""

JOINED = 16 * 1024
"""Bytes of a body up to which header and body are kept as one: one write, and little memory."""


class Reply(ABC):
    """A finished answer: 200, and the same bytes for all who ask in the same way.

    Outputs say in a subclass, by :meth:`current`, how long it holds.
    """

    __slots__ = ("_after", "_before", "_dated", "_head", "_whole", "body", "on_sent", "protocol",
                 "size", "stream")  # fmt: skip

    def __init__(self, stream: str, protocol: str, headers: Mapping[str, str], body: bytes) -> None:
        """``headers`` are those that the handler would give, in its order."""
        self.stream = stream
        self.protocol = protocol
        self.body = body
        self.size = len(body)
        self.on_sent: Callable[[int], None] | None = None
        """Called with the number of viewers that it was just written to."""

        # The order and the two lines are aiohttp's; a test compares.
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        length = f"Content-Length: {len(body)}\r\n"
        self._before = f"HTTP/1.1 200 OK\r\n{''.join(lines)}{length}Date: ".encode()
        self._after = f"\r\nServer: {SERVER_SOFTWARE}\r\n\r\n".encode()
        self._dated = float("-inf")
        self._head = self._whole = b""

    @abstractmethod
    def current(self, now: float) -> bool:
        """Return whether this still is the answer, at ``now`` on the loop's clock."""

    def write(self, transport: asyncio.Transport | None, now: float) -> None:
        """Write it to one viewer, who has not left."""
        assert transport is not None
        if now >= self._dated:
            self._date(now)
        if self._whole:
            transport.write(self._whole)
        else:
            transport.writelines((self._head, self.body))

    def _date(self, now: float) -> None:
        self._dated = now + DATED
        self._head = b"".join((self._before, formatdate(usegmt=True).encode(), self._after))
        if self.size <= JOINED:
            self._whole = self._head + self.body


class Waiting:
    """What connections wait for together: one future, and an answer that is made of it once."""

    __slots__ = ("finish", "future", "leave", "members", "protocol", "stream", "timeout", "timer")

    def __init__(
        self,
        stream: str,
        protocol: str,
        future: "asyncio.Future[object]",
        finish: Callable[[Any], Reply | None],
        leave: Callable[[], None],
        timeout: float,
    ) -> None:
        """``finish`` makes the answer of the future's result; None: leave it to the handler.

        ``leave`` is called when nobody waits any more; ``timeout``: seconds that each may wait.
        """
        self.stream = stream
        self.protocol = protocol
        self.future = future
        self.finish = finish
        self.leave = leave
        self.timeout = timeout
        self.members: dict[Connection, float] = {}
        """Who waits, in the order of coming, and since when on the loop's clock."""
        self.timer: asyncio.TimerHandle | None = None

    def current(self, now: float) -> bool:
        """Return whether one may still join."""
        return not self.future.done() and bool(self.members)

    def close(self) -> None:
        """Wait no more; a second call does nothing."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        leave, self.leave = self.leave, _nothing
        leave()


def _nothing() -> None:
    pass


Published = Reply | Waiting


def waited(request: web.BaseRequest) -> float:
    """Return for how many seconds a request had been parked before its handler got it."""
    return float(getattr(request.protocol, "waited", 0.0))
