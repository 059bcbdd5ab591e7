"""How the supervisor starts the stream worker and the viewer processes, and how those begin.

A child gets what it needs in the environment variable ``HEADWATER_CHILD``, a JSON object:
``control`` is the descriptor of its end of the channel, ``wake`` those of eventfds (the worker
rings them all, a viewer process waits for its own), ``listen`` those of listening sockets,
``secure`` those for TLS, and ``settings`` the sections ``node``, ``log`` and ``edge`` of the
configuration, and of its streams what bounds their pages, whence they come, and which siblings may
have them.
"""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from common.errors import ConfigError, HeadwaterError
from common.runtime import loader, logs
from common.runtime.control import Channel
from common.runtime.tasks import end_soon, run_until_signalled, spawn_child
from edge.config import Config

VARIABLE = "HEADWATER_CHILD"

Spawn = Callable[[socket.socket], Awaitable[Process]]
"""Starts the process; the socket is its end of the control channel."""

FAILED = 1


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
        """Return the settings as the supervisor has them.

        Raises:
            ConfigError: If they are not those of this version.
        """
        return loader.build(Config, self.settings)


Main = Callable[[Inheritance, Config, Channel], Awaitable[None]]
"""What a child does: until its channel says ``stop`` or ends."""


MODULES = ("edge.worker", "edge.viewer")
"""What children run."""


def worker(
    config: Config,
    wakes: Callable[[], list[int]],
    control: socket.socket,
    waits: Callable[[], bool] = lambda: False,
) -> Spawn:
    """Return how to start the stream worker, which rings ``wakes`` and answers on ``control``.

    While ``waits()``, it does not begin before it is told to.
    """
    return _spawner("edge.worker", config, wakes, [control.fileno()], waits)


def viewer(
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
    return _spawner("edge.viewer", config, lambda: [wake], listen, secure=tls)


def _spawner(
    module: str,
    config: Config,
    wakes: Callable[[], list[int]],
    listen: Sequence[int],
    waits: Callable[[], bool] = lambda: False,
    secure: Sequence[int] = (),
) -> Spawn:
    # Secrets are no business of a child's, and the environment can be read in /proc.
    settings = loader.dump(config)
    settings["edge"]["token"] = ""
    settings["streams"] = {
        name: {"bytes_max": int(one.bytes_max), "paths": one.paths, "nodes": one.nodes}
        for name, one in config.streams.items()
    }

    async def spawn(control: socket.socket) -> Process:
        given = Inheritance(
            control.fileno(), wakes(), list(listen), settings, waits(), list(secure)
        )
        return await spawn_child(
            [sys.executable, "-m", module],
            pass_fds=given.fds,
            environment={VARIABLE: msgspec.json.encode(given).decode()},
        )

    return spawn


def inheritance(environ: Mapping[str, str] = os.environ) -> Inheritance:
    """Return what this process was given.

    Raises:
        ConfigError: If it was not started by a supervisor.
    """
    try:
        return msgspec.json.decode(environ[VARIABLE], type=Inheritance)
    except (KeyError, msgspec.MsgspecError) as error:
        raise ConfigError(
            VARIABLE, "is set by the supervisor, which starts this process"
        ) from error


def run(main: Main, *, fast: bool = False) -> int:
    """Be a child: set up logs and signals, run ``main``, return the exit code.

    ``fast``: on uvloop, if it is installed and the settings do not forbid it. SIGTERM and SIGINT
    cancel ``main``, which ends by itself when its channel does: a child never outlives its
    supervisor.
    """
    try:
        given = inheritance()
        config = given.config()
    except HeadwaterError as error:
        sys.stderr.write(f"headwater: {error}\n")
        return 2
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
    finally:
        end_soon()
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
