import dataclasses
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from balancer.places import Place
from balancer.policy import (
    FULL,
    MAX_AGE,
    Candidate,
    NodeState,
    Rules,
    Viewer,
    Weights,
    adjustment,
    best,
    judge,
    order,
)

NOW = 1000.0


def edge(node: str = "a", **changes: object) -> NodeState:
    fields: dict[str, object] = {"heard": NOW - 0.1, "started": NOW - 60.0}
    return NodeState(node, 1e9, 1000, **{**fields, **changes})  # type: ignore[arg-type]


def judged(
    edges: Iterable[NodeState], viewer: Viewer | None = None, balancers: int = 1
) -> list[Candidate]:
    given, edges = viewer or Viewer("s"), [*edges]
    offered = frozenset(word for one in edges for word in one.protocols)
    return [
        judge(one, given, NOW, Rules(), balancers=balancers, known_protocols=offered)
        for one in edges
    ]


def chosen(edges: Iterable[NodeState], viewer: Viewer | None = None) -> str:
    found = best(judged(edges, viewer))
    return found.node if found else ""


EDGES = st.lists(
    st.builds(
        NodeState,
        node=st.text("abcdef", min_size=1, max_size=2),
        bandwidth_capacity=st.floats(1e6, 1e10),
        session_capacity=st.integers(1, 10_000),
        heard=st.floats(NOW - 3, NOW),
        started=st.floats(NOW - 100, NOW),
        bandwidth=st.floats(0, 2e9),
        sessions=st.integers(0, 2000),
        cpu=st.floats(0, 1),
        memory=st.floats(0, 1),
        pending_bandwidth=st.floats(0, 1e9),
        pending_sessions=st.integers(0, 1000),
        draining=st.booleans(),
        suspect_until=st.floats(NOW - 3, NOW + 3),
        streams=st.sets(st.sampled_from(["s", "t"])),
    ),
    unique_by=lambda one: one.node,
    max_size=6,
)


def test_the_emptier_edge_is_chosen() -> None:
    assert chosen([edge("a", cpu=0.4), edge("b", cpu=0.2)]) == "b"


def test_the_fullest_resource_counts() -> None:
    loads = [one.load for one in judged([edge(sessions=500, bandwidth=1e8), edge(bandwidth=9e8)])]
    assert loads == [0.5, 0.9]


def test_an_edge_that_carries_the_stream_is_preferred_while_loads_are_close() -> None:
    carrier = edge("b", cpu=0.34, streams={"s"})
    assert chosen([edge("a", cpu=0.3), carrier]) == "b"
    assert chosen([edge("a", cpu=0.2), carrier]) == "a"


def test_redirects_that_are_not_reported_yet_count_for_every_balancer() -> None:
    one = edge(pending_sessions=100, pending_bandwidth=1e8)
    assert judged([one])[0].load == 0.1
    assert judged([one], balancers=3)[0].load == 0.3


def test_a_new_edge_scores_as_fuller_than_it_is_but_is_not_refused() -> None:
    new, old = edge("a", cpu=0.085, started=NOW - 1), edge("b", cpu=0.17)
    assert [one.node for one in order(judged([new, old]))] == ["b", "a"]
    assert chosen([new]) == "a"


def test_silent_draining_full_barred_and_excluded_edges_get_nobody() -> None:
    edges = [
        edge("a", heard=NOW - MAX_AGE),
        edge("b", draining=True),
        edge("c", sessions=int(1000 * FULL)),
        edge("d"),
        edge("e", barred="not registered"),
    ]
    viewer = Viewer("s", excluded=frozenset("d"))
    assert chosen(edges, viewer) == ""
    assert {one.node: one.refused for one in judged(edges, viewer)} == {
        "a": "no gossip",
        "b": "draining",
        "c": "full",
        "d": "excluded by the request",
        "e": "not registered",
    }


