import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

import pytest

from balancer.nodes import (
    DEFAULT_BITS,
    FORGET_AFTER,
    MAX_PENDING,
    PROMISED,
    REPORT_WINDOW,
    START_DELAY,
    SUSPECT,
    UNREGISTERED,
    NodeTable,
    Registration,
)
from balancer.policy import (
    MAX_AGE,
    MAX_RESTART,
    SLOW_START,
    Candidate,
    Rules,
    Viewer,
    best,
    judge,
)
from common.wire.gossip import Gossip


def report(
    node: str,
    sequence: int,
    *,
    boot: int = 1,
    sessions: int = 0,
    streams: Mapping[str, tuple[int, float]] = MappingProxyType({}),
    restarting: float = 0.0,
    accepted: int = 0,
) -> Gossip:
    return Gossip(
        node, boot, sequence, 0, sessions * 1e6, sessions, 0.0, 0.0,
        streams=tuple(streams),
        viewers=tuple(viewers for viewers, _ in streams.values()),
        bits=tuple(bits for _, bits in streams.values()),
        restarting=restarting,
        accepted=accepted,
    )  # fmt: skip


def table(*nodes: str) -> NodeTable:
    found = NodeTable()
    for node in nodes:
        found.register(Registration(node, f"http://{node}", 1e9, 1000), 0.0)
    return found


def chosen(nodes: NodeTable, now: float, stream: str = "s") -> str:
    states = [node.state for node in nodes.nodes.values()]
    found = best(judge(state, Viewer(stream), now, Rules()) for state in states)
    return found.node if found else ""


def test_an_edge_that_registered_but_never_gossiped_gets_nobody() -> None:
    assert chosen(table("a"), 0.0) == ""


def test_an_edge_is_excluded_three_missed_reports_after_its_last_one() -> None:
    nodes = table("a")
    nodes.deliver(report("a", 1), 10.0)
    assert chosen(nodes, 10.0 + MAX_AGE - 0.01) == "a"
    assert chosen(nodes, 10.0 + MAX_AGE) == ""


def test_the_silence_of_an_edge_that_restarts_is_excused_for_as_long_as_it_said() -> None:
    nodes = table("a")
    nodes.deliver(report("a", 1, restarting=3.0), 10.0)
    assert chosen(nodes, 12.99) == "a"
    assert chosen(nodes, 13.0) == "", "it does not come back"
    nodes.deliver(report("a", 1, boot=2), 14.0)
    assert chosen(nodes, 14.0) == "a"
    assert chosen(nodes, 14.0 + MAX_AGE) == "", "the promise was that of one restart"


def test_no_edge_is_excused_for_longer_than_the_balancer_allows() -> None:
    nodes = table("a")
    nodes.deliver(report("a", 1, restarting=3600.0), 10.0)
    assert chosen(nodes, 10.0 + MAX_RESTART - 0.01) == "a"
    assert chosen(nodes, 10.0 + MAX_RESTART) == ""


def test_an_edge_that_restarts_counts_as_worse_once_a_viewer_says_that_it_failed() -> None:
    nodes = table("a", "b")
    nodes.deliver(report("a", 1, restarting=3.0), 10.0)
    nodes.deliver(report("b", 1, sessions=10), 10.0)
    assert chosen(nodes, 11.0) == "a"
    nodes.failed(["a"], 11.0)
    assert chosen(nodes, 11.0) == "b"


def test_a_restart_in_place_is_no_slow_start_and_a_late_one_is() -> None:
    nodes = table("a")
    state = nodes.nodes["a"].state
    nodes.deliver(report("a", 1), 0.0)
    nodes.deliver(report("a", 2, restarting=3.0), 100.0)
    nodes.deliver(report("a", 1, boot=2), 102.0)
    assert state.started == 0.0
    nodes.deliver(report("a", 2, boot=2, restarting=3.0), 200.0)
    nodes.deliver(report("a", 1, boot=3), 200.0 + SLOW_START)
    assert state.started == 200.0 + SLOW_START


def test_a_burst_between_two_reports_is_spread_over_equal_edges() -> None:
    nodes = table("a", "b", "c", "d")
    for node in nodes.nodes:
        nodes.deliver(report(node, 1), 0.0)
        nodes.deliver(report(node, 2), 20.0)
    for number in range(400):
        now = 20 + number / 1000
        nodes.redirected(chosen(nodes, now), "s", now)
    assert {len(node.pending) for node in nodes.nodes.values()} == {100}


