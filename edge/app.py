"""Put an edge together: its sockets, its children, its admin port, its place in the cluster."""

import asyncio
import contextlib
import importlib
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from common.bus.gossip import Gossiper, Load
from common.runtime import http, listen, reach, ready, restart, wake
from common.runtime.curve import guarded
from common.runtime.logs import Log
from common.runtime.memory import memory_used, private_bytes
from common.runtime.nursery import Nursery
from common.runtime.registries import node_entry, open_registry
from common.runtime.registry import Registry
from common.track.folder import sweep
from edge import child
from edge.api import Api
from edge.around import Watch
from edge.children import Child
from edge.config import Config, servers
from edge.draining import Drain
from edge.output import configured
from edge.succession import Succession, bequeath, inherited
from edge.supervisor import Supervisor

__all__ = ["Config", "check", "run"]

log = Log("edge")

SWEEP_INTERVAL = 60.0
UNOWNED = 600.0
"""Seconds after which pages that no process writes are removed."""

SURE = 2.0
"""How much longer than its check a restart may take, times; and in seconds besides."""

ADMIN_LINGER = 1.0
"""Seconds that the admin port answers requests under way before a restart."""

PAGE_ROOT_MODE = 0o700


def check(config: Config) -> None:
    """Refuse settings that the form of the file cannot tell from good ones.

    Raises:
        ConfigError: If a setting of an output does not fit.
    """
    configured(config.edge.outputs)
    config.edge.crowd()  # and the proxies, which it has to know
    config.edge.tls.check("edge.tls")
    if restart.checking():  # the code of the children, too
        for module in child.MODULES:
            importlib.import_module(module)


async def run(config: Config) -> None:
    """Serve viewers until cancelled.

    Raises:
        ConfigError: If a setting is wrong.
        ListenError: If an address cannot be listened on.
    """
    check(config)  # a wrong setting is to be told now, not by every child
    root = Path(config.node.pages)
    root.mkdir(mode=PAGE_ROOT_MODE, parents=True, exist_ok=True)
    sweep(root, time.time() - UNOWNED)
    nursery = Nursery(child.MODULES)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(nursery.close)
        await nursery.prepare()  # it loads what children need while we do what is left
        registry = await stack.enter_async_context(open_registry(config.node))
        count = config.edge.viewer_processes()
        listeners = listen.share(config.edge.http, count, setting="edge.http")
        secure = []
        if config.edge.tls.certificate:
            secure = listen.share(config.edge.tls.listen, count, setting="edge.tls.listen")
        for listener in (*listeners, *secure):
            stack.callback(listener.close)
        admin = listen.bind(config.edge.admin, setting="edge.admin")
        stack.callback(admin.close)
        control = listen.bind(config.edge.control, setting="edge.control")
        stack.callback(control.close)
        guard = await stack.enter_async_context(guarded(config.node, registry, servers(config)))
        host = config.node.address
        gossiper = Gossiper(config.node.name, config.edge.gossip, guard, public=host)
        stack.callback(gossiper.close)
        endpoints = {
            "http": config.edge.public or listen.authority(listeners[0]),
            "admin": listen.authority(admin),
            "gossip": gossiper.authority,
            "control": f"tcp://{listen.announced(control, host)}",
            **guard.endpoints,
        }
        if secure:
            endpoints["https"] = listen.authority(secure[0])
        wakes = [wake.create() for _ in range(count)]
        supervisor = _supervisor(nursery, config, listeners, secure, wakes, control)
        for viewer in supervisor.viewers:
            stack.callback(os.close, viewer.wake)
        capacity = {
            "bits_per_second": float(config.edge.bandwidth),
            "sessions": float(config.edge.sessions),
            "cores": float(os.cpu_count() or 1),
        }
        drain = Drain(registry, config.node.name, supervisor)
        token = config.edge.token
        api = Api(config.node.name, root, supervisor, endpoints, capacity, drain, token)
        asked = reach.routes(config.node.name, registry.nodes, token)
        app = http.application([*api.routes(), *asked])
        app.middlewares.append(http.own_host)
        runner = await http.serve(app, admin)
        stack.push_async_callback(runner.cleanup)
        restart.hand_over(lambda: _leave(supervisor, runner, drain, nursery))
        succession = Succession(supervisor, *inherited())
        await stack.enter_async_context(_running(supervisor))
        for listener in (*listeners, *secure):
            stack.callback(listener.close)  # before the children end: nobody is to wait in vain
        await _serve(config, registry, api, gossiper, succession)
    if not config.edge.keep_pages:
        shutil.rmtree(root, ignore_errors=True)


