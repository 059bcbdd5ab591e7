"""A flash crowd in virtual time: viewers, edges and several balancers that see stale reports.

The balancers are those of the product: :class:`balancer.director.Director` on a
:class:`balancer.nodes.NodeTable` that gossip fills. Some others, simple ones, are there to compare.
"""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np

from balancer.director import Director
from balancer.nodes import REPORT_WINDOW, START_DELAY, NodeTable, Registration
from balancer.policy import SLOW_START, Rules, Viewer, Weights
from common.errors import NodeUnavailable
from common.runtime import metrics
from common.wire.gossip import Gossip

OVERLOAD = 0.95
"""Share of an edge's capacity beyond which its viewers suffer."""

TELLING = 0.15
"""Mean load from which it is of interest how far the fullest edge is above it."""


@dataclass(frozen=True)
class Crowd:
    """Who comes when, for which stream, and what they take; arrays by viewer."""

    capacity: list[float]
    """Bits a second of each edge."""

    at: list[float]
    stream: list[str]
    bits: list[float]
    delay: list[float]
    """Seconds from the redirect to the first byte."""

    stays: list[float]
    comes: list[bool]
    """The others never use their redirect."""

    seed: int


def crowd(
    seed: int,
    *,
    edges: int = 20,
    viewers: int = 50_000,
    seconds: float = 60.0,
    streams: int = 200,
    load: float = 0.72,
    hot: float = 1.0,
) -> Crowd:
    """Return a crowd of which 60 % want one stream; it is ``hot`` times as large as the others.

    Their rates add up to ``load`` times the capacity of all edges; they come within ``seconds``,
    twice as fast as on average when most come.
    """
    draw = np.random.default_rng(seed)
    sizes = [10e9] * 4 + [5e9] * 8 + [2.5e9] * 8
    capacity = [size for size, _ in zip(itertools.cycle(sizes), range(edges), strict=False)]
    at = np.sort(draw.beta(2, 4, viewers) * seconds)
    others = 1 + np.minimum(streams - 2, draw.zipf(1.3, viewers) - 1)
    stream = np.where(draw.random(viewers) < 0.6, 0, others)
    bits = np.exp(draw.normal(0, 0.35, viewers)) * np.where(stream == 0, hot, 1.0)
    bits *= load * sum(capacity) / bits.sum()
    delay = np.clip(draw.lognormal(-0.2, 0.6, viewers), 0.15, 6)
    return Crowd(
        capacity, at.tolist(), [f"s{n}" for n in stream.tolist()], bits.tolist(), delay.tolist(),
        draw.exponential(600, viewers).tolist(), (draw.random(viewers) >= 0.05).tolist(), seed,
    )  # fmt: skip


class Balancer(Protocol):
    """One balancer, as the simulation sees it."""

    def deliver(self, report: Gossip, now: float) -> None:
        """Take in the report of an edge."""

    def choose(self, stream: str, now: float, without: frozenset[str]) -> str:
        """Return the edge for a viewer; empty if none can take it."""


@dataclass(frozen=True)
class Plan:
    """What the balancers are like, and what goes wrong."""

    policy: str = "headwater"
    """Or ``random``, ``least``, ``two``, ``mist``."""

    balancers: int = 3
    interval: float = 2.0
    """Seconds between two reports of an edge, each the mean since the one before."""

    carrier: float = 0.05
    ledger: bool = True
    slow_start: float = SLOW_START
    detection: float = 0.0
    """Seconds without gossip after which an edge is excluded; 0: three reports."""

    dies: float = 0.0
    """When the first edge dies."""

    joins: float = 0.0
    """When the first edge comes, having been away before."""

    mute: float = 0.0
    """When the balancers hear no more of the first edge, which goes on."""

    complains: bool = False
    """Viewers whose redirect failed say so (``?not=``) when they come again."""

    most: int = 50
    """Edges of which all are looked at."""

    @property
    def max_age(self) -> float:
        return self.detection or 3 * self.interval


@dataclass
class Outcome:
    """What came of it; loads are shares of capacity."""

    peak: float = 0.0
    """The fullest that any edge ever was."""

    worst: float = 0.0
    """The fullest edge over the mean of all, at the worst moment."""

    last: float = 0.0
    """The same at the end."""

    overload: float = 0.0
    """Share of all viewing that was beyond what an edge can carry."""

    pulls: int = 0
    """Copies of streams that went from origins to edges."""

    failed: int = 0
    """Redirects that led to a dead edge."""

    refused: int = 0
    """Viewers that nobody could take at once."""


