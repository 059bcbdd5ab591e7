"""A viewer process: serves HTTP on inherited sockets from the pages that the stream worker writes.

Woken by an eventfd, and looking by itself ten times a second, it finds the streams that moved and
tells whoever follows them: the hub, the packager. What it needs of other processes goes through
its supervisor: streams wanted, states, reports.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import Histogram

from common.runtime import metrics
from common.runtime.accesslog import AccessLog
from common.runtime.control import Channel
from common.runtime.http import retire
from common.runtime.logs import Log
from common.runtime.tls import Certificate
from common.runtime.wake import Wake
from edge import child, http
from edge.around import Around
from edge.config import Config
from edge.hub import Hub
from edge.memory import Collector, trim
from edge.mirrors import Mirrors
from edge.moving import KEYFRAME, Mover
from edge.output import ViewerContext, configured
from edge.overload import slowest
from edge.sessions import Sessions

log = Log("edge.viewer")

SCAN = 0.1
"""Seconds between two looks at the board without a wake."""

REPORT = 1.0
"""Seconds between two reports to the supervisor."""


class ViewerProcess:
    """Everything of one viewer process but how it was started."""

    def __init__(
        self,
        config: Config,
        channel: Channel,
        wake_fd: int,
        listeners: Sequence[socket.socket],
        secure: Sequence[socket.socket] = (),
    ) -> None:
        settings = config.edge
        self.sessions = Sessions(idle=settings.idle, most=settings.sessions)
        self.mirrors = Mirrors(Path(config.node.pages), wait=settings.wait, linger=settings.linger)
        self.hub = Hub(self.sessions, slow=settings.slow, stall=settings.stall)
        self.mover = Mover(self.sessions, self.hub, time.monotonic)
        self.context = ViewerContext(
            self.mirrors, self.sessions, self.hub, self.mover, settings, config.node.name
        )
        if config.log.access:
            self.sessions.ended = AccessLog(config.log.access, config.node.name).write
        self.memory = Collector()
        self.on_ready: Callable[[], None] = lambda: None
        self._channel = channel
        self._wake_fd = wake_fd
        self._listeners = listeners
        self._secure = secure
        self._certificate = Certificate(settings.tls, "edge.tls") if secure else None
        self._wanted: list[str] = []
        self._counted = _Counted(self.sessions)
        self._cpu = time.process_time()
        self._runner: web.AppRunner | None = None
        self._retirement: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the supervisor says stop, or is gone."""
        self.mirrors.on_want = self._want
        self.mirrors.on_missing = self._missing
        self.hub.on_skip = _count_skip
        self.sessions.observe = _observe
        self._make_outputs()
        served = self.context.outputs
        app = http.application(served, self.sessions, self.context.settings.believed())
        for output in served.values():
            await output.start()
        wake = Wake(self._wake_fd, self.mirrors.advance)
        settings = self.context.settings
        self._runner = await http.serve(
            app,
            self._listeners,
            self._secure,
            self._certificate,
            crowd=settings.crowd(),
            stall=settings.stall,
        )
        self.on_ready()
        self._channel.send({"t": "ready"})
        try:
            async with asyncio.TaskGroup() as group:  # a job that fails ends the process
                jobs = [group.create_task(job()) for job in (self._scan, self._report)]
                if self._certificate is not None:
                    jobs.append(group.create_task(self._certificate.follow()))
                await self._listen()
                for job in jobs:
                    job.cancel()
        finally:
            wake.close()
            if self._retirement is not None:
                self._retirement.cancel()
            await self._stop()

    def _make_outputs(self) -> None:
        for name, (cls, settings) in configured(self.context.settings.outputs).items():
            self.context.outputs[name] = cls(self.context, settings)

    async def _listen(self) -> None:
        async for message in self._channel:
            match message.get("t"):
                case "state":
                    self.mirrors.state(
                        str(message["stream"]), str(message["state"]), int(message["epoch"])
                    )
                case "retire":
                    self._begin_retirement(float(message["timeout"]))
                case "crowded":
                    self.mover.crowded = bool(message["crowded"])
                case "overload":
                    self.mover.refusing = bool(message["refuse"])
                case "cut":
                    self._cut_slowest()
                case "around":
                    self.mover.look(Around.heard(message))
                case "sessions":
                    listed = self.sessions.listed()
                    self._channel.send({"t": "sessions", "id": message["id"], "list": listed})
                case "stop":
                    return

    def _cut_slowest(self) -> None:
        """Let go of the connections for which most waits: memory is short."""
        assert self._runner is not None
        assert self._runner.server is not None
        held = [
            (transport.get_write_buffer_size(), transport)
            for connection in self._runner.server.connections
            if (transport := connection.transport) is not None
        ]
        if not (found := slowest(held)):
            return
        for _, transport in found:
            if not self.hub.cut(transport, "overload"):
                transport.abort()
                metrics.VIEWERS_CUT.labels(protocol="http", reason="overload").inc()
        freed = sum(size for size, _ in found)
        log.warning("slowest viewers cut", extra={"viewers": len(found), "bytes": freed})
        trim()

    def _want(self) -> None:
        wanted = self.mirrors.wanted(self.sessions.streams())
        self._wanted = wanted
        self._channel.send({"t": "want", "streams": wanted})

    def _missing(self, stream: str, track: int, segment: int) -> None:
        wish = {"t": "segment", "stream": stream, "track": track, "segment": segment}
        self._channel.send(wish)

    def _begin_retirement(self, timeout: float) -> None:
        if self._retirement is None:
            self._retirement = asyncio.create_task(self._retire(timeout), name="retire")

    async def _retire(self, timeout: float) -> None:
        """Leave the place to a successor: accept nobody, serve who is here, and end with them."""
        assert self._runner is not None
        self.mover.retire(timeout)
        await retire(self._runner, timeout + KEYFRAME + 1)
        self._channel.send(self._said(0.0))
        self._channel.close()

    async def _scan(self) -> None:
        loop = asyncio.get_running_loop()
        lag = metrics.LOOP_LAG.labels(kind="viewer")
        while True:
            due = loop.time() + SCAN
            await asyncio.sleep(SCAN)
            lag.set(max(0.0, loop.time() - due))
            self.mirrors.advance()

    async def _report(self) -> None:
        assert self._runner is not None
        assert self._runner.app is not None
        bypass = self._runner.app[http.BYPASS]
        while True:
            before = time.monotonic()
            await asyncio.sleep(REPORT)
            now = time.process_time()
            load = (now - self._cpu) / (time.monotonic() - before)
            self._cpu = now
            self.sessions.sweep()
            self.hub.tick(load)
            bypass.sweep()
            self.memory.tick(load)
            self._counted.update()
            self._want()
            self._channel.send(self._said(load))

    def _said(self, load: float) -> dict[str, Any]:
        return {
            "t": "report",
            "at": time.monotonic(),
            "metrics": metrics.snapshot(),
            "sessions": self.hub.viewers() if self._retirement else len(self.sessions),
            "bytes": self.sessions.bytes.total(),
            "opened": self.sessions.opened.total(),
            "refused": self.sessions.refused.total(),
            "cpu": load,
            "streams": self.sessions.figures(),
        }

    async def _stop(self) -> None:
        """Stop accepting, let the viewers go, and close."""
        runner = self._runner
        if runner is not None:
            for site in list(runner.sites):
                await site.stop()
        self.mover.close()
        self.hub.close()
        for output in self.context.outputs.values():
            await output.close()
        if runner is not None:
            await runner.cleanup()
        self.mirrors.close()


