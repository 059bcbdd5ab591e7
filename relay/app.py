"""Put a relay together: the bus, its pages, its admin port, its place in the cluster."""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from common import __version__
from common.bus import access
from common.bus.intake import TICK
from common.bus.pages import Pages
from common.bus.upstream import NAMES, Finder, Place
from common.errors import ConfigError, HeadwaterError
from common.runtime import admin, http, listen, metrics, reach, ready, reload, trust
from common.runtime.curve import encrypts, guarded
from common.runtime.definitions import Definitions
from common.runtime.logs import Log
from common.runtime.registries import node_entry, open_registry
from common.track.board import Board
from common.track.folder import sweep
from common.track.limits import Budget, Limits
from common.wire.control import MAX_PULL
from relay.config import Config
from relay.relay import Relay

__all__ = ["Config", "check", "run"]

log = Log("relay")

LOOK = 0.5
"""Seconds between two looks at who owns what."""

PAUSE = 0.01
"""Seconds between two looks for those who subscribe: they cannot make us look all the time."""

REPORT = 1.0
SWITCH_INTERVAL = 0.0005
"""Seconds after which Python lets another thread run: ZeroMQ's callbacks must not wait for 5 ms."""

SWEEP = 60.0
UNOWNED = 600.0
"""Seconds after which pages that no process writes are removed."""


def check(config: Config) -> None:
    """Refuse settings that the form of the file cannot tell from good ones.

    Raises:
        ConfigError: If a relay names itself, or the rate of repair is too low for one answer.
    """
    settings = config.relay
    if config.node.name in settings.upstream:
        raise ConfigError("relay.upstream", f"{config.node.name} cannot take streams from itself")
    if any("," in name for name in settings.upstream):
        raise ConfigError("relay.upstream", "a name of a node has no comma; give a list of names")
    if settings.repair_rate < MAX_PULL:
        reason = f"must be {MAX_PULL} bytes a second or more: one answer to an edge"
        raise ConfigError("relay.repair_rate", reason)
    access.check(config.streams, encrypts(config.node, _servers(config)))
    if settings.paths < 1:
        raise ConfigError("relay.paths", "must be 1 or more")


def _servers(config: Config) -> dict[str, str]:
    return {"relay.bus": config.relay.bus, "relay.control": config.relay.control}


async def run(config: Config) -> None:
    """Relay until cancelled.

    Raises:
        ConfigError: If a setting is wrong.
        ListenError: If an address cannot be listened on.
    """
    check(config)
    sys.setswitchinterval(SWITCH_INTERVAL)
    definitions = Definitions(config.streams)
    config = msgspec.structs.replace(config, streams=definitions)
    node, settings = config.node, config.relay
    root = Path(node.pages)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep(root, time.time() - UNOWNED)
    async with contextlib.AsyncExitStack() as stack:
        registry = await stack.enter_async_context(open_registry(node))
        listener = listen.bind(settings.admin, setting="relay.admin")
        stack.callback(listener.close)
        pages = Pages(
            root, Board.create(root), Limits(budget=Budget(node.pages_max)), config.streams
        )
        place = Place(node.name, "relay", node.datacenter, tuple(settings.upstream))
        guard = await stack.enter_async_context(guarded(node, registry, _servers(config)))

        async def everything() -> set[str]:
            return {owner.stream for owner in await registry.owners()}

        await definitions.begin(registry)
        relay = Relay(config, pages, Finder(registry, place), everything, guard)
        stack.callback(relay.close)
        relay.intake.adopt()
        at = listen.reachable(listen.parse(settings.bus, "relay.bus")[0], node.address)
        endpoints = {
            "admin": listen.authority(listener),
            NAMES: ",".join(settings.upstream),
            **relay.broadcast.endpoints(settings.public or at),
        }
        token = settings.token
        asked = [*reload.routes(token), *reach.routes(node.name, registry.nodes, token)]
        app = http.application([*Api(config, relay, endpoints).routes(), *asked])
        app.middlewares.append(http.own_host)
        reload.at_once({"streams.*": lambda fresh: definitions.reload(fresh.streams)})
        runner = await http.serve(app, listener)
        stack.push_async_callback(runner.cleanup)
        await registry.register(node_entry(node, "relay", endpoints))
        stack.push_async_callback(registry.unregister, node.name)
        ready.announce(node, endpoints)
        stack.callback(ready.withdraw, node)
        log.info("ready", extra={"node": node.name, **endpoints})
        async with asyncio.TaskGroup() as tasks:
            for job in (
                *(_tick(relay), _follow(relay), _report(relay), _sweep(root)),
                definitions.follow(registry),
            ):
                tasks.create_task(job)
    if not settings.keep_pages:
        shutil.rmtree(root, ignore_errors=True)


async def _tick(relay: Relay) -> None:
    while True:
        await asyncio.sleep(TICK)
        relay.intake.tick()


async def _follow(relay: Relay) -> None:
    """Look for owners again and again, and for what somebody has just subscribed to at once."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        try:
            if loop.time() >= due:
                due = loop.time() + LOOK
                await relay.follow()
            else:
                await relay.look()
        except HeadwaterError as error:
            log.warning("registry failed", extra={"error": str(error)})
        await asyncio.sleep(PAUSE)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(relay.asked.wait(), due - loop.time())


async def _report(relay: Relay) -> None:
    while True:
        await asyncio.sleep(REPORT)
        relay.intake.report()


async def _sweep(root: Path) -> None:
    """Remove the pages that nobody writes any more."""
    while True:
        await asyncio.sleep(SWEEP)
        for stream, epoch in sweep(root, time.time() - UNOWNED):
            log.info("pages swept", extra={"stream": stream, "epoch": epoch})


class Api:
    """The admin port: health, metrics, and what is relayed from where."""

    def __init__(self, config: Config, relay: Relay, endpoints: dict[str, str]) -> None:
        self._config = config
        self._relay = relay
        self._endpoints = endpoints
        self._began = time.time()

    def routes(self) -> list[web.RouteDef]:
        """Return every admin route."""
        guarded = trust.guard(self._config.relay.token, "relay")
        return [
            *http.health_routes(lambda: None, metrics.text),
            web.get("/api/v1/node", self._node),
            web.get("/api/v1/streams", self._streams),
            web.post(admin.RESTART, guarded(admin.restart)),
        ]

    async def _node(self, _: web.Request) -> web.Response:
        return _json(
            {
                "node": self._config.node.name,
                "role": "relay",
                "version": __version__,
                "uptime_seconds": round(time.time() - self._began, 3),
                "pid": os.getpid(),
                "endpoints": self._endpoints,
                "upstream": self._config.relay.upstream,
            }
        )

    async def _streams(self, _: web.Request) -> web.Response:
        wanted = self._relay.broadcast.wanted()
        return _json(
            {
                "streams": [
                    {
                        "stream": stream,
                        "state": self._relay.states.get(stream, "joining"),
                        "wanted": stream in wanted,
                        "upstreams": [
                            {"node": one.node, "kind": one.kind}
                            for one in self._relay.intake.upstreams(stream)
                        ],
                    }
                    for stream in sorted(self._relay.intake.streams)
                ]
            }
        )


def _json(tree: dict[str, Any]) -> web.Response:
    return web.json_response(tree, headers={"Cache-Control": "no-store"})
