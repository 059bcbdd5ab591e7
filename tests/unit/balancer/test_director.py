from random import Random

import pytest

from balancer.director import REMEMBERED, Director
from balancer.nodes import NodeTable, Registration
from balancer.places import Place, distance
from balancer.policy import Viewer
from common.errors import NodeUnavailable
from common.wire.gossip import Gossip


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def report(name: str, sequence: int, sessions: int = 0, streams: tuple[str, ...] = ()) -> Gossip:
    return Gossip(name, 1, sequence, 0, 0.0, sessions, 0.0, 0.0, streams=streams)


def directed(
    count: int, clock: Clock, places: tuple[Place, ...] = (Place(),), balancers: int = 1
) -> Director:
    table = NodeTable()
    for number in range(count):
        place = places[number % len(places)]
        table.register(Registration(f"e{number}", f"http://e{number}", 1e9, 1000, place), 0.0)
        table.deliver(report(f"e{number}", 1), 0.0)
        table.deliver(report(f"e{number}", 2), clock.now)
    return Director(table, lambda: balancers, clock, random=Random(1))


def test_ranking_writes_nothing_and_sending_does() -> None:
    director = directed(3, Clock())
    before = [one.node for one in director.ranked(Viewer())]
    assert [one.node for one in director.ranked(Viewer())] == before == ["e0", "e1", "e2"]
    assert not director.choices
    director.sent("e0", "s")
    ranking = director.ranked(Viewer())
    assert [one.node for one in ranking] == ["e1", "e2", "e0"]
    assert director.table.nodes["e0"].state.pending_sessions == 1


def test_a_choice_is_remembered_with_every_candidate() -> None:
    clock = Clock()
    director = directed(3, clock)
    director.table.deliver(report("e1", 3, streams=("s",)), clock.now)
    node = director.choose(Viewer("s", "mp4", frozenset({"e0"})))
    assert node.registration.url == "http://e1"
    (choice,) = director.choices
    assert (choice.stream, choice.protocol, choice.node) == ("s", "mp4", "e1")
    assert {one.node: one.refused for one in choice.candidates} == {
        "e0": "excluded by the request",
        "e1": "",
        "e2": "",
    }
    for _ in range(REMEMBERED + 5):
        director.choose(Viewer("s"))
    assert len(director.choices) == REMEMBERED


def test_nobody_able_says_why() -> None:
    clock = Clock()
    director = directed(2, clock)
    clock.now += 60
    with pytest.raises(NodeUnavailable, match="e0: no gossip, e1: no gossip"):
        director.choose(Viewer())
    assert director.choices[-1].node == ""
    with pytest.raises(NodeUnavailable, match="none is known"):
        Director(NodeTable()).choose(Viewer("s"))


def test_of_many_nodes_a_sample_is_looked_at_with_those_that_carry_the_stream() -> None:
    clock = Clock()
    director = directed(200, clock)
    director.table.deliver(report("e77", 3, streams=("s",)), clock.now)
    for _ in range(50):
        ranking = director.ranked(Viewer("s"))
        assert len(ranking) <= 6
        assert "e77" in {one.node for one in ranking}
    assert len(director.ranked(Viewer("s"), everybody=True)) == 200
    seen = {one.node for _ in range(500) for one in director.ranked(Viewer("t"))}
    assert len(seen) > 150


@pytest.mark.parametrize("count", [3, 200])
def test_balancers_begin_a_stream_on_the_same_node_without_asking_each_other(count: int) -> None:
    one, other = directed(count, Clock()), directed(count, Clock())
    nodes = other.table.nodes
    for name in reversed([*nodes]):  # the other has heard of them in another order
        nodes[name] = nodes.pop(name)
    streams = [f"live+{number}" for number in range(200)]
    chosen = [one.choose(Viewer(stream), ledger=False).registration.node for stream in streams]
    assert chosen == [other.choose(Viewer(s), ledger=False).registration.node for s in streams]
    assert len({*chosen}) > min(count, 60) * 0.9, "all streams begin on a few nodes"


def test_a_stream_begins_elsewhere_if_its_node_is_fuller_or_cannot_take_it() -> None:
    clock = Clock()
    director = directed(3, clock)
    home = director.choose(Viewer("s"), ledger=False).registration.node
    director.table.deliver(report(home, 3, sessions=60), clock.now)
    assert director.choose(Viewer("s"), ledger=False).registration.node != home
    director.table.deliver(report(home, 4, sessions=40), clock.now)
    assert director.choose(Viewer("s"), ledger=False).registration.node == home
    assert director.choose(Viewer("s", excluded=frozenset({home}))).registration.node != home
    assert director.ranked(Viewer("s"))[0].node != home, "by now somebody carries it"


def test_near_nodes_are_in_the_sample() -> None:
    clock = Clock()
    places = tuple(Place(f"dc{n}", (float(n), float(n))) for n in range(20))
    director = directed(200, clock, places)
    viewer = Viewer("s", place=Place("", (7.2, 7.1)))
    for _ in range(30):
        ranking = director.ranked(viewer)
        nearest = min(ranking, key=lambda one: one.geography)
        place = director.table.nodes[nearest.node].state.place
        assert place == places[7]
        assert nearest.geography == pytest.approx(0.3 * distance(viewer.place, place))


def test_a_sample_of_which_nobody_is_able_is_widened_to_all() -> None:
    clock = Clock()
    director = directed(200, clock)
    able = {"e123"}
    for name in director.table.nodes.keys() - able:
        director.table.deliver(report(name, 3, sessions=1000), clock.now)
    assert director.choose(Viewer("s")).registration.node == "e123"
    director.table.deliver(report("e123", 3, sessions=1000), clock.now)
    sizes = []
    for _ in range(3):
        with pytest.raises(NodeUnavailable):
            director.choose(Viewer("s"))
        sizes.append(len(director.choices[-1].candidates))
    assert sizes[0] == 200
    assert max(sizes[1:]) <= 6, "all are not asked again at once"
    clock.now += 0.2
    with pytest.raises(NodeUnavailable):
        director.choose(Viewer("s"))
    assert len(director.choices[-1].candidates) == 200


def test_the_first_viewer_of_a_stream_makes_its_edge_a_carrier_at_once() -> None:
    clock = Clock()
    director = directed(4, clock)
    first = director.choose(Viewer("new")).registration.node
    assert director.ranked(Viewer("new"))[0].node == first
    assert director.table.carriers["new"] == [first]
    clock.now += 6.0
    director.table.deliver(report(first, 3), clock.now)
    assert "new" not in director.table.carriers, "it never carried it"


def test_several_balancers_count_what_they_send_several_times() -> None:
    clock = Clock()
    alone, among = directed(2, clock), directed(2, clock, balancers=4)
    for director in (alone, among):
        director.sent("e0", "s")
    loads = [director.ranked(Viewer())[-1].load for director in (alone, among)]
    assert loads == [0.001, 0.004]
