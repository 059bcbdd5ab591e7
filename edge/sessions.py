"""Viewers: who watches what over which protocol, how much they got, how late it was.

A long-lived viewer (progressive, FLV, WebSocket) opens a session and closes it. An HLS viewer is
a row of requests: :meth:`Sessions.visit` finds its session by peer, user agent and stream, and the
session ends when no request has come for ``idle`` seconds.
"""

import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from common.errors import NodeUnavailable
from common.runtime.logs import Log

log = Log("edge.sessions")

Guard = Callable[[web.Request, str], Awaitable[None]]
"""Called with a request and the stream before its handler; raises AccessDenied."""

Pass = Callable[["Session"], bool]
"""Says that a viewer whom its guard has let in needs no asking now. It must not wait."""

MAX_SESSIONS = 100_000
"""Sessions of a viewer process for which no setting says how many. One more is answered with
503."""

MAX_LISTED = 10_000
"""Sessions that are listed at a time. Of more, the newest are."""

MAX_AGENT = 200
"""Characters of a User-Agent that are looked at. Those after them are ignored."""


class Session:
    """One viewer's visit to one stream."""

    __slots__ = (
        "_sessions",
        "agent",
        "alive",
        "bytes",
        "dropped",
        "number",
        "opened",
        "peer",
        "protocol",
        "seen",
        "stream",
    )

    def __init__(
        self, sessions: "Sessions", number: int, stream: str, protocol: str, peer: str, agent: str
    ) -> None:
        self.number = number
        self.stream = stream
        self.protocol = protocol
        self.peer = peer
        self.agent = agent
        self.bytes = 0
        self.dropped = 0
        """Frames this viewer was too slow for."""
        self.opened = self.seen = sessions.clock()
        self.alive = True
        """Whether the visit has not ended."""
        self._sessions = sessions

    def sent(self, size: int) -> None:
        """Count ``size`` bytes written to this viewer."""
        self.bytes += size
        self.seen = self._sessions.clock()
        self._sessions.count(self.stream, self.protocol, size)

    def close(self, reason: str = "closed") -> None:
        """End the visit; a second call does nothing."""
        self._sessions.forget(self, reason)


