"""Under every seed the books balance; the same seed gives the same; planted bugs are found.

``make sim`` runs a thousand seeds.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.sim.__main__ import describe, replay
from tests.sim.planted import PLANTED, planted
from tests.sim.world import Outcome, simulate

SEEDS = 200
FEW = 4
"""Seeds that are looked at in every run of the fast tests."""

MOST = 30
"""Seeds after which a planted bug must have been found."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep what nodes say about all that goes wrong out of the report."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def failures(outcomes: list[Outcome]) -> str:
    """Return what is wrong, and how to see it happen."""
    found = [one for one in outcomes if one.problems]
    return "\n".join(f"{describe(one)}\n    {replay(one.plan.seed)}" for one in found)


def run(seed: int) -> Outcome:
    """Simulate in a process of its own."""
    logging.disable(logging.CRITICAL)
    return simulate(seed)


def test_the_books_balance_under_a_few_seeds() -> None:
    assert failures([simulate(seed) for seed in range(FEW)]) == ""


def test_a_seed_gives_the_same_again() -> None:
    assert simulate(3).digest == simulate(3).digest != simulate(2).digest


@pytest.mark.sim
@pytest.mark.timeout(900)
def test_the_books_balance_under_all_seeds() -> None:
    with ProcessPoolExecutor(2) as pool:
        outcomes = list(pool.map(run, range(SEEDS), chunksize=10))
    assert failures(outcomes) == ""
    lost = sum(one.lost for one in outcomes)
    seconds = sum(one.seconds for one in outcomes)
    records = sum(one.published for one in outcomes)
    print(f"{SEEDS} seeds, {records} records, {lost} counted as lost, {seconds:.0f} s of CPU")
    assert lost, "no seed ever lost anything: the network is too kind"


@pytest.mark.sim
@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_planted_bug_is_found(name: str) -> None:
    plan = PLANTED[name].plan
    with planted(name):
        found = next((n for n in range(MOST) if simulate(n, what=plan(n)).problems), None)
    assert found is not None, f"nothing found in {MOST} seeds"
    assert failures([simulate(found, what=plan(found))]) == ""
