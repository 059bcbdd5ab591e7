"""Put a balancer together and run it."""

import asyncio
import socket
import time

from balancer.api import Redirector, routes
from balancer.config import Config
from balancer.gossip import GossipListener
from balancer.nodes import NodeTable
from balancer.policy import MAX_AGE
from common.runtime import http, listen, metrics, ready
from common.runtime.curve import Guard, guarded
from common.runtime.logs import Log
from common.runtime.registries import node_entry, open_registry
from common.runtime.registry import Registry
from common.wire.gossip import Gossip

REFRESH = 0.5
"""Seconds between two looks at the registry; who is alive is told by gossip, much faster."""

log = Log("balancer")


class Balancer:
    """Follows the registry and the gossip, and redirects."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self._config = config
        self._registry = registry
        self._table = NodeTable()
        self._balancers = 1
        self._known = False
        self._excluded: set[str] = set()
        self.redirector = Redirector(self._table, lambda: self._balancers, time.monotonic)

    def heard(self, report: Gossip) -> None:
        """Take in the report of an edge."""
        self._table.deliver(report, time.monotonic())

    def missing(self) -> str | None:
        """Return what a balancer waits for before it is ready."""
        return None if self._known else "the registry"

    async def follow(self, gossip: GossipListener) -> None:
        """Keep the table of edges like the registry says, until cancelled."""
        while True:
            edges = await self._registry.nodes("edge")
            settings = self._config.balancer
            for entry in edges:
                self._table.register(
                    entry.name,
                    _url(entry.endpoints["http"]),
                    entry.capacity.get("bits_per_second", settings.bandwidth),
                    int(entry.capacity.get("sessions", settings.sessions)),
                )
            gossip.follow(
                {
                    _address(entry.endpoints["gossip"]): entry.endpoints.get("curve", "")
                    for entry in edges
                }
            )
            self._table.forget({entry.name for entry in edges}, time.monotonic())
            self._balancers = max(1, len(await self._registry.nodes("balancer")))
            self._known = True
            self._measure()
            await asyncio.sleep(REFRESH)

    def _measure(self) -> None:
        states = self._table.states(time.monotonic())
        silent = {state.node for state in states if state.age >= MAX_AGE}
        unheard = {state.node for state in states if state.age == float("inf")}
        for node in silent - self._excluded - unheard:
            log.warning("edge excluded", extra={"node": node, "reason": "no gossip"})
        for node in self._excluded - silent:
            log.info("edge in use", extra={"node": node})
        self._excluded = silent
        metrics.EDGES_ELIGIBLE.set(len(states) - len(silent))
        for state in states:
            if state.age != float("inf"):
                metrics.GOSSIP_AGE.labels(node=state.node).set(state.age)


def check(config: Config) -> None:
    """Find nothing wrong: the form of the settings of a balancer is all there is to them."""


async def run(config: Config) -> None:
    """Serve until cancelled."""
    listener = listen.bind(config.balancer.http, setting="balancer.http")
    async with (
        open_registry(config.node) as registry,
        guarded(config.node, registry) as guard,
    ):
        await _serve(config, registry, listener, guard)


async def _serve(config: Config, registry: Registry, listener: socket.socket, guard: Guard) -> None:
    balancer = Balancer(config, registry)
    app = http.application(
        [*http.health_routes(balancer.missing, metrics.text), *routes(balancer.redirector)]
    )
    runner = await http.serve(app, listener)
    gossip = GossipListener(balancer.heard, guard)
    endpoints = {"http": listen.authority(listener)}
    name = config.node.name
    await registry.register(node_entry(config.node, "balancer", endpoints))
    try:
        ready.announce(config.node, endpoints)
        log.info("ready", extra={"node": name, **endpoints})
        await balancer.follow(gossip)
    finally:
        ready.withdraw(config.node)
        await registry.unregister(name)
        gossip.close()
        await runner.cleanup()


def _url(address: str) -> str:
    return address if "://" in address else f"http://{address}"


def _address(address: str) -> str:
    return address if "://" in address else f"tcp://{address}"
