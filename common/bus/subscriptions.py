"""Who has subscribed to what on the bus, and what a subscriber may ask for."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from common.errors import FormatError
from common.runtime.connections import Sender
from common.wire.messages import MEDIA, parse_topic

MAX_TOPICS_PER_PEER = 16_384
"""Topics of one connection: three a stream, and one of the node. With one more it is cut."""

MAX_TOPICS_PER_NODE = 2 * MAX_TOPICS_PER_PEER
"""Topics of all connections of a node that has a key: an old one may linger beside a new one. With
one more the connection is cut."""

MAX_REFUSED = 100
"""Topics that one connection asks for and nobody publishes. With one more it is cut."""


class Verdict(Enum):
    """What is to be done with a subscription."""

    ACCEPT = auto()
    IGNORE = auto()
    CUT = auto()
    """Close the connection: it asks for too much."""


@dataclass(slots=True)
class _Peer:
    address: str
    topics: set[bytes] = field(default_factory=set)
    denied: set[bytes] = field(default_factory=set)
    """What it asked for and may not have."""
    refused: int = 0


class Subscriptions:
    """The topics of every connection; a connection is known by its descriptor and its node.

    Descriptors are used again, so each comes with the address of its peer.
    """

    def __init__(
        self,
        most: int = MAX_TOPICS_PER_PEER,
        allows: Callable[[str, str], bool] = lambda node, stream: True,
    ) -> None:
        """``allows`` tells whether a node may have a stream."""
        self._most = most
        self._allows = allows
        self._peers: dict[tuple[int, str], _Peer] = {}
        self._by_node: Counter[str] = Counter()
        self._counts: Counter[bytes] = Counter()

    def __contains__(self, topic: bytes) -> bool:
        return topic in self._counts

    @property
    def topics(self) -> int:
        """How many topics somebody has subscribed to."""
        return len(self._counts)

    def streams(self) -> set[str]:
        """Return the streams whose media somebody has subscribed to."""
        found = (parse_topic(topic) for topic in self._counts)
        return {stream for kind, stream in found if kind == MEDIA}

    def subscribe(self, sender: Sender, topic: bytes) -> Verdict:
        """Take a subscription."""
        place = sender.connection, sender.node
        peer = self._peers.get(place)
        if peer is None or peer.address != sender.address:
            self._drop(place)
            peer = self._peers[place] = _Peer(sender.address)
        if topic in peer.topics:
            return Verdict.ACCEPT
        try:
            _, stream = parse_topic(topic)
        except FormatError:
            peer.refused += 1
            return Verdict.CUT if peer.refused > MAX_REFUSED else Verdict.IGNORE
        crowded = sender.node and self._by_node[sender.node] >= MAX_TOPICS_PER_NODE
        if len(peer.topics) + len(peer.denied) >= self._most or crowded:
            return Verdict.CUT
        if stream and not self._allows(sender.node, stream):
            peer.denied.add(topic)
            return Verdict.IGNORE
        peer.topics.add(topic)
        self._by_node[sender.node] += 1
        self._counts[topic] += 1
        return Verdict.ACCEPT

    def asked(self) -> set[str]:
        """Return the streams that somebody has subscribed to, or was denied."""
        denied = [peer.denied for peer in self._peers.values() if peer.denied]
        return {parse_topic(topic)[1] for topic in self._counts.keys() | set().union(*denied)}

    def misjudged(self) -> list[Sender]:
        """Return the connections that have what they may not have now, or lack what they may."""

        def wrong(node: str, peer: _Peer) -> bool:
            def allowed(topic: bytes) -> bool:
                stream = parse_topic(topic)[1]
                return not stream or self._allows(node, stream)

            return any(map(allowed, peer.denied)) or not all(map(allowed, peer.topics))

        return [
            Sender(node, connection, peer.address)
            for (connection, node), peer in self._peers.items()
            if wrong(node, peer)
        ]

    def unsubscribe(self, sender: Sender, topic: bytes) -> None:
        """Take a subscription back."""
        peer = self._peers.get((sender.connection, sender.node))
        if peer is None or peer.address != sender.address:
            return
        peer.denied.discard(topic)
        if topic in peer.topics:
            peer.topics.remove(topic)
            self._release(sender.node, topic)

    def prune(self, address_of: Callable[[int], str]) -> None:
        """Forget connections that are gone: ``address_of`` a descriptor is another one or none."""
        for place, peer in list(self._peers.items()):
            if address_of(place[0]) != peer.address:
                self._drop(place)

    def _drop(self, place: tuple[int, str]) -> None:
        peer = self._peers.pop(place, None)
        for topic in peer.topics if peer else ():
            self._release(place[1], topic)

    def _release(self, node: str, topic: bytes) -> None:
        self._by_node[node] -= 1
        if not self._by_node[node]:
            del self._by_node[node]
        self._counts[topic] -= 1
        if not self._counts[topic]:
            del self._counts[topic]
