"""Children that begin within milliseconds: forked from a process that has loaded their code.

To start Python and load the modules of a child takes half a second to more than a second of a core,
while viewers wait for the process that died. A :class:`Nursery` keeps a process that has done that
once, runs no thread, and forks on request. The memory of what was loaded is shared, besides.

What the nursery's process hears is one packet for each child: the name of a module, a descriptor of
a text, and the descriptors that ``born(text, descriptors)`` of this module gets in the new process;
it returns the exit code. The child's parent is not the nursery but, by way of a process between
them that ends at once, the process that has the nursery, which is a subreaper for that (prctl(2)).
"""

import asyncio
import contextlib
import ctypes
import errno
import gc
import importlib
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from common.runtime.logs import Log
from common.runtime.tasks import (
    Adopted,
    Backoff,
    Running,
    adopt_grandchildren,
    die_with_parent,
    ended,
    spawn_child,
)

MAX_NAME = 256
"""Bytes of the name of a module. With a longer one, no child is started."""

MAX_FDS = 253
"""Descriptors that go with one request, as Linux has it (SCM_MAX_FD). With more, no child is
started."""

BIRTH_TIMEOUT = 60.0
"""Seconds until a nursery that says nothing is replaced; it may be loading all the modules."""

_PID = struct.Struct("<i")

log = Log("nursery")


class Nursery:
    """Starts children from a process that has loaded ``modules``; it is made when first needed."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules
        self._process: Running | None = None
        self._control: socket.socket | None = None
        self._turn = asyncio.Lock()
        self._backoff = Backoff(0.1, 5.0)

    async def prepare(self) -> None:
        """Have the modules loaded from now on; does not wait for it."""
        async with self._turn:
            await self._there()

    async def spawn(self, module: str, text: str, fds: Sequence[int]) -> Running:
        """Start a child that runs ``born(text, descriptors)`` of a module, and is killed when this
        process ends.

        Raises:
            OSError: If the kernel has no room for it.
        """
        async with self._turn:
            while True:
                control = await self._there()
                try:
                    async with asyncio.timeout(BIRTH_TIMEOUT):
                        return Adopted(await _ask(control, module, text, fds))
                except (ConnectionError, TimeoutError) as error:
                    log.warning("nursery failed", extra={"error": repr(error)})
                    await self._end()
                    await self._backoff.wait()
                except asyncio.CancelledError:
                    await self._end()  # its answer is not to be taken for that to another request
                    raise

    async def close(self) -> None:
        """End the nursery's process, not its children; the next child makes another one."""
        async with self._turn:
            await self._end()

    async def _there(self) -> socket.socket:
        if self._control is not None:
            return self._control
        adopt_grandchildren()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        command = [sys.executable, "-m", __name__, str(theirs.fileno()), *self._modules]
        with theirs:
            try:
                # Threads do not live on in a fork; numpy's library would start some.
                self._process = await spawn_child(
                    command,
                    pass_fds=[theirs.fileno()],
                    environment={"OPENBLAS_NUM_THREADS": "1"},
                )
            except BaseException:
                ours.close()
                raise
        self._control = ours
        return ours

    async def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            process, self._process = self._process, None
            if process.returncode is None:
                process.kill()
            await ended(process)


async def _ask(control: socket.socket, module: str, text: str, fds: Sequence[int]) -> int:
    """Return the process id of a new child.

    Raises:
        ConnectionError: If the nursery is gone.
        OSError: If it could not be forked.
    """
    with open(os.memfd_create("headwater-child"), "wb") as file:
        file.write(text.encode())
        file.flush()
        socket.send_fds(control, [module.encode()], [file.fileno(), *fds])
    answer = await asyncio.get_running_loop().sock_recv(control, _PID.size)
    if not answer:
        raise ConnectionError("its process has ended")
    (pid,) = _PID.unpack(answer)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return int(pid)


# The nursery's process.


def serve(control: socket.socket, parent: int) -> None:
    """Fork a child of ``parent`` for each request, until the other end is closed."""
    while True:
        name, fds, flags, _ = socket.recv_fds(control, MAX_NAME, MAX_FDS)
        if not name:
            return
        whole = fds and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        pid = _fork(control, parent, name.decode(), fds) if whole else -errno.EMFILE
        for fd in fds:
            os.close(fd)
        with contextlib.suppress(ConnectionError):
            control.send(_PID.pack(pid))


def _fork(control: socket.socket, parent: int, module: str, fds: list[int]) -> int:
    """Return the process id of a new child, or the negative number of an error."""
    born, tell = os.pipe()
    wait, go = os.pipe()
    between = _forked()
    if between == 0:
        os.close(born)
        os.close(go)
        _between(tell, wait, control, parent, module, fds)
    os.close(tell)
    os.close(wait)
    told = os.read(born, _PID.size) if between > 0 else _PID.pack(between)
    os.close(born)
    if between > 0:
        os.waitpid(between, 0)  # from now on the child's parent is the subreaper
    os.close(go)  # and the child finds that out
    return int(_PID.unpack(told)[0])


def _forked() -> int:
    """Fork; return what fork(2) does, or the negative number of an error."""
    try:
        return os.fork()
    except OSError as error:
        return -(error.errno or 1)


def _between(
    tell: int, wait: int, control: socket.socket, parent: int, module: str, fds: list[int]
) -> NoReturn:
    """Be the process in between: fork once more, and end."""
    pid = _forked()
    if pid == 0:
        os.close(tell)
        control.close()
        os.read(wait, 1)
        os.close(wait)
        _live(parent, module, fds)
    os.write(tell, _PID.pack(pid))
    os._exit(0)


def _live(parent: int, module: str, fds: list[int]) -> NoReturn:
    """Be the child. It ends without a last look at each object."""
    code = 1
    try:
        die_with_parent(parent, signal.SIGKILL)
        os.setsid()  # a terminal's Ctrl-C reaches the parent alone
        _call_yourself(module)
        with open(fds.pop(0), "rb") as file:
            file.seek(0)
            text = file.read().decode()
        code = importlib.import_module(module).born(text, fds)
    finally:
        if sys.exc_info()[1] is not None:
            traceback.print_exc()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _call_yourself(module: str) -> None:
    """Have this process listed as the one of a module, as if it had been started by itself.

    The kernel reads command lines out of the memory of the process (proc(5), ``arg_start``).
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[48 - 3]), int(fields[49 - 3])
    line = b"\0".join(word.encode() for word in (sys.executable, "-m", module))
    if 0 < start < end and len(line) < end - start:
        ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)


def main(words: Sequence[str]) -> None:
    """Load modules and serve on a descriptor."""
    fd, *modules = words
    parent = os.getppid()
    with socket.socket(fileno=int(fd)) as control:
        control.set_inheritable(False)
        for module in modules:
            importlib.import_module(module)
        gc.collect()
        gc.freeze()  # what is here for good is not to be touched, and so copied, by each child
        serve(control, parent)


if __name__ == "__main__":
    main(sys.argv[1:])