def test_a_redirect_leaves_the_ledger_when_a_report_contains_it() -> None:
    nodes = table("a")
    state = nodes.nodes["a"].state
    nodes.deliver(report("a", 1), 0.0)
    nodes.redirected("a", "s", 0.2)
    settled = 0.2 + START_DELAY + REPORT_WINDOW / 2
    nodes.deliver(report("a", 2), settled - 0.01)
    assert (state.pending_sessions, state.pending_bandwidth) == (1, DEFAULT_BITS)
    nodes.deliver(report("a", 3, sessions=1), settled + 0.01)
    assert (state.pending_sessions, state.pending_bandwidth) == (0, 0.0)


def test_the_ledger_of_a_node_that_reports_no_more_is_bounded() -> None:
    nodes = table("a")
    for _ in range(MAX_PENDING + 10):
        nodes.redirected("a", "s", 1.0)
    nodes.redirected("nobody", "s", 1.0)
    assert len(nodes.nodes["a"].pending) == MAX_PENDING


def test_what_a_viewer_takes_is_learnt_for_each_stream() -> None:
    nodes = table("a", "b")
    for sequence in range(1, 60):
        nodes.deliver(
            report("a", sequence, sessions=11, streams={"big": (1, 8e6), "small": (10, 3e6)}), 1.0
        )
    assert round(nodes.expected_bits("big")) == 8_000_000
    assert round(nodes.expected_bits("small")) == 300_000
    assert nodes.expected_bits("unknown") == 1e6, "of all viewers"
    nodes.redirected("b", "big", 1.0)
    assert nodes.nodes["b"].state.pending_bandwidth == 8e6
    nodes.deliver(report("a", 60), 2.0)
    assert nodes.expected_bits("big") == 8e6, "b is about to carry it"
    nodes.deliver(report("b", 1), 2.0 + PROMISED)
    assert nodes.expected_bits("big") == 1e6, "nobody carries it any more"


def test_carriers_of_a_stream_are_those_that_report_it() -> None:
    nodes = table("a", "b")
    nodes.deliver(report("a", 1, streams={"s": (1, 1.0), "t": (0, 0.0)}), 0.0)
    nodes.deliver(report("b", 1, streams={"s": (0, 0.0)}), 0.0)
    assert nodes.carriers == {"s": ["a", "b"], "t": ["a"]}
    nodes.deliver(report("a", 2, streams={"t": (0, 0.0)}), 0.0)
    nodes.forget({"a"}, 2 * FORGET_AFTER)
    assert nodes.carriers == {"t": ["a"]}


def test_reordered_reports_and_reports_of_an_earlier_boot_are_ignored() -> None:
    nodes = table("a")
    assert nodes.deliver(report("a", 5, boot=2), 0.0)
    assert not nodes.deliver(report("a", 4, boot=2), 0.1)
    assert not nodes.deliver(report("a", 9, boot=1), 0.1)
    assert nodes.deliver(report("a", 1, boot=3), 0.2)
    assert nodes.nodes["a"].state.started == 0.2


def test_a_node_that_never_registered_is_not_believed() -> None:
    nodes = table("a")
    assert not nodes.deliver(report("b", 1), 0.0)
    assert [*nodes.nodes] == ["a"]


def test_a_node_drains_if_it_says_so_or_the_registry_does() -> None:
    nodes = table("a")
    state = nodes.nodes["a"].state
    nodes.deliver(report("a", 1), 0.0)
    nodes.register(Registration("a", "http://a", 1e9, 1000, draining=True), 0.1)
    assert state.draining
    nodes.deliver(report("a", 2), 0.2)
    assert state.draining
    nodes.register(Registration("a", "http://a", 1e9, 1000), 0.3)
    assert not state.draining


def test_an_edge_that_left_the_registry_is_forgotten_once_it_is_silent() -> None:
    nodes = table("a")
    nodes.deliver(report("a", 1), 1.0)
    assert nodes.forget(set(), 5.0) == []
    assert nodes.forget(set(), 60.0) == ["a"]
    assert not nodes.nodes


