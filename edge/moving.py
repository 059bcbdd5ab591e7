"""How the viewers of a process are moved to other edges when this one drains.

From the moment that the edge drains nobody new is let in: who comes is sent to the balancer with
``?not=`` this edge, or to a sibling where no balancer is known. Who is here is served on while the
means of its protocol take effect:

* HLS players with Content Steering are told by the balancer, which they ask every few seconds;
* WebSocket viewers get a ``move`` message, spread over some seconds;
* other HLS players are redirected at their playlists, once those with steering have had time;
* what is left when the time is over is ended at a keyframe: the client's next try goes elsewhere.
"""

import asyncio
import random
from collections.abc import Callable

from aiohttp import web

from common.errors import NodeUnavailable
from common.runtime import metrics
from common.runtime.http import CORS
from common.runtime.logs import Log
from edge.around import Around
from edge.hub import Hub, Viewer
from edge.sessions import Sessions

log = Log("edge.moving")

SPREAD = 10.0
"""Seconds over which WebSocket viewers are told to move, at most; a third of the drain's time."""

STEERED = 12.0
"""Seconds after which an HLS player with steering has moved; at most half of the drain's time."""

MOVED_IDLE = 8.0
"""Seconds without a request after which an HLS viewer of a draining edge has left: the longest
that a player waits between two reloads, and some."""

MAX_HOPS = 4
"""Edges that have sent a viewer on. At the next one it is told to come back later (503)."""

SAME = 0.5
"""Seconds by which two ends of one drain may differ."""

VISITED = ("/cmaf/", "/hls/")
"""Where a viewer is a row of requests, and may be known already."""

KEYFRAME = 7.0
"""Seconds before the end of a drain in which the last viewers wait for a keyframe: the longest
segment, and some; at most a quarter of the drain's time."""


