"""A child process of the supervisor, started again whenever it ends, and what it last reported."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from common.runtime import metrics
from common.runtime.control import Channel, pair
from common.runtime.logs import Log
from common.runtime.tasks import Backoff, Running, stop_child
from common.runtime.tasks import ended as wait_for_end

log = Log("edge.supervisor")

Spawn = Callable[[socket.socket], Awaitable[Running]]
"""Starts the process; the socket is its end of the control channel."""

FIRST_DELAY = 0.05
"""Seconds before a child that died for the first time is started again."""

LONGEST_DELAY = 5.0
GRACE = 0.8
"""Seconds that a child has to end by itself when told to."""

HANG_GRACE = 0.2
"""Seconds for a child that closed its channel and yet runs on."""


@dataclass(slots=True)
class Report:
    """The last report of a child, and the one before it."""

    at: float = 0.0
    sessions: int = 0
    bytes: int = 0
    opened: int = 0
    refused: int = 0
    cpu: float = 0.0
    bits_per_second: float = 0.0
    pages: int = 0
    """Bytes of pages that it holds."""

    streams: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Viewers and bits a second of each stream."""


class Child:
    """One child process that is started again whenever it ends."""

    def __init__(self, name: str, kind: str, spawn: Spawn | None, wake: int = -1) -> None:
        """``spawn`` is None for a child of an earlier image, which is not started again."""
        self.name = name
        self.kind = kind
        self.wake = wake
        """The eventfd of a viewer process."""

        self.process: Running | None = None
        self.channel: Channel | None = None
        self.ready = False
        self.wants: frozenset[str] = frozenset()
        self.forgot = False
        """It was started again: it wants what it wanted, and knows no states."""

        self.report = Report()
        self.waiting = asyncio.Event()
        """It waits for its predecessor to let go."""

        self.silent = 0
        """Seconds, as this process got them, since it last said something; while it is ready."""

        self.released = asyncio.Event()
        """It writes no more; set also when it has ended."""

        self._spawn = spawn

    @property
    def inherited(self) -> bool:
        """Whether an earlier image of the supervisor started it."""
        return self._spawn is None

    @property
    def pid(self) -> int:
        """Its process id, 0 while it does not run."""
        return self.process.pid if self.process and self.process.returncode is None else 0

    def send(self, message: dict[str, Any]) -> None:
        """Tell the child something; nothing happens while it does not run."""
        if self.channel is not None:
            self.channel.send(message)

    async def run(
        self, heard: Callable[["Child", dict[str, Any]], None], ended: Callable[["Child"], None]
    ) -> None:
        """Keep it running until cancelled; stop it then."""
        backoff = Backoff(FIRST_DELAY, LONGEST_DELAY)
        try:
            while True:
                await self._start()
                assert self.channel is not None
                async for message in self.channel:
                    self.silent = 0
                    heard(self, message)
                code = await self._reap(GRACE if self.inherited else HANG_GRACE)
                self.ready = False
                self.silent = 0
                self.waiting.clear()
                self.released.set()
                ended(self)
                if self.inherited:
                    log.info("child left", extra={"child": self.name, "code": code})
                    return
                log.warning("child ended", extra={"child": self.name, "code": code})
                metrics.CHILD_RESTARTS.labels(kind=self.kind).inc()
                await backoff.wait()
        finally:
            self.send({"t": "stop"})
            await self._reap(GRACE, told=True)

    async def _start(self) -> None:
        if self._spawn is None:
            return  # it runs, and has its channel
        ours, theirs = pair()
        try:
            self.process = await self._spawn(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.channel = Channel(ours)
        log.info("child started", extra={"child": self.name, "pid": self.process.pid})

    async def _reap(self, grace: float, told: bool = False) -> int:
        """Wait for its end, which it was told of; help after ``grace`` seconds."""
        if self.process is None:
            return 0
        try:
            async with asyncio.timeout(grace):
                return await wait_for_end(self.process)
        except TimeoutError:
            return await stop_child(self.process, HANG_GRACE)
        finally:
            if self.channel is not None:
                self.channel.close()
                self.channel = None