async def _serve(
    config: Config, registry: Registry, api: Api, gossiper: Gossiper, succession: Succession
) -> None:
    """Join the cluster once the children are ready; leave it at the end.

    After a restart we are in it already, and the children of the earlier image serve.
    """
    supervisor, drain = api.supervisor, api.drain
    watch = Watch(registry, config.node.name, config.edge.balancer)

    def load() -> Load:
        return supervisor.load(_memory(supervisor, config), drain.active)

    drain.said = lambda: gossiper.send(load())
    api.registered = supervisor.covered
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(succession.run(config.edge.retire))
            if not api.registered:
                await supervisor.complete.wait()
            group.create_task(gossiper.run(load))
            group.create_task(watch.run(drain.look))
            group.create_task(_sweep(api.root))
            await supervisor.complete.wait()
            await registry.register(node_entry(config.node, "edge", api.endpoints, api.capacity))
            api.registered = True
            pids = [child.pid for child in supervisor.children]
            ready.announce(config.node, api.endpoints, pids)
            log.info("ready", extra={"node": config.node.name, **api.endpoints})
            await _until_stopped(drain, config.edge.drain)
    finally:
        if api.registered:
            ready.withdraw(config.node)
            await registry.unregister(config.node.name)


async def _leave(
    supervisor: Supervisor, admin: web.AppRunner, drain: Drain, nursery: Nursery
) -> restart.Legacy:
    """Get ready for the next image, which goes on with the children; balancers are told."""
    if supervisor.complete.is_set():
        supervisor.restarting = SURE * restart.current().took + SURE
        drain.said()
        await http.retire(admin, ADMIN_LINGER)
        await nursery.close()  # it has the old code
    return bequeath(supervisor)


async def _until_stopped(drain: Drain, seconds: float) -> None:
    """Wait to be cancelled, and then for the viewers to be moved to other edges."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await drain.leave(seconds)
        raise


async def _sweep(root: Path) -> None:
    """Remove the pages that nobody writes any more."""
    while True:
        await asyncio.sleep(SWEEP_INTERVAL)
        for stream, epoch in sweep(root, time.time() - UNOWNED):
            log.info("pages swept", extra={"stream": stream, "epoch": epoch})


@contextlib.asynccontextmanager
async def _running(supervisor: Supervisor) -> AsyncIterator[None]:
    """Run the children for the time of a block."""
    task = asyncio.create_task(supervisor.run(), name="supervisor")
    parent = asyncio.current_task()
    assert parent is not None

    def failed(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            parent.cancel()

    task.add_done_callback(failed)
    try:
        yield
    except asyncio.CancelledError:
        if task.done() and not task.cancelled():
            task.result()
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _supervisor(
    nursery: Nursery,
    config: Config,
    listeners: list[socket.socket],
    secure: list[socket.socket],
    wakes: list[int],
    control: socket.socket,
) -> Supervisor:
    plain, tls = _dealt(listeners, len(wakes)), _dealt(secure, len(wakes))
    viewers = [
        Child(f"viewer{number + 1}", "viewer", child.viewer(nursery, config, fd, *sockets), fd)
        for number, (fd, *sockets) in enumerate(zip(wakes, plain, tls, strict=True))
    ]

    def rung() -> list[int]:
        return [viewer.wake for viewer in supervisor.viewers]

    def waits() -> bool:
        return supervisor.worker is not worker

    worker = Child("worker", "worker", child.worker(nursery, config, rung, control, waits))
    supervisor = Supervisor(worker, viewers)
    supervisor.most = (config.edge.bandwidth, float(config.edge.sessions))
    supervisor.memory = lambda: _memory(supervisor, config)
    return supervisor


def _memory(supervisor: Supervisor, config: Config) -> float:
    """Return which share of the memory is in use: of the machine, or of what the edge may take."""
    used = memory_used()
    if most := config.edge.memory_max:
        pids = (os.getpid(), *(child.pid for child in supervisor.children))
        own = sum(map(private_bytes, pids)) + supervisor.worker.report.pages
        used = max(used, own / most)
    return used


def _dealt(listeners: list[socket.socket], count: int) -> list[list[socket.socket]]:
    """Return the listeners of each viewer process: nobody goes without, and none is left out."""
    if not listeners:
        return [[] for _ in range(count)]
    return [
        listeners[number::count] or [listeners[number % len(listeners)]] for number in range(count)
    ]
