"""Which node a viewer or a publisher should go to: pure arithmetic, easy to reason about.

The load of a node is the fullest of its resources, with what we have sent there and it has not
reported yet added on top (the ledger; see :mod:`balancer.nodes`). The lowest score wins::

    load  = max(bandwidth + pending, sessions + pending, cpu, memory), each as a share, weighted
    score = load / slow start - carrier + geography - tags + errors

A node that carries the stream already is worth five per cent of load, which keeps the number of
origin-to-edge copies small without herding. ``bench/balance.py`` shows what each term does.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from balancer.places import NOWHERE, Place
from common.wire.gossip import CPU_FULL, MEMORY_FULL

MAX_AGE = 1.5
"""Seconds without gossip: three reports missed. After that a node gets nobody."""

MAX_RESTART = 10.0
"""Seconds without gossip that a node may ask for because it restarts in place. After that it gets
nobody."""

FULL = 0.92
"""Load from which a node gets nobody."""

SLOW_START = 10.0
"""Seconds during which a new node scores as fuller than it is, so that it is not swamped."""

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts how much. The first four scale a resource, the others are shares of load."""

    cpu: float = 1.0
    memory: float = 1.0
    bandwidth: float = 1.0
    sessions: float = 1.0
    geography: float = 0.3
    """What the farthest node has to be emptier by."""

    carrier: float = 0.05
    """What a node that carries the stream may be fuller by."""

    errors: float = 0.5
    """What a node that just failed a viewer has to be emptier by."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The weights, and the limits beyond which a node gets nobody."""

    weights: Weights = field(default_factory=Weights)
    max_age: float = MAX_AGE
    full: float = FULL
    slow_start: float = SLOW_START


@dataclass(slots=True)
class NodeState:
    """What the balancer knows about one node; times are seconds of its monotonic clock."""

    node: str
    bandwidth_capacity: float
    """Bits a second."""

    session_capacity: float
    place: Place = NOWHERE
    tags: frozenset[str] = frozenset()
    protocols: frozenset[str] = frozenset()
    """Words for what viewers can ask it for; empty if it does not say."""

    heard: float = NEVER
    """When its last report arrived."""

    excused_until: float = NEVER
    """Until then its silence means nothing: it restarts in place, its old processes serve."""

    started: float = NEVER
    """When the first report of this boot arrived; a restart in place is no new boot."""

    bandwidth: float = 0.0
    """Bits a second going out, by its last report."""

    sessions: int = 0
    cpu: float = 0.0
    """0 to 1."""

    memory: float = 0.0
    """0 to 1."""

    pending_bandwidth: float = 0.0
    """Bits a second sent there by redirects that its report cannot contain yet."""

    pending_sessions: int = 0
    arriving: float = 1.0
    """Share of the viewers sent there that come: who only asks where to go is no load."""

    draining: bool = False
    barred: str = ""
    """Why it may not be used at all, whatever it reports."""

    suspect_until: float = NEVER
    """A viewer said that it failed; until then it counts as worse."""

    streams: Collection[str] = ()

    def silent(self, now: float, max_age: float = MAX_AGE) -> bool:
        """Return whether reports are missing that it did not say would be missing."""
        return now - self.heard >= max_age and now >= self.excused_until


@dataclass(frozen=True, slots=True)
class Viewer:
    """What is known about who asks."""

    stream: str = ""
    protocol: str = ""
    """The word for what is asked for; nodes that say they do not have it are refused."""

    excluded: frozenset[str] = frozenset()
    place: Place = NOWHERE
    tags: Mapping[str, float] = field(default_factory=dict)
    """What a node with a tag may be fuller by (negative: has to be emptier by); several tags
    with commas between them: one of them; with ``-`` in front: none of them."""


class Candidate(NamedTuple):
    """One node in the ranking, with each term of its score."""

    node: str
    refused: str
    """Why it may not be chosen; empty if it may."""

    score: float
    load: float
    bandwidth: float
    sessions: float
    cpu: float
    memory: float
    slow_start: float
    """What being new adds."""

    carrier: float
    geography: float
    tags: float
    errors: float


Far = Callable[[Place, Place], float]
"""How far two places are, 0 to 1."""


def judge(
    node: NodeState,
    viewer: Viewer,
    now: float,
    rules: Rules,
    *,
    balancers: int = 1,
    far: Far | None = None,
    home: str = "",
    known_protocols: Collection[str] = (),
) -> Candidate:
    """Return the score of one node for one viewer and whether it may be chosen.

    Our own pending redirects stand for those of the other balancers too, so they count as many
    times as there are ``balancers``. ``home`` is the node that counts as a carrier of the stream
    while there is none. A protocol is only asked of a node if somebody offers it.
    """
    weights = rules.weights
    coming = balancers * node.arriving
    bandwidth = (node.bandwidth + node.pending_bandwidth * coming) / node.bandwidth_capacity
    sessions = (node.sessions + node.pending_sessions * coming) / node.session_capacity
    bandwidth *= weights.bandwidth
    sessions *= weights.sessions
    cpu = node.cpu / CPU_FULL * weights.cpu
    memory = node.memory / MEMORY_FULL * weights.memory
    load = max(bandwidth, sessions, cpu, memory)
    fresh = min(max((now - node.started) / rules.slow_start, 0.1), 1.0)
    slow_start = load / fresh - load
    carries = viewer.stream in node.streams or node.node == home
    carrier = weights.carrier if carries else 0.0
    geography = weights.geography * far(viewer.place, node.place) if far else 0.0
    tags = adjustment(node.tags, viewer.tags) if viewer.tags else 0.0
    errors = weights.errors if now < node.suspect_until else 0.0
    return Candidate(
        node.node,
        refusal(node, viewer, now, rules, load, known_protocols),
        load + slow_start - carrier + geography - tags + errors,
        *(load, bandwidth, sessions, cpu, memory),
        *(slow_start, -carrier, geography, -tags, errors),
    )


def refusal(
    node: NodeState,
    viewer: Viewer,
    now: float,
    rules: Rules,
    load: float,
    known_protocols: Collection[str] = (),
) -> str:
    """Return why a node may not be chosen, or an empty string."""
    if node.node in viewer.excluded:
        return "excluded by the request"
    if node.barred:
        return node.barred
    if node.silent(now, rules.max_age):
        return "no gossip"
    if node.draining:
        return "draining"
    if load >= rules.full:
        return "full"
    asked = viewer.protocol
    if node.protocols and asked in known_protocols and asked not in node.protocols:
        return "protocol not offered"
    return ""


def adjustment(tags: Collection[str], wanted: Mapping[str, float]) -> float:
    """Return what the tags of a node are worth to a viewer, in shares of load."""
    total = 0.0
    for words, value in wanted.items():
        inverted = words.startswith("-")
        found = any(word in tags for word in words.removeprefix("-").split(","))
        total += value if found != inverted else 0.0
    return total


def order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return candidates, the best first and those that may not be chosen last."""
    return sorted(candidates, key=lambda one: (bool(one.refused), one.score, one.node))


def best(candidates: Iterable[Candidate]) -> Candidate | None:
    """Return the candidate to choose, None if none may be chosen."""
    able = [one for one in candidates if not one.refused]
    return min(able, key=lambda one: (one.score, one.node)) if able else None


def common_reason(candidates: Iterable[Candidate]) -> str:
    """Return why most candidates were refused; for metrics, one of few words."""
    reasons = [one.refused for one in candidates if one.refused]
    return max(sorted(set(reasons)), key=reasons.count) if reasons else "no node is known"