def test_gossip_is_enough_for_ten_minutes_after_the_registry_lost_a_node() -> None:
    nodes = table("a")
    nodes.deliver(report("a", 1), UNREGISTERED)
    nodes.forget(set(), UNREGISTERED)
    assert chosen(nodes, UNREGISTERED) == "a"
    nodes.forget(set(), UNREGISTERED + 1)
    assert chosen(nodes, UNREGISTERED + 1) == ""
    nodes.forget({"a"}, UNREGISTERED + 1)
    assert chosen(nodes, UNREGISTERED + 1) == "a"


def test_a_node_that_failed_somebody_is_suspect_for_two_seconds() -> None:
    nodes = table("a", "b")
    nodes.deliver(report("a", 1), 0.0)
    nodes.deliver(report("b", 1, sessions=100), 0.0)
    nodes.deliver(report("a", 2), 20.0)
    nodes.deliver(report("b", 2, sessions=100), 20.0)
    nodes.failed(["a", "nobody"], 20.0)
    assert chosen(nodes, 20.1) == "b"
    nodes.deliver(report("a", 3), 20.0 + SUSPECT)
    nodes.deliver(report("b", 3, sessions=100), 20.0 + SUSPECT)
    assert chosen(nodes, 20.0 + SUSPECT) == "a"


def arriving(
    followed: Callable[[int], int], *, reports: int = 40, silent: float = 0.0
) -> Candidate:
    """Send a node a viewer every 5 ms, of whom some come a second later; return how it is judged.

    At the end the node says nothing for ``silent`` seconds, while more are sent.
    """
    nodes = NodeTable(counted=True)
    nodes.register(Registration("a", "http://a", 1e9, 10_000), 0.0)
    sent, now = 0, 0.0
    for number in range(reports):
        for _ in range(100):
            nodes.redirected("a", "s", now)
            sent, now = sent + 1, now + 0.005
        came = followed(max(0, sent - 200))
        streams = {"s": (40, 40 * 5e6)}
        nodes.deliver(report("a", number, sessions=40, streams=streams, accepted=came), now)
    for _ in range(round(silent / 0.005)):
        nodes.redirected("a", "s", now)
        now += 0.005
    return judge(nodes.nodes["a"].state, Viewer("s"), now, Rules())


def test_who_only_asks_where_to_go_does_not_fill_a_node() -> None:
    assert arriving(lambda sent: 0, silent=4.0).load < 0.92


def test_who_comes_is_waited_for_as_ever() -> None:
    assert arriving(lambda sent: sent).bandwidth == pytest.approx(
        0.2 / 5 + 300 * 5e6 / 1e9, rel=0.2
    )
    half = arriving(lambda sent: sent // 2).bandwidth
    assert arriving(lambda sent: 0).bandwidth < half < arriving(lambda sent: sent).bandwidth


def test_viewers_who_came_before_a_redirect_settles_count_for_it() -> None:
    nodes = NodeTable(counted=True)
    nodes.register(Registration("a", "http://a", 1e9, 10_000), 0.0)
    nodes.deliver(report("a", 1), 0.0)
    for _ in range(5000):
        nodes.redirected("a", "s", 0.1)
    nodes.deliver(report("a", 2, accepted=5000), 0.5)
    nodes.deliver(report("a", 3, accepted=5000), 2.0)
    assert nodes.nodes["a"].state.arriving == 1.0


def test_a_node_that_does_not_count_is_believed() -> None:
    nodes = table("a")
    for number in range(20):
        for _ in range(100):
            nodes.redirected("a", "s", number * 0.5)
        nodes.deliver(report("a", number), number * 0.5)
    assert nodes.nodes["a"].state.arriving == 1.0


def test_the_next_image_knows_which_redirects_are_followed() -> None:
    nodes = NodeTable(counted=True)
    nodes.register(Registration("a", "http://a", 1e9, 10_000), 0.0)
    for number in range(20):
        for _ in range(100):
            nodes.redirected("a", "s", number * 0.5)
        nodes.deliver(report("a", number), number * 0.5)
    learnt = nodes.nodes["a"].state.arriving
    assert learnt < 0.2
    heir = NodeTable(counted=True)
    heir.recall(json.loads(json.dumps(nodes.learnt())))
    for name in "ab":
        heir.register(Registration(name, f"http://{name}", 1e9, 10_000), 0.0)
    assert heir.nodes["a"].state.arriving == learnt
    assert heir.nodes["b"].state.arriving == 1.0
