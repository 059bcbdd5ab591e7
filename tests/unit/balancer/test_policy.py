from hypothesis import given
from hypothesis import strategies as st

from balancer.policy import FULL, MAX_AGE, EdgeState, choose, load, rank


def edge(node: str = "a", **changes: object) -> EdgeState:
    fields: dict[str, object] = {
        "age": 0.1,
        "uptime": 60.0,
        "bandwidth": 0.0,
        "sessions": 0,
        "cpu": 0.0,
        "memory": 0.0,
        "bandwidth_capacity": 1e9,
        "session_capacity": 1000,
    }
    return EdgeState(node, **{**fields, **changes})  # type: ignore[arg-type]


EDGES = st.lists(
    st.builds(
        EdgeState,
        node=st.text("abcdef", min_size=1, max_size=2),
        age=st.floats(0, 3),
        uptime=st.floats(0, 100),
        bandwidth=st.floats(0, 2e9),
        sessions=st.integers(0, 2000),
        cpu=st.floats(0, 1),
        memory=st.floats(0, 1),
        bandwidth_capacity=st.floats(1e6, 1e10),
        session_capacity=st.integers(1, 10_000),
        pending_bandwidth=st.floats(0, 1e9),
        pending_sessions=st.integers(0, 1000),
        draining=st.booleans(),
        streams=st.sets(st.sampled_from(["s", "t"])),
    ),
    unique_by=lambda one: one.node,
    max_size=6,
)


def test_the_emptier_edge_is_chosen() -> None:
    chosen = choose([edge("a", cpu=0.4), edge("b", cpu=0.2)], "s")
    assert chosen is not None
    assert chosen.node == "b"


def test_the_fullest_resource_counts() -> None:
    assert load(edge(sessions=500, bandwidth=1e8)) == 0.5
    assert load(edge(sessions=100, bandwidth=9e8)) == 0.9


def test_an_edge_that_carries_the_stream_is_preferred_while_loads_are_close() -> None:
    carrier = edge("b", cpu=0.34, streams={"s"})
    near, far = (
        choose([edge("a", cpu=0.3), carrier], "s"),
        choose([edge("a", cpu=0.2), carrier], "s"),
    )
    assert near is not None
    assert far is not None
    assert (near.node, far.node) == ("b", "a")


def test_redirects_that_are_not_reported_yet_count_for_every_balancer() -> None:
    one = edge(pending_sessions=100, pending_bandwidth=1e8)
    assert load(one) == 0.1
    assert load(one, balancers=3) == 0.3


def test_a_new_edge_scores_as_fuller_than_it_is_but_is_not_refused() -> None:
    new, old = edge("a", cpu=0.085, uptime=1.0), edge("b", cpu=0.17)
    assert [one.node for one in rank([new, old], "s")] == ["b", "a"]
    assert choose([new], "s") is not None


def test_silent_draining_full_and_excluded_edges_get_nobody() -> None:
    edges = [
        edge("a", age=MAX_AGE),
        edge("b", draining=True),
        edge("c", sessions=int(1000 * FULL)),
        edge("d"),
    ]
    assert choose(edges, "s", exclude=["d"]) is None
    assert {one.node: one.refused for one in rank(edges, "s", exclude=["d"])} == {
        "a": "no gossip",
        "b": "draining",
        "c": "full",
        "d": "excluded by the request",
    }


@given(EDGES, st.integers(1, 4))
def test_the_choice_does_not_depend_on_the_order(edges: list[EdgeState], balancers: int) -> None:
    forward = rank(edges, "s", balancers=balancers)
    assert forward == rank(reversed(edges), "s", balancers=balancers)


@given(EDGES)
def test_nobody_is_sent_to_an_edge_that_may_not_be_chosen(edges: list[EdgeState]) -> None:
    chosen = choose(edges, "s")
    if chosen is None:
        assert all(one.refused for one in rank(edges, "s"))
        return
    state = next(one for one in edges if one.node == chosen.node)
    assert state.age < MAX_AGE
    assert not state.draining
    assert chosen.load < FULL
