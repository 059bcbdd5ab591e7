"""The control side of the bus: a ROUTER that answers hello, ping, join and pull.

Answers are read from the pages, one a turn of the event loop, so that no publisher waits. Each edge
has a share of the rate; what repairs the present goes before what fills up the past. What a relay
is still fetching is answered when it is there.
"""

import asyncio
import socket as sockets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import zmq

from common import __version__
from common.bus.access import EVERYBODY, Access
from common.bus.answers import Reach, answer_pull, positions
from common.bus.backfill import Run
from common.errors import FormatError, StreamNotFound
from common.runtime import metrics
from common.runtime.connections import node_of
from common.runtime.curve import Authenticator, Domain
from common.runtime.pump import Pump, adopt, bind, harden
from common.track.catalog import Catalog
from common.track.store import StreamReader
from common.wire.bucket import TokenBucket
from common.wire.control import (
    Absent,
    Control,
    Gone,
    Hello,
    Join,
    Joined,
    Ping,
    Pong,
    Pull,
    decode_control,
    encode_control,
)

MAX_INBOUND = 64 * 1024
"""Bytes of a message from an edge; hello and pull are short. ZeroMQ shuts the connection over which
more comes."""

MAX_PEERS = 4096
"""Edges that an origin or a relay answers. The one that was silent longest is forgotten, with its
questions."""

MAX_QUEUED = 256
"""Questions of one edge that wait for an answer. The oldest are forgotten, and asked again."""

SEND_HWM = 64
"""Answers of at most 256 kB that wait in one edge's connection: 16 MB. Further ones are dropped,
and asked for again."""

JOIN_COST = 4096
"""Bytes that a join is charged with: it reads the pages too."""

MAX_PARKED = 1024
"""Questions to a relay that wait for what it fetches. Of more, the oldest are forgotten."""

PARK_US = 2_000_000
"""How long one may wait; an edge asks again sooner."""

BURST = 4 * 1024 * 1024
IDLE_US = 60_000_000


@dataclass(slots=True)
class _Peer:
    bucket: TokenBucket
    seen_us: int
    urgent: deque[Join | Pull] = field(default_factory=lambda: deque(maxlen=MAX_QUEUED))
    later: deque[Join | Pull] = field(default_factory=lambda: deque(maxlen=MAX_QUEUED))


Find = Callable[[str, int], tuple[StreamReader, Catalog] | None]
"""(stream, epoch) -> its pages and newest catalog; epoch 0 is the newest one."""


class Beyond(Protocol):
    """What a node that is not the origin knows of what its pages do not hold."""

    def awaited(self, stream: str) -> bool:
        """Return whether the stream is about to be here."""

    def reach(self, stream: str) -> Reach:
        """Return what its tracks will hold beyond what they hold now."""

    def fetch(self, stream: str, run: Run) -> bool:
        """Fetch records; return whether they will come."""


@dataclass(frozen=True, slots=True)
class _Parked:
    identity: bytes
    question: Join | Pull
    until_us: int


