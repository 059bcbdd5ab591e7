"""Simulate flash crowds with the policy of the balancer, and compare it with simpler ones.

``python -m bench.balance [SECTION...]``: ``base``, ``slow``, ``hot``, ``dies``, ``joins``,
``mute``, ``many``, ``large`` (a million viewers on a thousand edges), ``speed``; all but ``large``
if none is named. Loads are shares of capacity; the numbers are the means of two seeds.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from balancer.director import Director
from balancer.nodes import NodeTable, Registration
from balancer.policy import Viewer
from bench.crowd import Crowd, Outcome, Plan, Simulation, crowd
from common.wire.gossip import Gossip

SEEDS = (1, 2)
Row = tuple[str, Plan, dict[str, Any]]

HEADING = (
    f"{'':<44} {'peak U':>7} {'worst':>7} {'end':>6} {'over %':>7} {'pulls':>6} {'failed':>7}"
    f" {'s':>5}\n{'':<44} {'':>7} {'max/mean':>7}"
)


def table(title: str, rows: Iterable[Row]) -> None:
    print(f"\n## {title}\n{HEADING}")
    for name, plan, changes in rows:
        began = time.perf_counter()
        outcomes = [Simulation(crowd(seed, **changes), plan).run() for seed in SEEDS]
        show(name, outcomes, time.perf_counter() - began)


def show(name: str, outcomes: list[Outcome], took: float) -> None:
    def mean(of: Callable[[Outcome], float]) -> float:
        return statistics.mean(map(of, outcomes))

    print(
        f"{name:<44} {mean(lambda o: o.peak):>7.3f} {mean(lambda o: o.worst):>7.2f} "
        f"{mean(lambda o: o.last):>6.2f} {mean(lambda o: 100 * o.overload):>7.2f} "
        f"{mean(lambda o: o.pulls):>6.0f} {mean(lambda o: o.failed):>7.0f} {took:>5.0f}",
        flush=True,
    )


def base() -> None:
    simple: list[Row] = [
        (name, Plan(policy), {})
        for name, policy in (
            ("weighted random", "random"),
            ("least loaded by stale reports", "least"),
            ("two choices by stale reports", "two"),
            ("MistServer's score", "mist"),
        )
    ]
    ours: list[Row] = [
        (f"ours, carrier bonus {bonus:.2f}", Plan(carrier=bonus), {})
        for bonus in (0.0, 0.02, 0.05, 0.10, 0.20)
    ]
    sampled: Row = ("ours, 2 carriers + 2 by chance", Plan(most=0), {})
    without: Row = ("ours, without the ledger", Plan(ledger=False), {})
    table("3 balancers, a report each 2 s", [*simple, *ours, sampled, without])
    usual: list[Row] = [("ours, as it is (a report each 0.5 s)", Plan(interval=0.5), {})]
    table("As in the product", usual)


def slow() -> None:
    rows: list[Row] = [
        (f"{policy}", Plan(policy, interval=5.0), {}) for policy in ("least", "two", "mist")
    ]
    table("A report each 5 s", [*rows, ("ours", Plan(interval=5.0), {})])
    full = {"load": 0.98}
    rows = [(policy, Plan(policy), full) for policy in ("mist", "headwater")]
    table("High load: 0.89 on average", rows)


def hot() -> None:
    table(
        "A hot stream of three times the rate, a report each 5 s",
        [
            ("ours", Plan(interval=5.0), {"hot": 3.0}),
            ("mist", Plan("mist", interval=5.0), {"hot": 3.0}),
        ],
    )


def dies() -> None:
    rows: list[Row] = [
        (f"detected after {after:g} s", Plan(interval=1.0, detection=after, dies=30.0), {})
        for after in (1.5, 3.0, 6.0, 17.0)
    ]
    product = Plan(interval=0.5, dies=30.0)
    rows.append(("as in the product: three reports of 0.5 s", product, {}))
    told = Plan(interval=0.5, dies=30.0, complains=True)
    rows.append(("the same, viewers say ?not= and try again", told, {}))
    table("The largest edge dies after 30 s", rows)


def joins() -> None:
    table(
        "The largest edge comes after 25 s",
        [
            ("without slow start", Plan(joins=25.0, slow_start=0.0), {}),
            ("with slow start of 10 s", Plan(joins=25.0), {}),
            ("MistServer's score", Plan("mist", joins=25.0), {}),
        ],
    )


def mute() -> None:
    table(
        "Reports of a living edge go silent after 15 s",
        [
            ("MistServer's score, old report kept", Plan("mist", interval=1.0, mute=15.0), {}),
            ("ours, old report kept", Plan(interval=1.0, mute=15.0, detection=1e9), {}),
            ("ours", Plan(interval=1.0, mute=15.0), {}),
        ],
    )


def many() -> None:
    rows: list[Row] = [(f"ours, {n} balancers", Plan(balancers=n), {}) for n in (1, 3, 8, 16)]
    rows += [(f"mist, {n} balancers", Plan("mist", balancers=n), {}) for n in (1, 3, 8, 16)]
    table("The number of balancers", rows)
    rows = [
        (f"{edges} edges, {2500 * edges} viewers", Plan(interval=0.5),
         {"edges": edges, "viewers": 2500 * edges})
        for edges in (20, 50, 100)
    ]  # fmt: skip
    table("The number of edges", rows)


def large() -> None:
    sizes = {"edges": 1000, "viewers": 1_000_000}
    print(f"\n## A million viewers on a thousand edges\n{HEADING}", flush=True)
    for name, plan in (
        ("ours", Plan(interval=1.0)),
        ("ours, the largest edge dies", Plan(interval=1.0, detection=1.5, dies=30.0)),
    ):
        began = time.perf_counter()
        who: Crowd = crowd(1, **sizes)
        show(name, [Simulation(who, plan).run()], time.perf_counter() - began)


def speed() -> None:
    """Measure how many choices a second one core makes."""
    print("\n## Choices a second on one core")
    for edges in (4, 20, 50, 100, 1000):
        print(f"{edges:>5} edges: {choices_a_second(edges):>8.0f}")


def choices_a_second(edges: int, count: int = 5000) -> float:
    """Return how many choices a second one core makes among so many edges."""
    nodes = NodeTable()
    for number in range(edges):
        name = f"speed{number}"
        nodes.register(Registration(name, f"http://{name}", 1e12, 1e9), 0.0)
        nodes.deliver(Gossip(name, 1, 1, 0, 1e6 * number, number, 0.1, 0.2, streams=("s",)), 0.0)
    director = Director(nodes, lambda: 3, lambda: 1.0, random=Random(1))
    viewer = Viewer("s", "sim")
    began = time.process_time()
    for _ in range(count):
        director.choose(viewer)
    return count / (time.process_time() - began)


SECTIONS = {one.__name__: one for one in (base, slow, hot, dies, joins, mute, many, large, speed)}

if __name__ == "__main__":
    for section in sys.argv[1:] or [name for name in SECTIONS if name != "large"]:
        SECTIONS[section]()
