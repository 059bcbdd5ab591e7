"""Tasks and processes: run until told to stop, wait longer each time, start and stop children."""

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import IO, Any, Protocol

from common.runtime import notify
from common.runtime.logs import Log

log = Log("tasks")

INTERRUPTED = 130
"""Exit code of a process that was told twice to stop."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def end_soon() -> None:
    """Let the interpreter end without a last look at each object: the kernel takes them all.

    It costs a role a quarter of a second, seconds on a machine that is busy: of its clients' time.
    """
    gc.freeze()


async def run_until_signalled(role: Coroutine[Any, Any, None]) -> None:
    """Run ``role`` until it ends, or is cancelled by SIGINT or SIGTERM.

    The second signal ends the process at once, with exit code 130.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(role)
    told = False

    def tell() -> None:
        nonlocal told
        if told:
            os._exit(INTERRUPTED)
        told = True
        notify.stopping()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, tell)
    try:
        await task
    except asyncio.CancelledError:
        if not told:
            raise
        log.info("stopped")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class Backoff:
    """How long to wait before the next attempt: doubling up to ``longest``, with jitter.

    After ``calm`` seconds without a new attempt it starts from the beginning.
    """

    def __init__(
        self,
        first: float = 0.1,
        longest: float = 10.0,
        calm: float = 30.0,
        clock: Callable[[], float] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._first, self._longest, self._calm = first, longest, calm
        self._clock = clock or asyncio.get_running_loop().time
        self._chance = chance
        self._next = first
        self._last = -1e9

    def next(self) -> float:
        """Return the seconds to wait now."""
        now = self._clock()
        if now - self._last > self._calm:
            self._next = self._first
        delay = self._next * (0.75 + 0.5 * self._chance())
        self._next = min(self._next * 2, self._longest)
        self._last = now + delay
        return delay

    async def wait(self) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(self.next())


async def spawn_child(
    argv: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    stdin: int | IO[Any] | None = DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    limit: int = 2**16,
    prepare: Callable[[], None] | None = None,
) -> Process:
    """Start a child process that gets ``death_signal`` when this one dies.

    Call it from the main thread: the kernel watches the thread that started the child.
    ``prepare`` runs in the child before the program, for resource limits; it must not import.
    ``environment`` is added to ours.
    """
    parent = os.getpid()

    def before_exec() -> None:
        die_with_parent(parent, death_signal)
        if prepare is not None:
            prepare()

    return await asyncio.create_subprocess_exec(
        *argv,
        pass_fds=tuple(pass_fds),
        env={**os.environ, **(environment or {})},
        preexec_fn=before_exec,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        limit=limit,
        start_new_session=True,  # a terminal's Ctrl-C reaches us alone: we stop them in order
    )


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel for ``number`` when the parent dies; exit if it has died already."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def adopt_grandchildren() -> None:
    """Become the parent of what our children start and leave, instead of process 1."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Running(Protocol):
    """A child process, started by this image of the program or by an earlier one."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""


class Adopted:
    """A child process that an earlier image of this program started (see inherit.py)."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._code: int | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self._pid, 0
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self.returncode is None:
            os.kill(self._pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        if self.returncode is None:
            os.kill(self._pid, signal.SIGKILL)


async def ended(process: Running) -> int:
    """Wait until a child has ended; return its exit code, negative for a signal.

    Unlike ``Process.wait()``, this does not wait for grandchildren that hold its output open.
    """
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    try:
        watch = os.pidfd_open(process.pid)
    except ProcessLookupError:  # it has been collected already, or is just being
        while process.returncode is None:  # noqa: ASYNC110 - a thread of asyncio's sets it
            await asyncio.sleep(0.001)
        return process.returncode
    try:
        loop.add_reader(watch, gone.set)
        while process.returncode is None:
            await gone.wait()
            await asyncio.sleep(0.001)  # the event loop's own watcher has to collect it
        return process.returncode
    finally:
        loop.remove_reader(watch)
        os.close(watch)


async def stop_child(process: Running, grace: float = 2.0) -> int:
    """End a child: SIGTERM, and SIGKILL after ``grace`` seconds; return its exit code."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        async with asyncio.timeout(grace):
            return await ended(process)
    except TimeoutError:
        log.warning("child killed", extra={"pid": process.pid})
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await ended(process)


async def stop_children(processes: Sequence[Running], grace: float = 2.0) -> None:
    """End several children side by side."""
    await asyncio.gather(*(stop_child(process, grace) for process in processes))
