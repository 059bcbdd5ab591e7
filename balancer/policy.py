"""Which edge a viewer should go to. Pure arithmetic, so that it can be reasoned about.

The load of an edge is the fullest of its resources, with what we have sent there and it has not
reported yet added on top (the ledger; see :mod:`balancer.nodes`). The lowest score wins; an edge
that carries the stream already is worth five per cent of load, which keeps the number of
origin-to-edge copies small without herding.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

MAX_AGE = 1.5
"""Seconds without gossip (three missed reports) after which an edge gets nobody."""

FULL = 0.92
"""Load from which an edge gets nobody."""

CARRIER_BONUS = 0.05
SLOW_START = 10.0
"""Seconds during which a new edge scores as fuller than it is, so that it is not swamped."""

CPU_FULL = 0.85
MEMORY_FULL = 0.9


@dataclass(frozen=True, slots=True)
class EdgeState:
    """What the balancer knows about one edge at the moment of the choice."""

    node: str
    age: float
    """Seconds since its last report arrived."""

    uptime: float
    """Seconds since the first report of this boot arrived."""

    bandwidth: float
    """Bits a second going out, by its last report."""

    sessions: int
    cpu: float
    """0 to 1."""

    memory: float
    """0 to 1."""

    bandwidth_capacity: float
    """Bits a second."""

    session_capacity: int
    pending_bandwidth: float = 0.0
    """Bits a second sent there by redirects that its report cannot contain yet."""

    pending_sessions: int = 0
    draining: bool = False
    streams: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One edge in the ranking."""

    node: str
    load: float
    score: float
    refused: str = ""
    """Why it may not be chosen; empty if it may."""


def load(edge: EdgeState, balancers: int = 1) -> float:
    """Return how full an edge is, 0 to about 1.

    Our own pending redirects stand for those of the other balancers too, so they count as many
    times as there are balancers.
    """
    bandwidth = edge.bandwidth + edge.pending_bandwidth * balancers
    sessions = edge.sessions + edge.pending_sessions * balancers
    return max(
        bandwidth / max(edge.bandwidth_capacity, 1.0),
        sessions / max(edge.session_capacity, 1),
        edge.cpu / CPU_FULL,
        edge.memory / MEMORY_FULL,
    )


def refusal(edge: EdgeState, load: float, exclude: Collection[str] = ()) -> str:
    """Return why an edge may not be chosen, or an empty string."""
    if edge.node in exclude:
        return "excluded by the request"
    if edge.age >= MAX_AGE:
        return "no gossip"
    if edge.draining:
        return "draining"
    if load >= FULL:
        return "full"
    return ""


def rank(
    edges: Iterable[EdgeState],
    stream: str,
    *,
    balancers: int = 1,
    exclude: Collection[str] = (),
) -> list[Candidate]:
    """Return every edge, the best first and those that may not be chosen last."""
    found = []
    for edge in edges:
        full = load(edge, balancers)
        score = full / min(max(edge.uptime / SLOW_START, 0.1), 1.0)
        score -= CARRIER_BONUS if stream in edge.streams else 0.0
        found.append(Candidate(edge.node, full, score, refusal(edge, full, exclude)))
    return sorted(found, key=lambda one: (bool(one.refused), one.score, one.node))


def choose(
    edges: Iterable[EdgeState],
    stream: str,
    *,
    balancers: int = 1,
    exclude: Collection[str] = (),
) -> Candidate | None:
    """Return the edge for one viewer of ``stream``, or None if nobody may be chosen."""
    ranking = rank(edges, stream, balancers=balancers, exclude=exclude)
    return ranking[0] if ranking and not ranking[0].refused else None
