"""The short way of a request: answers that are finished already go out from ``data_received``.

A viewer of HLS asks for the same few objects as everybody else, thousands of times a second in
all. aiohttp takes 30 to 40 us to make a request object, a task and a response; what is needed is
to find the bytes and to write them. So a GET that is whole, ordinary and alone in what was
received, of a viewer that is known, for a target that an output has :class:`~edge.published.Reply`
for, is answered here; one that waits for a part is parked here, without a task. Everything else
goes to aiohttp as it came, and gets the same bytes where both could answer.

Access: a session begins in aiohttp, where the guards are asked. The bypass serves sessions that
have begun, after each guard has said that this one needs no asking (:meth:`Sessions.passes`); it
is asked again when a parked request wakes.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from common.runtime.proxies import NONE, Proxies
from edge.asked import Blocks
from edge.output import Output
from edge.published import Published, Reply, Waiting
from edge.sessions import Session, Sessions

if TYPE_CHECKING:
    from edge.http import Connection

MAX_TARGETS = 4096
"""Targets of which the finished answer is remembered, for each content coding. What is asked for
beyond them goes through aiohttp."""

BATCH = 200
"""Parked requests that are answered before the loop has its turn."""

END = b"\r\n\r\n"
_VERSION = b" HTTP/1.1"
_ADDED = len(_VERSION)


class Bypass:
    """What the connections of a process are answered with on the short way."""

    def __init__(
        self,
        outputs: Iterable[Output],
        sessions: Sessions,
        retiring: Callable[[], bool],
        proxies: Proxies = NONE,
    ) -> None:
        """``retiring``: whether answers have to say that they are the last; then none is here."""
        self._clock = sessions.clock  # the same as the loop's
        self._outputs = [o for o in outputs if type(o).published is not Output.published]
        self._sessions = sessions
        self._retiring = retiring
        self.proxies = proxies
        self._blocks = Blocks(proxies)
        self._plain: dict[bytes, Published] = {}
        self._gzip: dict[bytes, Published] = {}
        self.answered = 0
        """Requests that were answered here."""

    def take(self, connection: "Connection", data: bytes) -> bool:
        """Answer or park a request that came alone; false if it is one for aiohttp."""
        asked = connection.asked
        end = data.find(b"\r\n")
        if asked is None or data[end:] != asked.block:
            if end < 0 or (asked := self._blocks.read(data[end:])) is None:
                return False
            connection.asked = asked
            connection.visit = None
        if not data.startswith(b"GET /") or data[end - _ADDED : end] != _VERSION:
            return False
        target = data[4 : end - _ADDED]
        now = self._clock()
        found = (self._gzip if asked.gzip else self._plain).get(target)
        if found is None or not found.current(now):
            found = self._find(target, asked.gzip)
            if found is None:
                return False
        visit = connection.visit
        if visit is None or not visit.alive or visit.stream != found.stream:
            visit = self._visit(connection, found)
        if visit is None or not self._sessions.passes(visit) or self._retiring():
            if isinstance(found, Waiting) and not found.members:
                self._dissolve(target, asked.gzip, found)
            return False
        if isinstance(found, Waiting):
            self._park(connection, target, found, now)
            return True
        size = found.size
        visit.bytes += size
        visit.seen = now
        self.answered += 1
        connection.rest(now)
        found.write(connection.transport, now)
        self._sessions.count(found.stream, found.protocol, size)
        if found.on_sent is not None:
            found.on_sent(1)
        return True

    def leave(self, connection: "Connection") -> bytes:
        """Take a connection out of those that wait; return its request."""
        parked = connection.parked
        assert parked is not None
        assert connection.asked is not None
        connection.parked = None
        target, waiting = parked
        waiting.members.pop(connection, None)
        if not waiting.members:
            self._dissolve(target, connection.asked.gzip, waiting)
        return b"GET %b%b%b" % (target, _VERSION, connection.asked.block)

    def sweep(self) -> None:
        """Forget what is no answer any more; call it every second, or memory is held for it."""
        now = self._clock()
        for known in (self._plain, self._gzip):
            for target in [t for t, found in known.items() if not found.current(now)]:
                del known[target]

    def _find(self, target: bytes, gzip: bool) -> Published | None:
        """Ask the outputs for a target."""
        try:
            text = target.decode("ascii")
        except UnicodeDecodeError:
            return None
        for output in self._outputs:
            found = output.published(text, gzip)
            if found is None:
                continue
            known = self._gzip if gzip else self._plain
            if len(known) >= MAX_TARGETS:
                self.sweep()
                if len(known) >= MAX_TARGETS:
                    return None
            known[target] = found
            if isinstance(found, Waiting):
                found.future.add_done_callback(partial(self._awake, target, gzip, found))
            return found
        return None

    def _visit(self, connection: "Connection", found: Published) -> Session | None:
        """Return the session of a viewer who has begun, and remember it."""
        asked = connection.asked
        assert asked is not None
        peer = (connection.behind and asked.client) or connection.peer
        visit = self._sessions.visiting(peer, asked.agent, found.stream, found.protocol)
        connection.visit = visit
        return visit

    def _park(self, connection: "Connection", target: bytes, waiting: Waiting, now: float) -> None:
        connection.parked = target, waiting
        connection.rest(now + waiting.timeout)
        waiting.members[connection] = now
        if waiting.timer is None:
            loop = waiting.future.get_loop()
            waiting.timer = loop.call_later(waiting.timeout, self._expire, waiting)

    def _dissolve(self, target: bytes, gzip: bool, waiting: Waiting) -> None:
        known = self._gzip if gzip else self._plain
        if known.get(target) is waiting:
            del known[target]
        waiting.close()

    def _expire(self, waiting: Waiting) -> None:
        """Leave those who have waited long enough to aiohttp, which says so to them."""
        waiting.timer = None
        loop = waiting.future.get_loop()
        due = self._clock() - waiting.timeout + 0.001
        for connection, since in tuple(waiting.members.items()):
            if since > due:
                later = since + waiting.timeout
                waiting.timer = loop.call_at(later, self._expire, waiting)
                break
            connection.hand_over(waiting.timeout)

    def _awake(
        self, target: bytes, gzip: bool, waiting: Waiting, future: "asyncio.Future[object]"
    ) -> None:
        """Answer those who waited: what they wait for is here, or will not come."""
        reply = None
        if not future.cancelled() and future.exception() is None:
            reply = waiting.finish(future.result())
        known = self._gzip if gzip else self._plain
        if known.get(target) is waiting:
            del known[target]
            if reply is not None:
                known[target] = reply
        if waiting.timer is not None:
            waiting.timer.cancel()
            waiting.timer = None
        self._deliver(waiting, reply, list(waiting.members), 0)

    def _deliver(
        self, waiting: Waiting, reply: Reply | None, members: "list[Connection]", start: int
    ) -> None:
        now = self._clock()
        sent = 0
        for connection in members[start : start + BATCH]:
            if connection.parked is None or connection.parked[1] is not waiting:
                continue  # it has left, or gone on
            transport, visit = connection.transport, connection.visit
            if transport is None:
                continue  # it is being closed, and leaves in a moment
            if visit is None or not visit.alive:
                visit = self._visit(connection, waiting)
            if reply is None or visit is None or self._retiring():
                connection.hand_over(now - waiting.members[connection])
                continue
            if not self._sessions.passes(visit):
                connection.hand_over(now - waiting.members[connection])
                continue
            del waiting.members[connection]
            connection.parked = None
            visit.bytes += reply.size
            visit.seen = now
            connection.rest(now)
            reply.write(transport, now)
            sent += 1
        self.answered += sent
        if reply is not None and sent:
            self._sessions.count(reply.stream, reply.protocol, sent * reply.size)
            if reply.on_sent is not None:
                reply.on_sent(sent)
        if start + BATCH < len(members):
            loop = asyncio.get_running_loop()
            loop.call_soon(self._deliver, waiting, reply, members, start + BATCH)
        elif not waiting.members:
            waiting.close()