class Ours:
    """The balancer of the product."""

    def __init__(self, plan: Plan, edges: dict[str, float], seed: int) -> None:
        self._now = 0.0
        self._ledger = plan.ledger
        # A report is the mean of a second or of its interval; a viewer's delay comes on top.
        self.table = NodeTable(max(plan.interval, REPORT_WINDOW) / 2 + START_DELAY)
        self.director = Director(
            self.table,
            lambda: plan.balancers,
            lambda: self._now,
            rules=Rules(
                Weights(carrier=plan.carrier),
                max_age=plan.max_age,
                slow_start=max(plan.slow_start, 1e-9),
            ),
            random=Random(seed),
        )
        self.director.sampler.most = plan.most
        for name, capacity in edges.items():
            self.table.register(Registration(name, f"http://{name}", capacity, 1e9), 0.0)

    def deliver(self, report: Gossip, now: float) -> None:
        self.table.deliver(report, now)

    def choose(self, stream: str, now: float, without: frozenset[str]) -> str:
        self._now = now
        viewer = Viewer(stream, "sim", without)
        self.director.failed(viewer)
        try:
            return self.director.choose(viewer, ledger=self._ledger).registration.node
        except NodeUnavailable:
            return ""


class Simple:
    """Balancers to compare with: none of them keeps a ledger that tells who is on the way."""

    def __init__(self, plan: Plan, edges: dict[str, float], seed: int) -> None:
        self._policy = plan.policy
        self._capacity = edges
        self._names = [*edges]
        self._cumulated = list(itertools.accumulate(edges.values()))
        self._load = dict.fromkeys(edges, 0.0)
        self._added = dict.fromkeys(edges, 0.0)
        self._streams: dict[str, set[str]] = {name: set() for name in edges}
        self._random = Random(seed)
        self._mean = 1e6

    def deliver(self, report: Gossip, now: float) -> None:
        self._load[report.node] = report.bandwidth
        self._added[report.node] *= 0.75  # as MistServer lets its predictions decay
        self._streams[report.node] |= {*report.streams}
        if report.sessions:
            self._mean += 0.1 * (report.bandwidth / report.sessions - self._mean)

    def choose(self, stream: str, now: float, without: frozenset[str]) -> str:
        match self._policy:
            case "random":
                return self._any()
            case "two":
                return min(self._any(), self._any(), key=self._full)
            case "least":
                return min(self._names, key=self._full)
        chosen = min(self._names, key=lambda name: self._mist(name, stream))
        self._added[chosen] += self._mean
        self._streams[chosen].add(stream)
        return chosen

    def _any(self) -> str:
        return self._random.choices(self._names, cum_weights=self._cumulated)[0]

    def _full(self, name: str) -> float:
        return self._load[name] / self._capacity[name]

    def _mist(self, name: str, stream: str) -> float:
        """MistServer's score without CPU and memory, the lower the better."""
        full = (self._load[name] + self._added[name]) / self._capacity[name]
        return full - 0.05 * (stream in self._streams[name])


@dataclass
class Edge:
    """What an edge really carries."""

    capacity: float
    since: float
    bits: float = 0.0
    sent: float = 0.0
    """Bits since its last report."""

    moved: float = 0.0
    """When ``bits`` last changed."""

    dead: bool = False
    away: bool = False
    streams: dict[str, list[float]] | None = None
    """Viewers and bits a second of each stream that it ever pulled."""

    def change(self, now: float, stream: str, viewers: int, bits: float) -> None:
        assert self.streams is not None
        self.sent += self.bits * (now - self.moved)
        self.moved = now
        self.bits += bits
        of_stream = self.streams.setdefault(stream, [0, 0.0])
        of_stream[0] += viewers
        of_stream[1] += bits


