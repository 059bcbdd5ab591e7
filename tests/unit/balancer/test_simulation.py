"""The simulation of ``bench/balance.py``, small and seeded: the policy in a crowd."""

from functools import cache

from bench.crowd import Outcome, Plan, Simulation, crowd

STREAMS, VIEWERS = 60, 4000


@cache
def run(plan: Plan, seed: int = 1) -> Outcome:
    who = crowd(seed, edges=10, viewers=VIEWERS, seconds=40, streams=STREAMS)
    return Simulation(who, plan).run()


def test_a_crowd_is_spread_evenly_over_few_copies_of_each_stream() -> None:
    outcome = run(Plan(interval=0.5))
    assert outcome.overload == 0
    assert outcome.peak < 0.75
    assert outcome.worst <= 1.2
    assert outcome.pulls <= 1.5 * STREAMS
    assert outcome.refused == 0


def test_stale_reports_alone_would_overload_an_edge() -> None:
    herd, ours = run(Plan("least")), run(Plan())
    assert herd.overload > 0.02
    assert herd.worst > 2 * ours.worst
    assert ours.overload == 0


def test_without_the_ledger_balancers_herd() -> None:
    assert run(Plan(ledger=False)).worst > 2 * run(Plan()).worst


def test_a_sample_of_the_edges_spreads_as_evenly_as_all_of_them() -> None:
    outcome = run(Plan(most=0))
    assert outcome.worst <= 1.3
    assert outcome.last <= 1.1
    assert outcome.overload == 0


def test_an_edge_that_dies_fails_few_viewers_and_fewer_if_they_say_so() -> None:
    silent = run(Plan(interval=0.5, dies=15.0))
    told = run(Plan(interval=0.5, dies=15.0, complains=True))
    late = run(Plan(interval=0.5, dies=15.0, detection=17.0))
    assert silent.failed < 0.02 * VIEWERS
    assert told.failed < 0.01 * VIEWERS
    assert late.failed > 4 * silent.failed, "an edge that is dead looks idle"


def test_balancers_side_by_side_are_as_good_as_one() -> None:
    alone = run(Plan(interval=0.5, balancers=1))
    many = run(Plan(interval=0.5, balancers=8))
    assert alone.overload == many.overload == 0
    assert max(alone.worst, many.worst) <= 1.2