class Mover:
    """Sends viewers away while the edge drains."""

    def __init__(
        self,
        sessions: Sessions,
        hub: Hub,
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.around = Around()
        self.crowded = False
        """Whether the edge is full, all its processes together."""

        self.refusing = False
        """Whether it must take nobody new, wherever else there is room: it runs out of memory."""

        self._sessions = sessions
        self._hub = hub
        self._idle = sessions.idle
        self._clock = clock
        self._chance = chance
        self._deadline = self._redirects_from = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self._version = 0
        self._retiring = False
        sessions.guard(self.guard, lambda session: not self.around.draining)

    @property
    def version(self) -> int:
        """A number that is another one once the surroundings are."""
        return self._version

    @property
    def draining(self) -> bool:
        """Whether viewers are moved away."""
        return self.around.draining

    def look(self, around: Around) -> None:
        """Act on what the supervisor says of the surroundings."""
        before, self.around = self.around, around
        self._version += 1
        if around.draining and not before.draining:
            self._begin(around.timeout)
        elif before.draining and not around.draining and not self._retiring:
            self._take_back()
        elif around.draining and self._clock() + around.timeout < self._deadline - SAME:
            self._cancel()  # less time than was said before, such as when the edge is to stop
            self._begin(around.timeout)

    def retire(self, timeout: float) -> None:
        """Move long-lived viewers to the process that takes this one's place at the same address.

        All else that comes over the connections that are still open is served as ever.
        """
        self._retiring = True
        if not self.draining:
            self._begin(timeout)

    def joined(self, viewer: Viewer) -> None:
        """Take note of a viewer that was on its way in when the drain began."""
        if self.draining or self._retiring:
            self._tell(viewer, 0.0)

    async def guard(self, request: web.Request, stream: str) -> None:
        """Let a request in, or send it elsewhere.

        Raises:
            HTTPTemporaryRedirect: To where the viewer is to go.
            NodeUnavailable: If there is nowhere to go.
        """
        full = self._sessions.full or self.refusing
        if not self.draining and not full and not self._passes_on(request):
            return
        here = request.path.startswith(VISITED) and self._sessions.known(stream, request)
        if not self.draining:
            if not here and (self.refusing or self.around.balancer or self.around.peers):
                raise self._away(request)
        elif not here or request.path.endswith("/index.m3u8"):
            raise self._away(request)
        elif request.path.endswith(".m3u8") and self._clock() > self._redirects_from:
            raise self._aside(request)

    def _passes_on(self, request: web.Request) -> bool:
        """Return whether the edge is full as a whole, and this viewer may be sent on yet.

        Who has been sent on often enough is served all the same: nobody else would.
        """
        hops = request.query.get("not", "").split(",", MAX_HOPS)
        few = len([*filter(None, hops)]) < MAX_HOPS
        return self.crowded and few and bool(self.around.balancer)

    def close(self) -> None:
        """Move nobody any more."""
        self._cancel()

    def _begin(self, timeout: float) -> None:
        self._cancel()
        now = self._clock()
        self._deadline = now + timeout
        self._redirects_from = now + min(STEERED, timeout / 2)
        self._sessions.idle = min(self._idle, MOVED_IDLE)
        for viewer in self._hub.members():
            self._tell(viewer, min(SPREAD, timeout / 3))
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(max(timeout * 0.75, timeout - KEYFRAME), self._end))
        self._timers.append(loop.call_later(timeout, self._hub.end_now))
        log.info("viewers are moved", extra={"viewers": len(self._sessions), "seconds": timeout})

    def _take_back(self) -> None:
        self._cancel()
        self._sessions.idle = self._idle
        self._hub.keep()

    def _cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _tell(self, viewer: Viewer, spread: float) -> None:
        """Tell a viewer to move, some time within ``spread`` seconds."""
        if viewer.on_move is not None:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(self._chance() * spread, self._move, viewer))

    def _move(self, viewer: Viewer) -> None:
        base: str | None = ""  # the same address, where a successor accepts
        if not self._retiring or self.draining:
            sibling = self.around.sibling(str(viewer.session.number))
            base = None if sibling is None else sibling.url
        if base is not None and viewer.on_move is not None and not viewer.done.done():
            viewer.on_move(base)
            metrics.VIEWERS_MOVED.labels(protocol=viewer.session.protocol).inc()

    def _end(self) -> None:
        """The time is nearly over: end what is left with the next keyframe."""
        for viewer in self._hub.members():
            metrics.VIEWERS_MOVED.labels(protocol=viewer.session.protocol).inc()
        self._hub.end_at_keyframe()

    def _away(self, request: web.Request) -> Exception:
        """Return where somebody new is to go: the balancer knows best."""
        reason = "drain" if self.draining else "overload" if self.refusing else "full"
        hops = [name for name in request.query.get("not", "").split(",", MAX_HOPS) if name]
        without = [*hops, self.around.node]
        if len(hops) < MAX_HOPS:
            asked = request.rel_url.update_query({"not": ",".join(without)})
            sibling = self.around.sibling(_key(request), without)
            if base := self.around.balancer or (sibling.url if sibling else ""):
                metrics.REQUESTS_REDIRECTED.labels(reason=reason).inc()
                return _redirect(f"{base}{asked}")
        metrics.REQUESTS_REFUSED.labels(reason=reason).inc()
        return NodeUnavailable("this edge takes no viewers now, and knows no other that would")

    def _aside(self, request: web.Request) -> Exception:
        """Return where somebody who watches is to fetch on: each at one place, whoever is asked.

        Not through the balancer: each reload would count there as one more viewer.
        """
        sibling = self.around.sibling(_key(request))
        if sibling is None:
            return self._away(request)
        metrics.REQUESTS_REDIRECTED.labels(reason="drain").inc()
        return _redirect(f"{sibling.url}{request.raw_path}")


def _key(request: web.Request) -> str:
    return f"{request.remote} {request.headers.get('User-Agent', '')[:200]}"


def _redirect(location: str) -> web.HTTPTemporaryRedirect:
    headers = {"Cache-Control": "no-store", **CORS}
    return web.HTTPTemporaryRedirect(location, headers=headers)