class _Counted:
    """Carries the counters of the sessions over into the metrics."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._bytes: Counter[str] = Counter()
        self._opened: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._protocols: set[str] = set()

    def update(self) -> None:
        now = Counter(session.protocol for session in self._sessions)
        self._protocols |= set(now)
        for protocol in self._protocols:
            metrics.SESSIONS.labels(protocol=protocol).set(now[protocol])
        sessions = self._sessions
        for protocol, size in (sessions.bytes - self._bytes).items():
            metrics.EGRESS_BYTES.labels(protocol=protocol).inc(size)
        for protocol, count in (sessions.opened - self._opened).items():
            metrics.SESSIONS_TOTAL.labels(protocol=protocol).inc(count)
        for protocol, count in (sessions.refused - self._refused).items():
            metrics.SESSIONS_REFUSED.labels(protocol=protocol, reason="full").inc(count)
        self._bytes, self._opened = sessions.bytes.copy(), sessions.opened.copy()
        self._refused = sessions.refused.copy()


def _count_skip(protocol: str, reason: str, frames: int) -> None:
    metrics.FRAMES_SKIPPED.labels(protocol=protocol, reason=reason).inc(frames)


@cache
def _lateness(protocol: str) -> Histogram:
    return metrics.CAPTURE_TO_VIEWER.labels(protocol=protocol)


def _observe(protocol: str, seconds: float, count: int) -> None:
    metrics.observe(_lateness(protocol), seconds, count)


async def main(given: child.Inheritance, config: Config, channel: Channel) -> None:
    """Serve viewers on inherited sockets until told to stop."""
    listeners = [socket.socket(fileno=fd) for fd in given.listen]
    secure = [socket.socket(fileno=fd) for fd in given.secure]
    process = ViewerProcess(config, channel, given.wake[0], listeners, secure)
    process.on_ready = process.memory.settle
    await process.run()


def born(text: str, fds: Sequence[int]) -> int:
    """Be a viewer process that a supervisor has asked for; return the exit code."""
    return child.run(main, text, fds, fast=True)
