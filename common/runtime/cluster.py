"""Nodes as child processes of one command, for ``headwater demo`` and ``headwater solo``."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import HeadwaterError
from common.runtime import ready, tasks
from common.runtime.embedded import start_time

GRACE = 2.0
"""Seconds that the nodes get to stop; with what comes after, all are gone within three."""

START_TIMEOUT = 60.0
"""Seconds until everything has to be ready, on a slow machine with cold caches."""

TAIL = 40
"""Last log lines of a node that are shown when it dies."""

MAX_LINE = 64 * 1024
"""Bytes of a node's log line that ``demo`` and ``solo`` read. A longer one is left out."""

_BEGINS = re.compile(r"[\d:.]+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)")
_IMPORTANT = ("WARNING", "ERROR", "CRITICAL")


class NodeDied(HeadwaterError):
    """A node ended by itself; the text holds its last log lines."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class NotReady(HeadwaterError):
    """Something did not become ready in time."""


@dataclass(slots=True)
class Node:
    """One node and its process."""

    name: str
    role: str
    arguments: Sequence[str]
    """What follows ``python -m ROLE``."""

    process: Process | None = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))
    reader: asyncio.Task[None] | None = None

    async def start(self, echo: Callable[[str, str], None]) -> None:
        """Start the process; ``echo(name, line)`` gets each line of its log."""
        self.process = await tasks.spawn_child(
            [sys.executable, "-m", self.role, *self.arguments],
            stderr=PIPE,
            limit=MAX_LINE,
            death_signal=signal.SIGTERM,  # so that it cleans up even if we are killed
        )
        self.reader = asyncio.create_task(self._read(echo), name=f"log of {self.name}")

    async def _read(self, echo: Callable[[str, str], None]) -> None:
        stream = self.process.stderr if self.process else None
        while stream is not None:
            try:
                raw = await stream.readline()
            except ValueError:  # a line longer than MAX_LINE; asyncio has dropped it
                continue
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip()
            self.tail.append(line)
            echo(self.name, line)

    async def died(self) -> NodeDied:
        """Wait until the process ends by itself; return what to say about it."""
        assert self.process is not None
        code = await tasks.ended(self.process)
        with contextlib.suppress(TimeoutError):
            if self.reader is not None:
                await asyncio.wait_for(asyncio.shield(self.reader), 0.5)
        log = "".join(f"\n  {line}" for line in self.tail)
        code = 128 - code if code < 0 else code or 1
        return NodeDied(f"{self.name} stopped with exit code {code}; its last words:{log}", code)


class Cluster:
    """Several nodes that start and stop together."""

    def __init__(self, nodes: Sequence[Node], run: Path) -> None:
        self.nodes = list(nodes)
        self._run = run
        self._echo = Echo()

    async def start(self) -> None:
        """Start all nodes."""
        for node in self.nodes:
            await node.start(self._echo)

    async def watch(self) -> None:
        """Wait until a node dies.

        Raises:
            NodeDied: Then.
        """
        watchers = [asyncio.create_task(node.died()) for node in self.nodes]
        try:
            done, _ = await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
            raise done.pop().result()
        finally:
            for watcher in watchers:
                watcher.cancel()

    def serves(self, name: str) -> bool:
        """Return whether a node has said that it is ready."""
        return ready.read(self._run, name) is not None

    async def announced(self, name: str) -> ready.Ready:
        """Wait until a node says that it is ready."""
        found = None

        async def look() -> bool:
            nonlocal found
            found = ready.read(self._run, name)
            return found is not None

        await until(f"{name} to be ready", look)
        assert found is not None
        return found

    def pids(self) -> list[int]:
        """Return the pids of the nodes and of all processes below them."""
        return [pid for pid, _ in self._processes()]

    async def stop(self) -> None:
        """Stop all nodes; what remains of their processes is killed."""
        known = self._processes()
        running = [node.process for node in self.nodes if node.process is not None]
        await tasks.stop_children(running, GRACE)
        for pid, started in known:
            if started and start_time(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        readers = [node.reader for node in self.nodes if node.reader is not None]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    def _processes(self) -> list[tuple[int, int]]:
        roots = [node.process.pid for node in self.nodes if node.process is not None]
        return [(pid, start_time(pid)) for root in roots for pid in family(root)]


async def until(
    what: str, check: Callable[[], Awaitable[bool]], timeout: float = START_TIMEOUT
) -> None:
    """Wait until ``check()`` is true, and after a second say for what.

    Raises:
        NotReady: After ``timeout`` seconds.
    """
    loop = asyncio.get_running_loop()
    begin, said, pause = loop.time(), False, 0.02
    while not await check():
        waited = loop.time() - begin
        if waited > 1 and not said:
            said = True
            sys.stderr.write(f"waiting for {what} ...\n")
        if waited > timeout:
            raise NotReady(f"waited {timeout:.0f} s for {what}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.2, 0.25)


def family(root: int) -> list[int]:
    """Return a process and all below it, parents first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [root]
    for pid in found:  # grows while it is walked
        found += children.get(pid, [])
    return found


class Echo:
    """Shows the lines of the nodes' logs that an onlooker has to see.

    These are warnings and errors with what belongs to them; the same again only after a while.
    """

    AGAIN = 10.0
    MAX_KNOWN = 1000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: dict[tuple[str, str], float] = {}
        self._open: dict[str, bool] = {}

    def __call__(self, name: str, line: str) -> None:
        """Take one line of the log of ``name``."""
        begins = _BEGINS.match(line)
        if begins:
            self._open[name] = begins[1] in _IMPORTANT and self._new(name, begins[2])
        if self._open.get(name, True):
            sys.stderr.write(f"{name}: {line}\n")

    def _new(self, name: str, event: str) -> bool:
        now = self._clock()
        if now - self._shown.get((name, event), -self.AGAIN) < self.AGAIN:
            return False
        if len(self._shown) >= self.MAX_KNOWN:
            self._shown.clear()
        self._shown[name, event] = now
        return True
