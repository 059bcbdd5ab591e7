"""Which upstream a node takes a stream from, decided from entries of the registry."""

from collections import Counter

from common.bus.upstream import NAMES, Place, Ways, ways
from common.runtime.registry import NodeEntry, Owner, Standby

PORTS = {"bus": "tcp://127.0.0.1:1", "control": "tcp://127.0.0.1:2"}
OWNER = Owner("live", "origin", 1, 1, {**PORTS, "bus": "tcp://127.0.0.1:3"})


def relay(name: str, datacenter: str = "", upstream: str = "", draining: bool = False) -> NodeEntry:
    endpoints = {"bus": f"tcp://{name}:1", "control": f"tcp://{name}:2", NAMES: upstream}
    return NodeEntry(name, "relay", endpoints, datacenter=datacenter, draining=draining)


def edge(name: str, datacenter: str = "") -> NodeEntry:
    return NodeEntry(name, "edge", {"control": f"tcp://{name}:2"}, datacenter=datacenter)


def names(found: Ways) -> list[str]:
    return [one.node for one in found.paths]


def test_an_edge_goes_to_the_relays_of_its_datacenter_and_then_to_the_owner() -> None:
    nodes = [relay("near", "a"), relay("far", "b"), relay("leaving", "a", draining=True)]
    found = ways(Place("edge", "edge", "a"), "live", OWNER, [], nodes)
    assert names(found) == ["near", "origin"]
    assert [one.kind for one in found.paths] == ["relay", "owner"]


def test_all_edges_of_a_datacenter_choose_the_same_relay_and_streams_are_spread() -> None:
    nodes = [relay(f"r{number}", "a") for number in range(4)]
    first: Counter[str] = Counter()
    for number in range(400):
        stream = f"live+{number}"
        orders = {
            tuple(names(ways(Place(f"e{n}", "edge", "a"), stream, OWNER, [], nodes[::step])))
            for n, step in ((1, 1), (2, -1))
        }
        assert len(orders) == 1
        first[orders.pop()[0]] += 1
    assert max(first.values()) / min(first.values()) < 1.5, first


def test_a_relay_that_goes_moves_its_own_streams_alone() -> None:
    nodes = [relay(f"r{number}") for number in range(4)]
    for number in range(100):
        stream = f"live+{number}"
        before = names(ways(Place("e"), stream, OWNER, [], nodes))
        after = names(ways(Place("e"), stream, OWNER, [], nodes[1:]))
        assert after == [name for name in before if name != "r0"]


def test_a_relay_goes_to_the_owner_unless_its_settings_name_relays() -> None:
    nodes = [relay("hub", "a"), relay("other", "b")]
    assert names(ways(Place("leaf", "relay", "a"), "live", OWNER, [], nodes)) == ["origin"]
    place = Place("leaf", "relay", "a", ("hub", "not there"))
    assert names(ways(place, "live", OWNER, [], nodes)) == ["hub", "origin"]


def test_no_way_leads_back() -> None:
    place = Place("a", "relay", "", ("b", "d"))
    ring = [relay("a", upstream="b,d"), relay("b", upstream="c"), relay("c", upstream="a")]
    assert names(ways(place, "live", OWNER, [], [*ring, relay("d", upstream="b")])) == ["origin"]
    straight = [relay("b", upstream="c"), relay("c"), relay("d", upstream="b")]
    assert set(names(ways(place, "live", OWNER, [], straight))) == {"b", "d", "origin"}


def test_standbys_are_for_those_who_go_to_the_owner_and_siblings_for_edges() -> None:
    standbys = [Standby("live", "second", PORTS), Standby("live", "origin", PORTS)]
    nodes = [edge("far", "b"), edge("near", "a"), edge("me", "a")]
    found = ways(Place("me", "edge", "a"), "live", OWNER, standbys, nodes)
    assert [one.node for one in found.standbys] == ["second"]
    assert [one.node for one in found.siblings] == ["near", "far"]
    assert all(one.endpoints.bus == "" for one in found.siblings)
    assert ways(Place("r", "relay"), "live", OWNER, [], nodes).siblings == ()


def test_without_an_owner_only_siblings_are_left() -> None:
    found = ways(Place("me"), "live", None, [], [relay("r"), edge("e")])
    assert (found.paths, found.owned) == ((), False)
    assert [one.node for one in found.siblings] == ["e"]


def test_a_node_without_a_datacenter_is_where_the_registry_says() -> None:
    nodes = [relay("near", "a"), relay("far", "b"), edge("edge", "a")]
    assert names(ways(Place("edge"), "live", OWNER, [], nodes)) == ["near", "origin"]
    assert names(ways(Place("edge", "edge", "b"), "live", OWNER, [], nodes)) == ["far", "origin"]
    assert names(ways(Place("other"), "live", OWNER, [], nodes)) == ["origin"]
