"""What a balancer takes over from the registry."""

from pathlib import Path

import pytest

from balancer.cluster import Cluster
from balancer.config import BalancerSettings, Config
from balancer.director import Director
from balancer.places import Place
from balancer.policy import Viewer
from common.runtime.config import NodeSettings
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import NodeEntry
from common.wire.gossip import Gossip


class Measuring(EmbeddedRegistry):
    """A registry that measures how far datacenters are from each other."""

    measured: dict[frozenset[str], float]

    async def round_trips(self) -> dict[frozenset[str], float]:
        return self.measured


@pytest.fixture
async def registry(tmp_path: Path) -> Measuring:
    made = Measuring(tmp_path)
    made.measured = {frozenset(("ams", "fra")): 0.0075, frozenset(("ams", "nyc")): 0.09}
    for place in ("fra", "nyc", "sin"):
        ends = {"http": f"{place}.test", "gossip": "127.0.0.1:1"}
        await made.register(NodeEntry(f"edge-{place}", "edge", ends, datacenter=place))
    ends = {"http": "b.test", "gossip": "127.0.0.1:2"}
    await made.register(NodeEntry("balancer", "balancer", ends, datacenter="ams"))
    return made


def geography(cluster: Cluster) -> dict[str, float]:
    """Return what distance adds to each edge, for a viewer of whom nothing is known."""
    for name in cluster.edges.nodes:
        cluster.heard(Gossip(name, 1, 1, 0, 0.0, 0, 0.0, 0.0))
    director = Director(cluster.edges, clock=lambda: 0.0, round_trip=cluster.round_trip)
    ranking = director.ranked(Viewer("s", place=Place(cluster.home)))
    return {one.node: round(one.geography, 3) for one in ranking}


async def test_edges_are_as_far_as_the_registry_has_measured(registry: Measuring) -> None:
    cluster = Cluster(Config(node=NodeSettings(name="balancer")), lambda: 0.0)
    assert cluster.home == ""
    await cluster.look(registry)
    assert cluster.home == "ams", "the registry knows where we are"
    assert geography(cluster) == {"edge-fra": 0.015, "edge-nyc": 0.18, "edge-sin": 0.3}
    registry.measured = {**registry.measured, frozenset(("ams", "sin")): 0.05}
    await cluster.look(registry)
    assert geography(cluster) == {"edge-fra": 0.015, "edge-sin": 0.1, "edge-nyc": 0.18}


async def test_the_settings_go_before_what_is_measured(registry: Measuring) -> None:
    settings = BalancerSettings(round_trips={"nyc ams": 0.015})
    cluster = Cluster(
        Config(NodeSettings(name="b", datacenter="ams"), balancer=settings), lambda: 0
    )
    await cluster.look(registry)
    assert geography(cluster) == {"edge-fra": 0.015, "edge-nyc": 0.03, "edge-sin": 0.3}
    assert cluster.elsewhere == [], "the other balancer is near"


async def test_nearer_edges_are_found_anew_when_distances_change(registry: Measuring) -> None:
    cluster = Cluster(Config(node=NodeSettings(name="balancer")), lambda: 0.0)
    await cluster.look(registry)
    before = cluster.edges.version
    await cluster.look(registry)
    assert cluster.edges.version == before
    registry.measured = {}
    await cluster.look(registry)
    assert cluster.edges.version > before