class Controls:
    """The ROUTER of one origin."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str | sockets.socket,
        find: Find,
        authenticator: Authenticator,
        *,
        access: Access = EVERYBODY,
        node: str,
        rate: int,
        now_us: Callable[[], int],
        beyond: Beyond | None = None,
        setting: str = "origin.control",
    ) -> None:
        """Listen on ``address``, or on a socket that listens already.

        All answers together take ``rate`` bytes a second, one edge half. Without ``beyond`` the
        node is the origin: what it does not hold, nobody does.

        Raises:
            ListenError: If the address cannot be bound.
        """
        self._find = find
        self._access = access
        self._beyond = beyond
        self._parked: OrderedDict[str, list[_Parked]] = OrderedDict()
        """What waits, by stream; the stream that began to wait first is the first."""
        self._waiting = 0
        self._node = node
        self._rate = rate
        self._now = now_us
        self._total = TokenBucket(rate, BURST, now_us())
        self._peers: OrderedDict[bytes, _Peer] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._socket = context.socket(zmq.ROUTER)
        harden(self._socket)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.SNDHWM, SEND_HWM)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # with a limit, a peer can abort us (ADR 31)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_INBOUND)
        self._connections = authenticator.server(self._socket, Domain.BUS)
        try:
            if isinstance(address, sockets.socket):
                self.port = adopt(self._socket, address)
            else:
                self.port = bind(self._socket, address, setting)
        except BaseException:
            self._socket.close(0)
            raise
        self._pump = Pump(self._socket, self._connections.receive, self._deliver)

    def close(self) -> None:
        """Stop answering."""
        if self._timer is not None:
            self._timer.cancel()
        self._pump.close()
        self._socket.close(0)

    def prune(self) -> None:
        """Forget edges that have said nothing for long."""
        now = self._now()
        for identity in [i for i, peer in self._peers.items() if now - peer.seen_us > IDLE_US]:
            del self._peers[identity]
        for stream, waiting in list(self._parked.items()):
            if waiting[-1].until_us <= now:
                self._waiting -= len(self._parked.pop(stream))

    def arrived(self, stream: str) -> None:
        """Answer what waits for records of a stream, or for the stream itself."""
        for parked in self._parked.pop(stream, ()):
            self._waiting -= 1
            peer = self._peers.get(parked.identity)
            if peer is not None and parked.until_us > self._now():
                self._queue(peer, parked.question)

    def _queue(self, peer: _Peer, question: Join | Pull) -> None:
        later = isinstance(question, Pull) and question.newest_first
        (peer.later if later else peer.urgent).append(question)
        self._serve_soon(0)

    def _park(self, identity: bytes, question: Join | Pull) -> None:
        if self._waiting >= MAX_PARKED:
            _, forgotten = self._parked.popitem(last=False)
            self._waiting -= len(forgotten)
        waiting = self._parked.setdefault(question.stream, [])
        waiting.append(_Parked(identity, question, self._now() + PARK_US))
        self._waiting += 1

    def _deliver(self, frames: list[bytes]) -> None:
        if not frames:
            metrics.BUS_DROPS.labels("identity").inc()
            return
        identity = frames[0]
        try:
            message = decode_control(frames[1:])
        except FormatError:
            metrics.BUS_DROPS.labels("malformed").inc()
            return
        now = self._now()
        match message:
            case Hello():
                self._send(identity, Hello(self._node, __version__))
            case Ping(sent):
                self._send(identity, Pong(sent))
            case Join() | Pull() if not self._access.allows(node_of(identity), message.stream):
                metrics.BUS_DROPS.labels("denied").inc()
                if isinstance(message, Join):
                    self._send(identity, Absent(message.id, message.stream))
            case Join() | Pull():
                self._queue(self._peer(identity, now), message)
            case _:
                metrics.BUS_DROPS.labels("unexpected").inc()

    def _peer(self, identity: bytes, now: int) -> _Peer:
        peer = self._peers.get(identity)
        if peer is None:
            if len(self._peers) >= MAX_PEERS:
                self._peers.popitem(last=False)
            peer = self._peers[identity] = _Peer(TokenBucket(self._rate // 2, BURST, now), now)
        peer.seen_us = now
        return peer

    def _serve_soon(self, delay_us: int) -> None:
        if self._timer is None:
            if delay_us:
                self._timer = self._loop.call_later(delay_us / 1_000_000, self._serve)
            else:
                self._timer = self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        """Answer one question of the edge whose turn it is."""
        self._timer = None
        now = self._now()
        wait = self._total.wait_us(now)
        if wait:
            self._serve_soon(wait)
            return
        shortest = None
        for identity, peer in self._peers.items():
            if not peer.urgent and not peer.later:
                continue
            wait = peer.bucket.wait_us(now)
            if wait:
                shortest = wait if shortest is None else min(wait, shortest)
                continue
            self._peers.move_to_end(identity)
            question = peer.urgent.popleft() if peer.urgent else peer.later.popleft()
            size = self._answer(identity, question)
            peer.bucket.charge(size)
            self._total.charge(size)
            self._serve_soon(0)
            return
        if shortest is not None:
            self._serve_soon(shortest)

    def _answer(self, identity: bytes, question: Join | Pull) -> int:
        """Answer and return what it costs, in bytes."""
        epoch = question.epoch if isinstance(question, Pull) else 0
        found = self._find(question.stream, epoch)
        if isinstance(question, Join):
            self._answer_join(identity, question, found)
            return JOIN_COST
        if found is None:
            self._miss(identity, question, question.stop)
            return 0
        reader, catalog = found
        try:
            answer = answer_pull(reader, question, catalog.term)
        except StreamNotFound:
            return 0
        if isinstance(answer, Gone):
            self._miss(identity, question, answer.oldest)
            return 0
        if answer is None or not self._send(identity, answer):
            return 0
        reason = "backfill" if question.newest_first else "repair"
        metrics.RECORDS_RESENT.labels(question.stream, reason).inc(len(answer.items))
        return sum(item.record.size for item in answer.items)

    def _answer_join(
        self, identity: bytes, join: Join, found: tuple[StreamReader, Catalog] | None
    ) -> None:
        beyond = self._beyond
        if found is not None:
            reader, catalog = found
            reach = beyond.reach(join.stream) if beyond is not None else {}
            places = positions(reader, catalog, reach)
            self._send(identity, Joined(join.id, join.stream, catalog, places))
        elif beyond is not None and beyond.awaited(join.stream):
            self._park(identity, join)
        else:
            self._send(identity, Absent(join.id, join.stream))

    def _miss(self, identity: bytes, pull: Pull, oldest: int) -> None:
        """Answer a pull of records that are not held: now, or when they are here."""
        beyond = self._beyond
        run = Run(pull.track, pull.first, pull.stop)
        if beyond is None:
            if self._find(pull.stream, pull.epoch) is None:
                return  # an origin that has just been started may not have adopted it yet
        elif beyond.awaited(pull.stream) or beyond.fetch(pull.stream, run):
            self._park(identity, pull)
            return
        self._send(identity, Gone(pull.id, pull.stream, pull.epoch, pull.track, oldest))

    def _send(self, identity: bytes, message: Control) -> bool:
        try:
            self._socket.send_multipart([identity, *encode_control(message)], zmq.NOBLOCK)
        except zmq.Again:
            metrics.BUS_DROPS.labels("edge_slow").inc()
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._peers.pop(identity, None)
            return False
        finally:
            self._pump.poke()
        return True