class Sessions:
    """Every session of this process; the only door between protocols and viewers."""

    def __init__(
        self,
        *,
        idle: float = 15.0,
        most: int = MAX_SESSIONS,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``idle``: seconds without a request after which an HLS viewer has left."""
        self.idle = idle
        self.most = most
        self.clock = clock
        self.wall = wall
        self.guards: list[Guard] = []
        self._passes: list[Pass] = []
        self.bytes: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.watching: Counter[str] = Counter()
        """Sessions of each stream."""

        self._carried: Counter[str] = Counter()
        self.observe: Callable[[str, float, int], None] = lambda protocol, seconds, count: None
        self.ended: Callable[[dict[str, object]], None] = lambda visit: None
        """Called with the totals of each visit that has ended."""
        self._numbers = itertools.count(1)
        self._all: dict[int, Session] = {}
        self._visits: dict[tuple[str, str, str, str], Session] = {}
        self._visited: set[str] = set()
        """Protocols that had a visit."""

    def open(self, stream: str, protocol: str, request: web.BaseRequest) -> Session:
        """Begin the visit of a long-lived viewer.

        Raises:
            NodeUnavailable: If this process has as many sessions as it may.
        """
        if self.full:
            self.refused[protocol] += 1
            raise NodeUnavailable("this edge has as many viewers as it may have")
        peer = request.remote or ""
        agent = request.headers.get("User-Agent", "")[:MAX_AGENT]
        session = Session(self, next(self._numbers), stream, protocol, peer, agent)
        self._all[session.number] = session
        self.opened[protocol] += 1
        self.watching[stream] += 1
        log.info("session opened", extra=_fields(session))
        return session

    def visit(self, stream: str, protocol: str, request: web.BaseRequest) -> Session:
        """Return the session that this request belongs to, a new one if it is the first.

        Raises:
            NodeUnavailable: If this process has as many sessions as it may.
        """
        agent = request.headers.get("User-Agent", "")[:MAX_AGENT]
        key = (request.remote or "", agent, stream, protocol)
        session = self._visits.get(key)
        if session is None:
            session = self._visits[key] = self.open(stream, protocol, request)
            self._visited.add(protocol)
        session.seen = self.clock()
        return session

    def visiting(self, peer: str, agent: str, stream: str, protocol: str) -> Session | None:
        """Return the session of a visit that has begun."""
        return self._visits.get((peer, agent, stream, protocol))

    def guard(self, ask: Guard, passes: Pass | None = None) -> None:
        """Have ``ask`` called before each request of a stream.

        Where ``passes`` is given, it is asked instead when a viewer who is known fetches on.
        Without it every request is one for ``ask``.
        """
        self.guards.append(ask)
        if passes is not None:
            self._passes.append(passes)

    def passes(self, session: Session) -> bool:
        """Return whether a viewer who is known may fetch on without its guards being asked."""
        if len(self._passes) != len(self.guards):
            return False  # one of them wants to be asked each time
        for passes in self._passes:  # noqa: SIM110 - on the hot path: a generator costs more
            if not passes(session):
                return False
        return True

    def known(self, stream: str, request: web.BaseRequest) -> bool:
        """Return whether a request belongs to a visit that has begun."""
        agent = request.headers.get("User-Agent", "")[:MAX_AGENT]
        key = (request.remote or "", agent, stream)
        return any((*key, protocol) in self._visits for protocol in self._visited)

    @property
    def full(self) -> bool:
        """Whether this process has as many sessions as it may."""
        return len(self._all) >= self.most

    def count(self, stream: str, protocol: str, size: int) -> None:
        """Count bytes written to viewers, however many: once a flush is enough."""
        self.bytes[protocol] += size
        self._carried[stream] += size

    def figures(self) -> dict[str, tuple[int, int]]:
        """Return the viewers of each stream now, and the bytes they got since the last call."""
        carried, self._carried = self._carried, Counter()
        streams = self.watching.keys() | carried.keys()
        return {stream: (self.watching[stream], carried[stream]) for stream in streams}

    def latency(self, protocol: str, capture_us: int, count: int = 1) -> None:
        """Note that a frame captured at ``capture_us`` (Unix microseconds) goes to viewers now.

        ``count``: how many answers carried it.
        """
        if capture_us > 0:
            self.observe(protocol, max(0.0, self.wall() - capture_us / 1e6), count)

    @contextmanager
    def viewer(self, stream: str, protocol: str, request: web.BaseRequest) -> Iterator[Session]:
        """Open a session for the time of a ``with`` block."""
        session = self.open(stream, protocol, request)
        try:
            yield session
        finally:
            session.close()

    def forget(self, session: Session, reason: str) -> None:
        """Take a session out of the list."""
        if self._all.pop(session.number, None) is None:
            return
        session.alive = False
        self.watching[session.stream] -= 1
        if not self.watching[session.stream]:
            del self.watching[session.stream]
        key = (session.peer, session.agent, session.stream, session.protocol)
        if self._visits.get(key) is session:
            del self._visits[key]
        seconds = round(self.clock() - session.opened, 3)
        told = {"reason": reason, "seconds": seconds, "bytes": session.bytes}
        log.info("session closed", extra=_fields(session) | told | {"dropped": session.dropped})
        self.ended(
            {
                "session": session.number,
                "stream": session.stream,
                "protocol": session.protocol,
                "peer": session.peer,
                "agent": session.agent,
                "seconds": seconds,
                "bytes": session.bytes,
                "dropped_frames": session.dropped,
                "reason": reason,
            }
        )

    def sweep(self) -> None:
        """End the visits that have been silent for too long."""
        before = self.clock() - self.idle
        for session in [s for s in self._visits.values() if s.seen < before]:
            session.close("idle")

    def listed(self) -> list[dict[str, object]]:
        """Return the sessions for the API, the newest ``MAX_LISTED``."""
        now = self.clock()
        return [
            {
                "session": session.number,
                "stream": session.stream,
                "protocol": session.protocol,
                "peer": session.peer,
                "agent": session.agent,
                "seconds": round(now - session.opened, 3),
                "bytes": session.bytes,
                "dropped_frames": session.dropped,
            }
            for session in list(self._all.values())[-MAX_LISTED:]
        ]

    def streams(self) -> set[str]:
        """Return the streams that somebody watches."""
        return set(self.watching)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._all.values()))


def _fields(session: Session) -> dict[str, object]:
    return {"stream": session.stream, "protocol": session.protocol, "session": session.number}