class Simulation:
    """One run."""

    def __init__(self, who: Crowd, plan: Plan) -> None:
        self._who = who
        self._plan = plan
        self._names = [f"sim{number}" for number in range(len(who.capacity))]
        capacities = dict(zip(self._names, who.capacity, strict=True))
        self._edges = {n: Edge(c, 0.0, streams={}) for n, c in capacities.items()}
        make = Ours if plan.policy == "headwater" else Simple
        self._balancers: list[Balancer] = [
            make(plan, capacities, who.seed * 100 + number) for number in range(plan.balancers)
        ]
        self._random = Random(who.seed)
        self._events: list[tuple[float, int, str, object]] = []
        self._numbers = itertools.count()
        self._where: dict[int, str] = {}
        self._sequence = itertools.count(1)
        self._outcome = Outcome()
        self._over = self._all = 0.0
        self._end = who.at[-1] + 8

    def run(self) -> Outcome:
        """Let everything happen; return what came of it."""
        plan, first = self._plan, self._names[0]
        for name in self._names:
            self._at(self._random.random() * plan.interval, "report", name)
        for time, kind in ((plan.dies, "die"), (plan.joins, "join")):
            if time:
                self._at(time, kind, first)
        self._edges[first].away = bool(plan.joins)
        self._at(1.0, "look", None)
        arrivals = iter(enumerate(self._who.at))
        for now, kind, about in self._happenings(arrivals):
            getattr(self, f"_{kind}")(now, about)
        self._outcome.overload = self._over / max(self._all, 1.0)
        for name in self._names:
            metrics.forget_node(name)
        return self._outcome

    def _happenings(
        self, arrivals: Iterator[tuple[int, float]]
    ) -> Iterator[tuple[float, str, object]]:
        number, due = next(arrivals)
        while True:
            time, _, kind, about = self._events[0]
            if due <= time:
                yield due, "arrive", (number, frozenset())
                number, due = next(arrivals, (0, float("inf")))
            elif time > self._end:
                return
            else:
                heapq.heappop(self._events)
                yield time, kind, about

    def _at(self, time: float, kind: str, about: object) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), kind, about))

    def _arrive(self, now: float, about: tuple[int, frozenset[str]]) -> None:
        viewer, without = about
        who = self._who
        stream = who.stream[viewer]
        balancer = self._balancers[viewer % len(self._balancers)]
        name = balancer.choose(stream, now, without)
        if not name:
            self._outcome.refused += 1
            self._at(now + 1 + 2 * self._random.random(), "arrive", about)
        elif self._edges[name].dead:
            self._fail(now, viewer, name)
        else:
            edge = self._edges[name]
            if stream not in (edge.streams or {}):
                self._outcome.pulls += 1
                edge.change(now, stream, 0, 0.0)
            if who.comes[viewer]:
                self._at(now + who.delay[viewer], "start", (viewer, name))

    def _fail(self, now: float, viewer: int, name: str) -> None:
        self._outcome.failed += 1
        without = frozenset((name,)) if self._plan.complains else frozenset()
        pause = 0.1 if self._plan.complains else 1 + 2 * self._random.random()
        self._at(now + pause, "arrive", (viewer, without))

    def _start(self, now: float, about: tuple[int, str]) -> None:
        viewer, name = about
        if self._edges[name].dead:
            self._fail(now, viewer, name)
            return
        self._where[viewer] = name
        self._edges[name].change(now, self._who.stream[viewer], 1, self._who.bits[viewer])
        self._at(now + self._who.stays[viewer], "leave", viewer)

    def _leave(self, now: float, viewer: int) -> None:
        name = self._where.pop(viewer, "")
        if name:
            self._edges[name].change(now, self._who.stream[viewer], -1, -self._who.bits[viewer])

    def _report(self, now: float, name: str) -> None:
        edge = self._edges[name]
        if edge.dead:
            return
        self._at(now + self._plan.interval, "report", name)
        if edge.away or (self._plan.mute and name == self._names[0] and now > self._plan.mute):
            return
        assert edge.streams is not None
        edge.sent += edge.bits * (now - edge.moved)
        mean = edge.sent / max(now - edge.since, 1e-9)
        edge.sent, edge.moved, edge.since = 0.0, now, now
        figures = edge.streams.values()
        viewers = tuple(int(count) for count, _ in figures)
        report = Gossip(
            name, 1, next(self._sequence), 0, max(mean, 0.0), sum(viewers), 0.0, 0.0,
            streams=tuple(edge.streams), viewers=viewers, bits=tuple(b for _, b in figures),
        )  # fmt: skip
        for balancer in self._balancers:
            balancer.deliver(report, now)

    def _die(self, now: float, name: str) -> None:
        edge = self._edges[name]
        edge.dead, edge.bits, edge.streams = True, 0.0, {}
        for viewer in [one for one, where in self._where.items() if where == name]:
            del self._where[viewer]
            pause = 0.5 + 3.5 * self._random.random()
            without = frozenset((name,)) if self._plan.complains else frozenset()
            self._at(now + pause, "arrive", (viewer, without))

    def _join(self, now: float, name: str) -> None:
        edge = self._edges[name]
        edge.away, edge.since, edge.moved = False, now, now
        self._report(now, name)

    def _look(self, now: float, _: object) -> None:
        self._at(now + 1.0, "look", None)
        edges = [edge for edge in self._edges.values() if not edge.dead and not edge.away]
        loads = [edge.bits / edge.capacity for edge in edges]
        total = sum(edge.bits for edge in edges)
        mean = total / sum(edge.capacity for edge in edges)
        self._all += total
        self._over += sum(max(0.0, edge.bits - OVERLOAD * edge.capacity) for edge in edges)
        outcome = self._outcome
        outcome.peak = max(outcome.peak, *loads)
        if mean > TELLING:
            outcome.last = max(loads) / mean
            outcome.worst = max(outcome.worst, outcome.last)
