"""What the balancer knows about nodes: registration, gossip, and what it has sent them since.

Sans-IO: the clock is a parameter, reports are handed in. A redirect is written into the ledger
until a report of the node is young enough to contain the viewer, so that a burst of viewers
between two reports does not all go to one node.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from balancer.places import NOWHERE, Place
from balancer.policy import MAX_RESTART, NEVER, NodeState
from common.wire.gossip import Gossip

REPORT_WINDOW = 1.0
"""Seconds over which a node averages the bandwidth it reports."""

START_DELAY = 1.0
"""Seconds a redirected viewer may take until its bytes flow."""

FORGET_AFTER = 30.0
"""Seconds without gossip and without a registration after which a node is forgotten."""

UNREGISTERED = 600.0
"""Seconds for which gossip alone is enough, once the registry does not list a node any more."""

SUSPECT = 2.0
"""Seconds for which a node counts as worse after a viewer said that it failed."""

DEFAULT_BITS = 1_000_000.0
"""Bits a second one viewer is expected to take while nothing better is known."""

SMOOTHING = 0.1
"""Weight of a new report in what a viewer of a stream is expected to take."""

PROMISED = 5.0
"""Seconds that a node may take to carry a stream for which a viewer was sent there."""

MAX_PROMISED = 4096
"""Streams that a node is expected to carry soon. Further ones are not kept in mind."""

BELIEVED = 64
"""Redirects that count as followed, besides those that were: a few that are not mean little."""

REMEMBERED = 512
"""Redirects after which what became of them counts half."""

MAX_PENDING = 100_000
"""Redirects that the ledger of a node holds. Further ones are not counted until some are
settled."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What the registry says of a node."""

    node: str
    url: str
    bandwidth: float
    """Bits a second it can carry."""

    sessions: float
    place: Place = NOWHERE
    tags: frozenset[str] = frozenset()
    protocols: frozenset[str] = frozenset()
    endpoints: dict[str, str] = field(default_factory=dict)
    draining: bool = False


@dataclass(slots=True)
class Node:
    """One node: its registration, its last report, and what is on its way to it."""

    registration: Registration
    state: NodeState
    confirmed: float
    """When the registry last listed it."""

    report: Gossip | None = None
    pending: deque[tuple[float, float]] = field(default_factory=deque)
    """Time and expected bits a second of each redirect that is not in a report yet."""

    promised: dict[str, float] = field(default_factory=dict)
    """Streams that it will carry, because somebody was sent there for them, and since when."""

    sent: float = 0.0
    """Redirects that were to be in a report by now; the older, the less they count."""

    came: float = 0.0
    """Sessions that were opened there of so many redirects."""


