from balancer.nodes import REPORT_WINDOW, START_DELAY, NodeTable
from balancer.policy import MAX_AGE, choose
from common.wire.gossip import Gossip


def report(node: str, sequence: int, *, boot: int = 1, sessions: int = 0) -> Gossip:
    return Gossip(node, boot, sequence, 0, sessions * 1e6, sessions, 0.0, 0.0)


def table(*nodes: str) -> NodeTable:
    found = NodeTable()
    for node in nodes:
        found.register(node, f"http://{node}", 1e9, 1000)
    return found


def test_an_edge_that_registered_but_never_gossiped_gets_nobody() -> None:
    assert choose(table("a").states(0.0), "s") is None


def test_an_edge_is_excluded_three_missed_reports_after_its_last_one() -> None:
    nodes = table("a")
    nodes.deliver(report("a", 1), 10.0)
    assert choose(nodes.states(10.0 + MAX_AGE - 0.01), "s") is not None
    assert choose(nodes.states(10.0 + MAX_AGE), "s") is None


def test_a_burst_between_two_reports_is_spread_over_equal_edges() -> None:
    nodes = table("a", "b", "c", "d")
    for node in nodes.edges:
        nodes.deliver(report(node, 1), 0.0)
        nodes.deliver(report(node, 2), 20.0)
    for number in range(400):
        now = 20 + number / 1000
        chosen = choose(nodes.states(now), "s")
        assert chosen is not None
        nodes.redirected(chosen.node, now)
    assert {len(edge.pending) for edge in nodes.edges.values()} == {100}


def test_a_redirect_leaves_the_ledger_when_a_report_contains_it() -> None:
    nodes = table("a")
    nodes.deliver(report("a", 1), 0.0)
    nodes.redirected("a", 0.2)
    settled = 0.2 + START_DELAY + REPORT_WINDOW / 2
    nodes.deliver(report("a", 2), settled - 0.01)
    assert nodes.states(settled)[0].pending_sessions == 1
    nodes.deliver(report("a", 3, sessions=1), settled + 0.01)
    assert nodes.states(settled)[0].pending_sessions == 0


def test_reordered_reports_and_reports_of_an_earlier_boot_are_ignored() -> None:
    nodes = table("a")
    assert nodes.deliver(report("a", 5, boot=2), 0.0)
    assert not nodes.deliver(report("a", 4, boot=2), 0.1)
    assert not nodes.deliver(report("a", 9, boot=1), 0.1)
    assert nodes.deliver(report("a", 1, boot=3), 0.2)


def test_a_node_that_never_registered_is_not_believed() -> None:
    nodes = table("a")
    assert not nodes.deliver(report("b", 1), 0.0)
    assert [one.node for one in nodes.states(0.0)] == ["a"]


def test_an_edge_that_left_the_registry_is_forgotten_once_it_is_silent() -> None:
    nodes = table("a")
    nodes.deliver(report("a", 1), 0.0)
    nodes.forget(set(), 5.0)
    assert "a" in nodes.edges
    nodes.forget(set(), 60.0)
    assert "a" not in nodes.edges
