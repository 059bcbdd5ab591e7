"""Restart a node in place: the same process id, new code and settings, the same sockets.

``SIGHUP`` (``headwater restart``, ``POST /api/v1/restart``) has the process execute its own command
line again. First a child process with that command line checks that the new code loads, that the
settings are good and that new addresses are free: if not, nothing happens but a line in the log.
Then the role prepares: one that can hand over its running children (:meth:`Restart.hand_over`) does
so, any other stops as at SIGTERM. Listening sockets stay open all the while.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import HeadwaterError, NodeUnavailable
from common.runtime import inherit, listen, notify, ready
from common.runtime.config import NodeSettings
from common.runtime.logs import Log
from common.runtime.tasks import ended, run_until_signalled, spawn_child, stop_child

log = Log("restart")

CHECK = "HEADWATER_CHECK"
"""Set for the process that only checks; its value is a JSON object, address by setting in use."""

CHECK_TIMEOUT = 100.0
"""Seconds that the check may take: it needs 1.5 s of a core, which a machine may not have to spare
for a while. The node serves on meanwhile; systemd waits for 120 s (``TimeoutStartSec``)."""

TOLD = 4000
"""Bytes of what the check says that are passed on."""


class RestartRefused(HeadwaterError):
    """The node goes on as it was; the text says why."""

    http_status = 409


@dataclass(slots=True)
class Legacy:
    """What a role leaves to its next image."""

    state: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON."""

    fds: list[int] = field(default_factory=list)
    """Descriptors in ``state`` that have to stay open."""


HandOver = Callable[[], Awaitable[Legacy]]


