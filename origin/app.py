"""Put an origin together and run it."""

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.bus import access
from common.bus.broadcast import Broadcast, BroadcastSettings
from common.bus.gossip import Gossiper
from common.errors import ConfigError, HeadwaterError
from common.runtime import http, listen, metrics, plugins, reach, ready, reload
from common.runtime.config import build
from common.runtime.curve import encrypts, guarded
from common.runtime.definitions import Definitions
from common.runtime.loader import suggestion
from common.runtime.logs import Log
from common.runtime.registries import node_entry, open_registry
from common.runtime.registry import Registry
from common.runtime.tasks import Backoff
from common.track.limits import Budget
from common.wire.control import MAX_PULL
from origin import inputs
from origin.api import routes
from origin.config import Config, OriginSettings
from origin.input import Input, InputContext
from origin.load import LoadMeter
from origin.ownership import Ownership
from origin.streams import Streams

__all__ = ["Config", "check", "run"]

STOP_SECONDS = 1.0
"""How long inputs may take to send their publishers away."""

log = Log("origin")


class Origin:
    """One origin while it runs."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.definitions = Definitions(config.streams)
        self.endpoints: dict[str, str] = {}
        self._context = InputContext(config.node.name, self._announced)
        self._missing: set[str] = set()
        self._heard = asyncio.Event()
        self._known = plugins.discover(inputs, Input)
        self._settings = {
            name: input_settings(name, cls, config.origin) for name, cls in self._known.items()
        }
        unknown = set(config.origin.inputs) - set(self._known)
        for name in sorted(unknown):
            hint = suggestion(name, self._known)
            raise ConfigError(f"origin.inputs.{name}", f"no such input{hint}")
        if config.origin.repair_rate < MAX_PULL:
            reason = f"must be {MAX_PULL} bytes a second or more: one answer to an edge"
            raise ConfigError("origin.repair_rate", reason)
        self.check_sources()
        access.check(config.streams, encrypts(config.node, self.servers))

    @property
    def servers(self) -> dict[str, str]:
        """Where it listens for other nodes, by setting."""
        return {
            "origin.bus": self.config.origin.bus,
            "origin.control": self.config.origin.control,
            "origin.gossip": self.config.origin.gossip,
        }

    def check_sources(self) -> None:
        """Refuse a source that no input understands, or whose options are wrong.

        Raises:
            ConfigError: With the stream's name.
        """
        for name, settings in self.config.streams.items():
            if not settings.source:
                continue
            where = f"streams.{name}.source"
            puller = self._puller(settings.source)
            if not puller:
                known = sorted({s for cls in self._known.values() for s in cls.schemes if s})
                reason = f"no input can fetch {settings.source!r}; known: {', '.join(known)}"
                raise ConfigError(where, reason)
            try:
                self._known[puller].check(settings.source)
            except ConfigError as error:
                raise ConfigError(where, error.reason) from error

    def missing(self) -> str | None:
        """Return what the node is waiting for."""
        return None if self._heard.is_set() else "the inputs"

    async def serve(self, streams: Streams, registry: Registry) -> None:
        """Run inputs and sources until cancelled; the node is ready once all inputs listen."""
        made = {
            name: cls(streams, self._settings[name], self._context)
            for name, cls in self._known.items()
        }
        self._missing = {cls.endpoint for cls in self._known.values() if cls.endpoint}
        self._check_heard()
        async with asyncio.TaskGroup() as tasks:
            for name, one in made.items():
                tasks.create_task(one.run(), name=f"input {name}")
            tasks.create_task(streams.run(), name="streams")
            following = self.definitions.follow(registry, streams.redefine)
            tasks.create_task(following, name="definitions")
            for stream, settings in self.config.streams.items():
                if settings.source:
                    one = made[self._puller(settings.source)]
                    tasks.create_task(_pull(one, stream, settings.source), name=f"pull {stream}")
            await self._heard.wait()
            await self._go_public(registry)
            log.info("ready", extra={"node": self.config.node.name, **self.endpoints})

    async def _go_public(self, registry: Registry) -> None:
        """Tell the registry, and whoever started us, where everything is."""
        node = self.config.node
        capacity = {
            "bits_per_second": self.config.origin.bandwidth,
            "sessions": float(self.config.origin.publishers),
        }
        await registry.register(node_entry(node, "origin", self.endpoints, capacity))
        ready.announce(node, self.endpoints)

    def _puller(self, source: str) -> str:
        """Return the name of the input that fetches a source; nothing if there is none."""
        scheme = urlsplit(source).scheme
        return next((name for name, cls in self._known.items() if scheme in cls.schemes), "")

    def _announced(self, name: str, url: str) -> None:
        self.endpoints[name] = url.partition("://")[2] or url
        self._missing.discard(name)
        self._check_heard()

    def _check_heard(self) -> None:
        if not self._missing:
            self._heard.set()


def input_settings(name: str, cls: type[Input], origin: OriginSettings) -> Any:
    """Return the settings of an input: its own section, and its address from ``[origin]``.

    Raises:
        ConfigError: If a setting is unknown or has a wrong value.
    """
    tree = dict(origin.inputs.get(name, {}))
    address = getattr(origin, cls.endpoint, "") if cls.endpoint else ""
    if address:
        tree.setdefault("listen", address)
    return build(cls.schema, tree, f"origin.inputs.{name}")


def _redefine(definitions: Definitions, streams: Streams, fresh: Config) -> None:
    if definitions.reload(fresh.streams):
        streams.redefine()


async def _pull(one: Input, stream: str, source: str) -> None:
    """Fetch a source again and again; one that ended by itself is over."""
    backoff = Backoff(first=0.5)
    while True:
        try:
            await one.pull(stream, source)
        except (HeadwaterError, OSError) as error:
            log.warning("source failed", extra={"stream": stream, "error": str(error)})
        else:
            log.info("source ended", extra={"stream": stream})
            return
        await backoff.wait()


def check(config: Config) -> None:
    """Refuse settings that the form of the file cannot tell from good ones.

    Raises:
        ConfigError: If a setting of an input, or a stream's source, does not fit.
    """
    Origin(config)


async def run(config: Config) -> None:
    """Serve until cancelled.

    Raises:
        ConfigError: If a setting does not fit.
        ListenError: If an address cannot be listened on.
    """
    origin = Origin(config)
    settings, node = config.origin, config.node
    async with contextlib.AsyncExitStack() as stack:
        registry = await stack.enter_async_context(open_registry(node))
        listener = stack.enter_context(listen.bind(settings.http, setting="origin.http"))
        bounds = BroadcastSettings(repair_rate=settings.repair_rate)
        guard = await stack.enter_async_context(guarded(node, registry, origin.servers))
        host = settings.public or node.address
        gossiper = Gossiper(node.name, settings.gossip, guard, setting="origin.gossip", public=host)
        stack.callback(gossiper.close)
        bus = Broadcast(
            settings.bus,
            settings.control,
            node=node.name,
            settings=bounds,
            guard=guard,
            rules_of=partial(access.rules_in, origin.definitions),
        )
        stack.callback(bus.close)
        origin.endpoints |= {"http": listen.authority(listener, settings.public)}
        origin.endpoints |= {"gossip": gossiper.authority}
        at = listen.reachable(listen.parse(settings.bus, "origin.bus")[0], host)
        origin.endpoints |= bus.endpoints(settings.public or at)
        ownership = Ownership(
            registry, node.name, origin.endpoints, Path(node.pages), Budget(node.pages_max)
        )
        streams = Streams(
            origin.definitions,
            ownership,
            bus,
            publishers=settings.publishers,
            standby=settings.standby,
            mirror=settings.mirror,
            repair_rate=settings.repair_rate,
            guard=guard,
        )
        stack.push_async_callback(streams.stop)
        # Pages of a stream that nobody has defined are thrown away.
        if await origin.definitions.begin(registry):
            streams.redefine()
        await streams.adopt()
        reload.at_once({"streams.*": partial(_redefine, origin.definitions, streams)})
        app = http.application(
            [
                *http.health_routes(origin.missing, metrics.text),
                *routes(streams, settings.token),
                *reload.routes(settings.token),
                *reach.routes(node.name, registry.nodes, settings.token),
            ]
        )
        runner = await http.serve(app, listener)
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(registry.unregister, node.name)
        stack.callback(ready.withdraw, node)
        gossip = asyncio.create_task(gossiper.run(LoadMeter(streams)), name="gossip")
        stack.callback(gossip.cancel)
        await origin.serve(streams, registry)
