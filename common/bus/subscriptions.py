"""Who has subscribed to what on the bus, and what a subscriber may ask for."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from common.errors import FormatError
from common.wire.messages import parse_topic

MAX_TOPICS_PER_PEER = 16_384
"""Topics of one connection: three a stream, and one of the node."""

MAX_REFUSED = 100
"""Topics that nobody publishes, after which a connection is cut."""


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
    refused: int = 0


class Subscriptions:
    """The topics of every connection; a connection is known by its file descriptor.

    Descriptors are used again, so each comes with the address of its peer.
    """

    def __init__(self, most: int = MAX_TOPICS_PER_PEER) -> None:
        self._most = most
        self._peers: dict[int, _Peer] = {}
        self._counts: Counter[bytes] = Counter()

    def __contains__(self, topic: bytes) -> bool:
        return topic in self._counts

    @property
    def topics(self) -> int:
        """How many topics somebody has subscribed to."""
        return len(self._counts)

    def subscribe(self, connection: int, address: str, topic: bytes) -> Verdict:
        """Take a subscription."""
        peer = self._peers.get(connection)
        if peer is None or peer.address != address:
            self._drop(connection)
            peer = self._peers[connection] = _Peer(address)
        if topic in peer.topics:
            return Verdict.ACCEPT
        try:
            parse_topic(topic)
        except FormatError:
            peer.refused += 1
            return Verdict.CUT if peer.refused > MAX_REFUSED else Verdict.IGNORE
        if len(peer.topics) >= self._most:
            return Verdict.CUT
        peer.topics.add(topic)
        self._counts[topic] += 1
        return Verdict.ACCEPT

    def unsubscribe(self, connection: int, address: str, topic: bytes) -> None:
        """Take a subscription back."""
        peer = self._peers.get(connection)
        if peer is not None and peer.address == address and topic in peer.topics:
            peer.topics.remove(topic)
            self._release(topic)

    def prune(self, address_of: Callable[[int], str]) -> None:
        """Forget connections that are gone: ``address_of`` a descriptor is another one or none."""
        for connection, peer in list(self._peers.items()):
            if address_of(connection) != peer.address:
                self._drop(connection)

    def _drop(self, connection: int) -> None:
        peer = self._peers.pop(connection, None)
        for topic in peer.topics if peer else ():
            self._release(topic)

    def _release(self, topic: bytes) -> None:
        self._counts[topic] -= 1
        if not self._counts[topic]:
            del self._counts[topic]