class Restart:
    """How this process restarts. There is one, :func:`current`, while a role runs."""

    def __init__(self, node: NodeSettings) -> None:
        self.node = node
        self.took = 0.0
        """Seconds that the last check took: the next image begins about as fast."""

        self.guards: list[Callable[[], None]] = []
        """Called before anything is done; raise :exc:`RestartRefused` to prevent it."""
        self._hand_over: HandOver | None = None
        self._busy = False
        self._role: asyncio.Task[None] | None = None
        self._sockets: dict[str, inherit.Passed] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def hand_over(self, prepare: HandOver) -> None:
        """Have ``prepare`` called instead of stopping the role; the next image follows.

        If it raises :exc:`HeadwaterError`, the role goes on.
        """
        self._hand_over = prepare

    @property
    def busy(self) -> bool:
        """Whether a restart is under way."""
        return self._busy

    async def check(self) -> None:
        """Find out whether a restart would succeed.

        Raises:
            RestartRefused: If not, or if one is under way.
        """
        if self._busy:
            raise RestartRefused("a restart is under way already")
        self._busy = True
        began = time.monotonic()
        try:
            for guard in self.guards:
                guard()
            await _check()
            self.took = time.monotonic() - began
        finally:
            self._busy = False

    async def begin(self) -> None:
        """Check, and restart in the background.

        Raises:
            RestartRefused: If the node goes on as it was.
        """
        await self.check()
        self._start(self.go(checked=True))

    async def go(self, checked: bool = False) -> None:
        """Check and restart. Does not return, unless the role has to stop first.

        Raises:
            RestartRefused: If the node goes on as it was.
        """
        if not checked:
            await self.check()
        self._busy = True
        sockets = inherit.estate().passing()  # duplicates, as the role may close its own
        if self._hand_over is None:
            assert self._role is not None
            self._sockets = sockets
            notify.reloading()
            self._role.cancel()
            return
        try:
            legacy = await self._hand_over()
        except HeadwaterError as error:
            self._busy = False
            for fd in (fd for passed in sockets.values() for fd in passed.fds):
                os.close(fd)
            raise RestartRefused(str(error)) from error
        _execute(sockets, legacy)

    async def run(self, role: Coroutine[Any, Any, None]) -> None:
        """Run a role until it is stopped; if a restart stopped it, execute the program again."""
        self._role = asyncio.ensure_future(role)
        loop = asyncio.get_running_loop()
        watchdog = loop.create_task(notify.watchdog(), name="watchdog")
        terminal = _has_terminal()

        def told() -> None:
            if terminal and not _has_terminal():  # its window was closed: that is no restart
                os.kill(os.getpid(), signal.SIGTERM)
                return
            self._start(self.go())

        loop.add_signal_handler(signal.SIGHUP, told)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # see _execute
        try:
            await run_until_signalled(_shielding(self._role, lambda: self._sockets is not None))
        finally:
            watchdog.cancel()
        if self._sockets is not None:
            _execute(self._sockets, Legacy())

    def _start(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._attempt(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except RestartRefused as error:
            log.error("restart refused", extra={"error": str(error)})
            ready.refuse(self.node, str(error))


async def _shielding(role: "asyncio.Task[None]", restarting: Callable[[], bool]) -> None:
    """Wait for a role, and pass on a cancellation; one that was meant for a restart ends here."""
    try:
        await role
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not restarting() or (task is not None and task.cancelling()):
            raise


def command() -> list[str]:
    """Return the command line that started this process, for ``execve``.

    A script is executed by its own first line: its interpreter may be another one by now.
    """
    given = sys.orig_argv[1:]
    script = Path(given[0]) if given else None
    if script and not given[0].startswith("-") and os.access(script, os.X_OK):
        return [str(script.absolute()), *given[1:]]
    return [sys.executable, *given]


async def _check() -> None:
    addresses = inherit.estate().addresses()
    process = await spawn_child(
        command(), environment={CHECK: json.dumps(addresses)}, stdout=DEVNULL, stderr=PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            told = await process.stderr.read()
            code = await ended(process)
    except TimeoutError:
        raise RestartRefused("the check of the new settings does not end") from None
    finally:
        await stop_child(process, 0.2)
    if code:
        text = told[-TOLD:].decode(errors="replace").strip()
        raise RestartRefused(text.removeprefix("headwater: ") or f"the check ended with {code}")


def checking() -> bool:
    """Return whether this process is only to check whether another one could restart."""
    return CHECK in os.environ


def check_addresses(settings: Any) -> None:
    """Refuse addresses that differ from those in use and are not free.

    Raises:
        ListenError: Which, and who has it.
    """
    for setting, address in json.loads(os.environ[CHECK]).items():
        value = settings
        for name in setting.split("."):
            value = getattr(value, name, None)
        if isinstance(value, str) and value != address:
            listen.bind(value, setting=setting).close()


def _has_terminal() -> bool:
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return True
    return False


def _execute(sockets: Mapping[str, inherit.Passed], legacy: Legacy) -> None:
    """Become the next image of this process.

    SIGHUP waits until that has its handler: by default it would end the process.
    """
    notify.reloading()
    generation = inherit.estate().handover.generation + 1
    file = inherit.leave(sockets, legacy.state, generation, legacy.fds)
    argv = command()
    log.info("restarting", extra={"program": argv[0]})  # not its arguments: a key may be in --set
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execve(argv[0], argv, {**os.environ, inherit.VARIABLE: str(file)})


_current: Restart | None = None


def current() -> Restart:
    """Return how this process restarts.

    Raises:
        NodeUnavailable: If no role of its own runs in it.
    """
    if _current is None:
        raise NodeUnavailable("this process cannot restart itself")
    return _current


def under_way() -> bool:
    """Return whether this process is about to be replaced, or finds out whether it can be."""
    return _current is not None and _current.busy


def hand_over(prepare: HandOver) -> None:
    """Have ``prepare`` called when this process is to restart (:meth:`Restart.hand_over`)."""
    if _current is not None:
        _current.hand_over(prepare)


async def serve(
    node: NodeSettings,
    role: Coroutine[Any, Any, None],
    guards: Sequence[Callable[[], None]] = (),
) -> None:
    """Run a role as the one of this process, until SIGTERM or SIGINT.

    ``guards`` may refuse a restart (:attr:`Restart.guards`).
    """
    global _current  # a process has one command line to execute again
    _current = Restart(node)
    _current.guards += guards
    try:
        await _current.run(role)
    finally:
        _current = None