def test_an_edge_that_failed_a_viewer_is_the_last_choice_and_still_one() -> None:
    suspect = edge("a", suspect_until=NOW + 1)
    assert chosen([suspect, edge("b", cpu=0.3)]) == "b"
    assert chosen([suspect, edge("b", draining=True)]) == "a"


def test_only_edges_that_offer_a_protocol_get_its_viewers() -> None:
    edges = [edge("a", protocols=frozenset({"cmaf"})), edge("b", cpu=0.5)]
    assert chosen(edges, Viewer("s", "cmaf")) == "a"
    edges.append(edge("c", cpu=0.7, protocols=frozenset({"webrtc"})))
    assert chosen(edges[::2], Viewer("s", "webrtc")) == "c"
    assert chosen(edges[::2], Viewer("s", "html")) == "a", "nobody offers it as a protocol"


def test_what_is_near_is_preferred_until_it_is_much_fuller() -> None:
    viewer = Viewer("s", place=Place("ams"))
    near, far = edge("near", cpu=0.2, place=Place("ams")), edge("far", place=Place("nyc"))

    def where(cpu: float) -> str:
        near.cpu = cpu
        one = [
            judge(node, viewer, NOW, Rules(), far=lambda a, b: float(a != b))
            for node in (near, far)
        ]
        found = best(one)
        return found.node if found else ""

    assert (where(0.2), where(0.4)) == ("near", "far")


def test_tags_move_the_choice_by_what_the_viewer_gives_for_them() -> None:
    tags = frozenset({"eu", "ssd"})
    assert adjustment(tags, {"eu": 0.1}) == 0.1
    assert adjustment(tags, {"us,eu": 0.1}) == 0.1
    assert adjustment(tags, {"-us": -0.2, "-us,eu": 5.0}) == -0.2
    tagged = edge("a", cpu=0.3, tags=tags)
    assert chosen([tagged, edge("b")], Viewer("s", tags={"eu": 0.5})) == "a"
    assert chosen([tagged, edge("b")], Viewer("s", tags={"eu": 0.1})) == "b"


def test_the_terms_of_a_score_add_up_to_it() -> None:
    state = edge(cpu=0.34, streams={"s"}, started=NOW - 5, suspect_until=NOW + 1, tags={"x"})
    viewer = Viewer("s", tags={"x": 0.2}, place=Place("ams"))
    one = judge(state, viewer, NOW, Rules(), far=lambda a, b: 0.5)
    parts = one.load + one.slow_start + one.carrier + one.geography + one.tags + one.errors
    assert abs(one.score - parts) < 1e-12
    assert (one.carrier, one.geography, one.tags, one.errors) == (-0.05, 0.15, -0.2, 0.5)


def test_weights_scale_what_they_name() -> None:
    rules = Rules(Weights(cpu=0.0, sessions=2.0))
    assert judge(edge(cpu=0.8, sessions=100), Viewer("s"), NOW, rules).load == 0.2


@given(EDGES, st.integers(1, 4))
def test_the_choice_does_not_depend_on_the_order(edges: list[NodeState], balancers: int) -> None:
    forward = order(judged(edges, balancers=balancers))
    assert forward == order(judged(reversed(edges), balancers=balancers))
    found = best(judged(edges, balancers=balancers))
    assert found == (forward[0] if forward and not forward[0].refused else None)


@given(EDGES)
def test_nobody_is_sent_to_an_edge_that_may_not_be_chosen(edges: list[NodeState]) -> None:
    found = best(judged(edges))
    if found is None:
        assert all(one.refused for one in judged(edges))
        return
    state = next(one for one in edges if one.node == found.node)
    assert NOW - state.heard < MAX_AGE
    assert not state.draining
    assert found.load < FULL


@given(EDGES)
def test_judging_changes_nothing(edges: list[NodeState]) -> None:
    before = [dataclasses.replace(one) for one in edges]
    judged(edges)
    assert edges == before
