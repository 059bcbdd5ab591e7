"""How the supervisor starts the stream worker and the viewer processes, and how those begin.

They are forked by a :class:`~common.runtime.nursery.Nursery`. A child gets what it needs as a JSON
object, with the descriptors that are named there: ``control`` is its end of the channel, ``wake``
are eventfds (the worker rings them all, a viewer process waits for its own), ``listen`` are
listening sockets, ``secure`` those for TLS, and ``settings`` the sections ``node``, ``log`` and
``edge`` of the configuration, and of its streams what bounds their pages, whence they come, and
which siblings may have them.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from common.errors import HeadwaterError
from common.runtime import loader, logs
from common.runtime.control import Channel
from common.runtime.tasks import Running, run_until_signalled
from edge.config import Config

Spawn = Callable[[socket.socket], Awaitable[Running]]
"""Starts the process; the socket is its end of the control channel."""

FAILED = 1


class Parent(Protocol):
    """Starts processes: a nursery."""

    async def spawn(self, module: str, text: str, fds: Sequence[int]) -> Running:
        """Run ``born(text, descriptors)`` of a module in a process of its own."""


class Inheritance(msgspec.Struct, frozen=True):
    """What a child was given."""

    control: int
    wake: list[int]
    listen: list[int]
    settings: dict[str, Any]
    waits: bool = False
    """Another process does this one's work until the supervisor says ``go``."""

    secure: list[int] = []

    @property
    def fds(self) -> list[int]:
        """All of them."""
        return [self.control, *self.wake, *self.listen, *self.secure]

    def config(self) -> Config:
        """Return the settings as the supervisor has them."""
        return loader.build(Config, self.settings)

    def at(self, fds: Sequence[int]) -> "Inheritance":
        """Return the same with other descriptors, in the order of :attr:`fds`."""
        control, *rest = fds
        wake, rest = rest[: len(self.wake)], rest[len(self.wake) :]
        listen, secure = rest[: len(self.listen)], rest[len(self.listen) :]
        return msgspec.structs.replace(
            self, control=control, wake=wake, listen=listen, secure=secure
        )


Main = Callable[[Inheritance, Config, Channel], Awaitable[None]]
"""What a child does: until its channel says ``stop`` or ends."""


WORKER, VIEWER = MODULES = ("edge.worker", "edge.viewer")
"""What children run."""


def worker(
    parent: Parent,
    config: Config,
    wakes: Callable[[], list[int]],
    control: socket.socket,
    waits: Callable[[], bool] = lambda: False,
) -> Spawn:
    """Return how to start the stream worker, which rings ``wakes`` and answers on ``control``.

    While ``waits()``, it does not begin before it is told to.
    """
    return _spawner(parent, WORKER, config, wakes, [control.fileno()], waits)


def viewer(
    parent: Parent,
    config: Config,
    wake: int,
    listeners: Sequence[socket.socket],
    secure: Sequence[socket.socket] = (),
) -> Spawn:
    """Return how to start a viewer process, which ``wake`` wakes, on ``listeners``.

    On those that are ``secure`` it serves over TLS.
    """
    listen = [listener.fileno() for listener in listeners]
    tls = [listener.fileno() for listener in secure]
    return _spawner(parent, VIEWER, config, lambda: [wake], listen, secure=tls)


def _spawner(
    parent: Parent,
    module: str,
    config: Config,
    wakes: Callable[[], list[int]],
    listen: Sequence[int],
    waits: Callable[[], bool] = lambda: False,
    secure: Sequence[int] = (),
) -> Spawn:
    # Secrets are no business of a child's.
    settings = loader.dump(config)
    settings["edge"]["token"] = ""
    settings["streams"] = {
        name: {"bytes_max": int(one.bytes_max), "paths": one.paths, "nodes": one.nodes}
        for name, one in config.streams.items()
    }

    async def spawn(control: socket.socket) -> Running:
        given = Inheritance(
            control.fileno(), wakes(), list(listen), settings, waits(), list(secure)
        )
        return await parent.spawn(module, msgspec.json.encode(given).decode(), given.fds)

    return spawn


def run(main: Main, text: str, fds: Sequence[int], *, fast: bool = False) -> int:
    """Be a child: set up logs and signals, run ``main``, return the exit code.

    ``fast``: on uvloop, if it is installed and the settings do not forbid it. SIGTERM and SIGINT
    cancel ``main``, which ends by itself when its channel does: a child never outlives its
    supervisor.
    """
    given = msgspec.json.decode(text, type=Inheritance).at(fds)
    config = given.config()
    logs.configure(config.log.level, config.log.style)
    for fd in given.fds:
        os.set_inheritable(fd, False)
    loops = fast_loop() if fast and config.edge.uvloop else None
    try:
        with asyncio.Runner(loop_factory=loops) as runner:
            runner.run(run_until_signalled(_run(main, given, config)))
    except HeadwaterError as error:
        logs.Log("edge.child").error("child failed", extra={"error": str(error)})
        return FAILED
    return 0


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes an event loop of uvloop; None if that is not installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


async def turn(given: Inheritance, channel: Channel) -> bool:
    """Wait until it is this process's turn; return whether it comes."""
    if not given.waits:
        return True
    channel.send({"t": "waiting"})
    async for message in channel:
        if message.get("t") in ("go", "stop"):
            return bool(message["t"] == "go")
    return False


async def _run(main: Main, given: Inheritance, config: Config) -> None:
    channel = Channel(given.control)
    try:
        await main(given, config, channel)
    finally:
        channel.close()
