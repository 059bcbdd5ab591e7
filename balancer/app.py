"""Put a balancer together and run it."""

import asyncio
import contextlib
import socket
import time

from balancer.api import Redirector, routes
from balancer.cluster import Cluster
from balancer.config import Config, round_trips, weights
from balancer.director import Director
from balancer.gossip import GossipListener
from balancer.pathways import Pathways
from balancer.policy import Rules
from balancer.steering import Steering
from common.bus.gossip import Gossiper, Load
from common.runtime import http, listen, metrics, ready
from common.runtime.curve import Guard, guarded
from common.runtime.logs import Log
from common.runtime.registries import node_entry, open_registry
from common.runtime.registry import Registry

REFRESH = 0.5
"""Seconds between two looks at the registry; who is alive is told by gossip, much faster."""

log = Log("balancer")


class Balancer:
    """Follows the registry and the gossip, and redirects."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self.cluster = Cluster(config, time.monotonic)
        between = round_trips(config.balancer.round_trips)
        self.director = Director(
            self.cluster.edges,
            self.cluster.balancers,
            rules=Rules(weights(config.balancer.weights)),
            round_trip=lambda a, b: between.get(frozenset((a, b))),
        )
        self.redirector = Redirector(
            self.director, config.node.name, config.node.datacenter, lambda: self.cluster.elsewhere
        )
        pathways = Pathways(self.director, self.redirector)
        self.steering = Steering(pathways.seen, self.director.sent, config.balancer.steering)
        self._registry = registry

    def missing(self) -> str | None:
        """Return what a balancer waits for before it is ready."""
        return None if self.cluster.known else "the registry"

    async def follow(self, gossip: GossipListener) -> None:
        """Keep the tables of nodes like the registry says, until cancelled."""
        while True:
            gossip.follow(await self.cluster.look(self._registry))
            self.cluster.measure(self.director.loads())
            await asyncio.sleep(REFRESH)


def check(config: Config) -> None:
    """Refuse settings that the form of the file cannot tell from good ones.

    Raises:
        ConfigError: If a weight or a round trip does not fit.
    """
    weights(config.balancer.weights)
    round_trips(config.balancer.round_trips)


async def run(config: Config) -> None:
    """Serve until cancelled.

    Raises:
        ConfigError: If a setting is wrong.
        ListenError: If an address cannot be listened on.
    """
    check(config)
    listener = listen.bind(config.balancer.http, setting="balancer.http")
    servers = {"balancer.gossip": config.balancer.gossip}
    async with contextlib.AsyncExitStack() as stack:
        registry = await stack.enter_async_context(open_registry(config.node))
        guard = await stack.enter_async_context(guarded(config.node, registry, servers))
        beacon = Gossiper(
            config.node.name, config.balancer.gossip, guard, setting="balancer.gossip"
        )
        stack.callback(beacon.close)
        await _serve(config, registry, listener, beacon, guard)


async def _serve(
    config: Config, registry: Registry, listener: socket.socket, beacon: Gossiper, guard: Guard
) -> None:
    balancer = Balancer(config, registry)
    app = http.application(
        [
            *http.health_routes(balancer.missing, metrics.text),
            *balancer.steering.routes(),
            *routes(balancer.redirector),
        ]
    )
    runner = await http.serve(app, listener)
    gossip = GossipListener(balancer.cluster.heard, guard)
    endpoints = {
        "http": listen.authority(listener),
        "gossip": beacon.authority,
        **guard.endpoints,
    }
    name = config.node.name
    await registry.register(node_entry(config.node, "balancer", endpoints))
    try:
        ready.announce(config.node, endpoints)
        log.info("ready", extra={"node": name, **endpoints})
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(beacon.run(Load))
            tasks.create_task(balancer.follow(gossip))
    finally:
        ready.withdraw(config.node)
        await registry.unregister(name)
        gossip.close()
        await runner.cleanup()
