"""Put a balancer together and run it."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

from aiohttp import web

from balancer import ingest, mist, targets
from balancer.api import Redirector, routes
from balancer.cluster import Cluster
from balancer.config import Config, round_trips, weights
from balancer.director import Director
from balancer.gossip import GossipListener
from balancer.ingest import IngestApi, IngestChoice
from balancer.mist import Mist
from balancer.pathways import Pathways
from balancer.policy import Rules
from balancer.sizing_api import SizingApi
from balancer.sizing_ask import this_machine
from balancer.steering import Steering
from common.bus.gossip import Gossiper, Load
from common.runtime import (
    admin,
    http,
    inherit,
    listen,
    metrics,
    proxies,
    reach,
    ready,
    reload,
    restart,
    trust,
)
from common.runtime import stand_in as standing
from common.runtime.control import Channel
from common.runtime.curve import Guard, guarded
from common.runtime.logs import Log
from common.runtime.proxies import Proxies
from common.runtime.registries import node_entry, open_registry
from common.runtime.registry import Registry
from common.runtime.serving import KEEPALIVE
from common.wire.gossip import Gossip

REFRESH = 0.5
"""Seconds between two looks at the registry; who is alive is told by gossip, much faster."""

WARM = 1.0
"""Seconds that a balancer which starts listens to the gossip before it redirects, at most. A node
that is silent for longer would not be used anyhow."""

LINGER = KEEPALIVE + 1.0
"""Seconds that connections may rest before a restart; others answer meanwhile."""

log = Log("balancer")


class Balancer:
    """Follows the registry and the gossip, and redirects."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self.cluster = Cluster(config, time.monotonic)
        self.director = Director(
            self.cluster.edges,
            self.cluster.balancers,
            rules=Rules(weights(config.balancer.weights)),
            round_trip=self.cluster.round_trip,
        )
        self.redirector = Redirector(
            self.director, config.node.name, config.node.datacenter, lambda: self.cluster.elsewhere
        )
        pathways = Pathways(self.director, self.redirector)
        self.steering = Steering(pathways.seen, self.director.sent, config.balancer.steering)
        self.node = config.node
        self.origins = Director(self.cluster.origins, self.cluster.balancers)
        self.ingest = IngestChoice(self.origins, registry, config.node.datacenter)
        self._mist = Mist(self.redirector, self.ingest, config.balancer.token)
        self._token = config.balancer.token
        self._proxies = Proxies(config.balancer.proxies, "balancer.proxies")
        self._registry = registry
        self._heard = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        """Return all routes; the last ones take every path that no other does."""
        return [
            *http.health_routes(self.missing, metrics.text),
            web.post(admin.RESTART, trust.guard(self._token, "balancer")(admin.restart)),
            *targets.routes(self._registry, self._token),
            *self.steering.routes(),
            *mist.routes(self._mist),
            *ingest.routes(IngestApi(self.ingest)),
            *SizingApi(this_machine()).routes(),
            *reload.routes(self._token),
            *reach.routes(self.node.name, self._registry.nodes, self._token),
            *routes(self.redirector),
        ]

    def missing(self) -> str | None:
        """Return what a balancer waits for before it is ready."""
        return None if self.cluster.known else "the registry"

    async def warm(self) -> None:
        """Wait until every node that is registered has been heard, or ``WARM`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WARM):
                while not self.cluster.known or self.cluster.unheard():
                    self._heard.clear()
                    await self._heard.wait()

    @contextlib.asynccontextmanager
    async def redirecting(
        self, listener: socket.socket, guard: Guard
    ) -> AsyncIterator[web.AppRunner]:
        """Follow the nodes for the time of a block, which begins when viewers are answered."""

        def heard(report: Gossip) -> None:
            self.cluster.heard(report)
            self._heard.set()

        gossip = GossipListener(heard, guard)
        try:
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(self.follow(gossip))
                await self.warm()
                app = http.application(self.routes())
                app.middlewares.insert(0, proxies.behind(self._proxies))
                runner = await http.serve(app, listener, speaks=self._proxies.speaks)
                try:
                    yield runner
                finally:
                    await runner.cleanup()
                    following.cancel()
        finally:
            gossip.close()

    async def follow(self, gossip: GossipListener) -> None:
        """Keep the tables of nodes like the registry says, until cancelled."""
        while True:
            gossip.follow(await self.cluster.look(self._registry))
            self.redirector.datacenter = self.ingest.datacenter = self.cluster.home
            self._heard.set()
            self.cluster.measure(self.director.loads())
            await asyncio.sleep(REFRESH)


def check(config: Config) -> None:
    """Refuse settings that the form of the file cannot tell from good ones.

    Raises:
        ConfigError: If a weight, a round trip or a proxy does not fit.
    """
    weights(config.balancer.weights)
    round_trips(config.balancer.round_trips)
    Proxies(config.balancer.proxies, "balancer.proxies")


async def run(config: Config) -> None:
    """Serve until cancelled.

    Raises:
        ConfigError: If a setting is wrong.
        ListenError: If an address cannot be listened on.
    """
    check(config)
    stand_in = standing.channel()
    listener = listen.bind(config.balancer.http, setting="balancer.http")
    servers = {"balancer.gossip": config.balancer.gossip}
    async with contextlib.AsyncExitStack() as stack:
        registry = await stack.enter_async_context(open_registry(config.node))
        if stand_in is not None:
            guard = await stack.enter_async_context(guarded(config.node, registry))
            await _stand_in(_heir(config, registry), listener, guard, stand_in)
            return
        guard = await stack.enter_async_context(guarded(config.node, registry, servers))
        beacon = Gossiper(
            config.node.name,
            config.balancer.gossip,
            guard,
            setting="balancer.gossip",
            public=config.node.address,
        )
        stack.callback(beacon.close)
        public = config.balancer.public
        await _serve(_heir(config, registry), registry, listener, beacon, guard, public)


def _heir(config: Config, registry: Registry) -> Balancer:
    """Return a balancer that knows what the image before this one learnt, if there was one."""
    balancer = Balancer(config, registry)
    balancer.cluster.edges.recall(inherit.estate().handover.state.get("learnt", {}))
    return balancer


async def _serve(
    balancer: Balancer,
    registry: Registry,
    listener: socket.socket,
    beacon: Gossiper,
    guard: Guard,
    public: str,
) -> None:
    node = balancer.node
    endpoints = {
        "http": public or listen.authority(listener),
        "gossip": beacon.authority,
        **guard.endpoints,
    }
    async with asyncio.TaskGroup() as tasks, balancer.redirecting(listener, guard) as runner:
        restart.hand_over(lambda: _leave(runner, balancer))
        await registry.register(node_entry(node, "balancer", endpoints))
        try:
            ready.announce(node, endpoints)
            log.info("ready", extra={"node": node.name, **endpoints})
            tasks.create_task(beacon.run(Load))
            tasks.create_task(standing.dismiss())
            await asyncio.Event().wait()
        finally:
            ready.withdraw(node)
            await registry.unregister(node.name)


async def _leave(runner: web.AppRunner, balancer: Balancer) -> restart.Legacy:
    """Get ready for the next image: a stand-in serves until that does."""
    state = {"learnt": balancer.cluster.edges.learnt()}
    stand_in = await standing.appoint(state)
    await http.retire(runner, LINGER)
    return stand_in.legacy(state)


async def _stand_in(
    balancer: Balancer, listener: socket.socket, guard: Guard, channel: Channel
) -> None:
    """Redirect viewers until the next image of the balancer does."""
    async with balancer.redirecting(listener, guard) as runner:
        channel.send({"t": "ready"})
        async for message in channel:
            if message.get("t") == "stop":
                break
        await http.retire(runner, LINGER)