class NodeTable:
    """All nodes of a role by name. Times are seconds of one monotonic clock, given by the caller.

    ``carriers`` names the nodes that carry each stream, ``version`` changes whenever a node comes,
    goes, or registers anew.
    """

    def __init__(
        self, settle: float = REPORT_WINDOW / 2 + START_DELAY, *, counted: bool = False
    ) -> None:
        """``settle``: age in seconds from which a redirect is expected to be in a report.

        ``counted``: whether reports say how many sessions were opened; those of edges do.
        """
        self.nodes: dict[str, Node] = {}
        self.carriers: dict[str, list[str]] = {}
        self.protocols: frozenset[str] = frozenset()
        self.version = 0
        self._settle = settle
        self._counted = counted
        self._bits = DEFAULT_BITS
        self._bits_of: dict[str, float] = {}
        self._recalled: dict[str, tuple[float, float]] = {}

    def register(self, given: Registration, now: float) -> None:
        """Add a node, or change what the registry says of it."""
        node = self.nodes.get(given.node)
        if node is None:
            state = NodeState(given.node, max(given.bandwidth, 1.0), max(given.sessions, 1.0))
            node = self.nodes[given.node] = Node(given, state, now)
            node.sent, node.came = self._recalled.pop(given.node, (0.0, 0.0))
            _believe(node)
        elif node.registration == given:
            node.confirmed = now
            return
        node.registration, node.confirmed = given, now
        state, report = node.state, node.report
        state.bandwidth_capacity = max(given.bandwidth, 1.0)
        state.session_capacity = max(given.sessions, 1.0)
        state.place, state.tags, state.protocols = given.place, given.tags, given.protocols
        state.draining = given.draining or (report is not None and report.draining)
        self._changed()

    def learnt(self) -> dict[str, list[float]]:
        """Return what is known of the redirects that were followed, for :meth:`recall`."""
        return {name: [node.sent, node.came] for name, node in self.nodes.items() if node.sent}

    def recall(self, learnt: Mapping[str, Sequence[float]]) -> None:
        """Go on with what an earlier image of the balancer knew: it was asked the same things."""
        self._recalled = {name: (float(sent), float(came)) for name, (sent, came) in learnt.items()}

    def forget(self, registered: Collection[str], now: float) -> list[str]:
        """Drop nodes that are neither registered nor heard of, and return them.

        Nodes that still gossip long after the registry has listed them are barred.
        """
        gone = []
        for name, node in [*self.nodes.items()]:
            if name in registered:
                node.state.barred = ""
            elif now - node.state.heard > FORGET_AFTER and now - node.confirmed > FORGET_AFTER:
                self._carries(name, node.state.streams, ())
                del self.nodes[name]
                gone.append(name)
                self._changed()
            elif now - node.confirmed > UNREGISTERED:
                node.state.barred = "not registered"
        return gone

    def deliver(self, report: Gossip, now: float) -> bool:
        """Take in one report; return whether it was news.

        A report that is older than the one we have (reordered, or of an earlier boot) is ignored,
        and so is one of a node that never registered.
        """
        node = self.nodes.get(report.node)
        if node is None:
            return False
        state, last = node.state, node.report
        if last is not None and (report.boot, report.sequence) <= (last.boot, last.sequence):
            return False
        if last is None or (report.boot != last.boot and now >= state.excused_until):
            state.started = now
        if last is None or report.streams != last.streams or node.promised:
            self._streams(node, report, now)
        node.report, state.heard = report, now
        silence = min(report.restarting, MAX_RESTART)
        state.excused_until = now + silence if silence else NEVER
        state.bandwidth, state.sessions = report.bandwidth, report.sessions
        state.cpu, state.memory = report.cpu, report.memory
        state.draining = report.draining or node.registration.draining
        expected = len(node.pending)
        self._settled(node, now - self._settle)
        if self._counted and last is not None and last.boot == report.boot:
            opened = max(0, report.accepted - last.accepted)
            _arrived(node, opened, expected, expected - len(node.pending))
        self._learn(report)
        return True

    def redirected(self, name: str, stream: str, now: float) -> None:
        """Note that a viewer of ``stream`` is on its way to a node."""
        node = self.nodes.get(name)
        if node is None or len(node.pending) >= MAX_PENDING:
            return
        bits = self.expected_bits(stream)
        node.pending.append((now, bits))
        node.state.pending_bandwidth += bits
        node.state.pending_sessions += 1
        if stream not in node.state.streams and len(node.promised) < MAX_PROMISED:
            # It will pull the stream now: the next viewer had better go there as well.
            node.promised[stream] = now
            self._carries(name, (), (stream,))
            node.state.streams = {*node.state.streams, stream}

    def failed(self, names: Iterable[str], now: float) -> None:
        """Note that a viewer could not be served by these nodes."""
        for name in names:
            if name in self.nodes:
                self.nodes[name].state.suspect_until = now + SUSPECT

    def expected_bits(self, stream: str) -> float:
        """Return the bits a second that a viewer of a stream is expected to take."""
        return self._bits_of.get(stream, self._bits)

    def _settled(self, node: Node, before: float) -> None:
        """Take redirects out of the ledger that the report must contain."""
        pending, state = node.pending, node.state
        while pending and pending[0][0] < before:
            state.pending_bandwidth -= pending.popleft()[1]
        state.pending_sessions = len(pending)
        if not pending:
            state.pending_bandwidth = 0.0  # no rounding is carried along

    def _learn(self, report: Gossip) -> None:
        """Learn what a viewer takes, of each stream and of all."""
        for stream, viewers, bits in zip(report.streams, report.viewers, report.bits, strict=False):
            if viewers and bits:
                known = self._bits_of.get(stream, bits / viewers)
                self._bits_of[stream] = known + (bits / viewers - known) * SMOOTHING
        if report.sessions and report.bandwidth:
            mean = report.bandwidth / report.sessions
            self._bits += (mean - self._bits) * SMOOTHING

    def _streams(self, node: Node, report: Gossip, now: float) -> None:
        """Take over which streams a node carries; what was promised to it counts for a while."""
        reported = set(report.streams)
        node.promised = {
            stream: since
            for stream, since in node.promised.items()
            if stream not in reported and now - since < PROMISED
        }
        streams = reported | node.promised.keys()
        self._carries(report.node, node.state.streams, streams)
        node.state.streams = streams

    def _carries(self, name: str, before: Collection[str], after: Collection[str]) -> None:
        for stream in before:
            if stream not in after:
                carriers = self.carriers[stream]
                carriers.remove(name)
                if not carriers:
                    del self.carriers[stream]
                    self._bits_of.pop(stream, None)
        for stream in after:
            if stream not in before:
                self.carriers.setdefault(stream, []).append(name)

    def moved(self) -> None:
        """Note that the distances between places are not what they were."""
        self.version += 1

    def _changed(self) -> None:
        self.version += 1
        self.protocols = frozenset(
            word for node in self.nodes.values() for word in node.state.protocols
        )


def _arrived(node: Node, opened: int, expected: int, settled: int) -> None:
    """Learn which share of the viewers sent to a node come.

    Some ask again though they watch already, others ask for nothing else. The ledger would count
    them as viewers of its own: a few hundred such requests a second, and every node looks full.
    ``opened``: sessions since the report before, of which ``expected`` at most are from us.
    ``settled``: redirects whose viewers must be here by now.
    """
    node.came = min(node.came + opened, node.sent + expected)
    node.sent += settled
    _believe(node)
    if node.sent >= REMEMBERED:
        node.sent, node.came = node.sent / 2, node.came / 2


def _believe(node: Node) -> None:
    node.state.arriving = min(1.0, (node.came + BELIEVED) / (node.sent + BELIEVED))
