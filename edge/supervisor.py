"""The supervisor of an edge: keeps its child processes running and carries word between them.

Children talk only to the supervisor, over a socketpair each, in maps with a type ``t``:

=================  ==========================================================================
viewer to us       ``want`` (``streams``: all it wants, on every change and each second);
                   ``segment`` (``stream``, ``track``, ``segment``): a viewer waits for this one
us to the worker   ``want`` (what any viewer wants); ``segment``, the same
worker to us       ``state`` (``stream``, ``state`` joining, live, absent or ended, ``epoch``);
                   absent with epoch 0: the worker has let go of the stream and its pages
us to viewers      ``state``, the same; all that is known when a viewer first wants a stream
child to us        ``ready`` once; ``report`` each second (``at``: time.monotonic(); ``metrics``,
                   ``sessions``, ``bytes``, ``opened``, ``refused``, ``cpu``, and of each of its
                   ``streams`` viewers and bytes since the last one); ``sessions`` (``id``,
                   ``list``) when asked
us to a viewer     ``around`` (who else is there, whether this edge drains: :mod:`edge.around`)
us to a child      ``stop``; ``sessions`` (``id``)
us to a viewer     ``crowded``: whether this edge is full, all its processes together
us to a viewer     ``retire`` (``timeout``): a successor accepts; leave when nobody is left
worker to us       ``waiting``: it can begin; ``released``: it writes no more
us to the worker   ``go``: its predecessor has let go of the pages
us to the worker   ``history`` (``share``: part of the streams' windows that may be kept)
us to a viewer     ``overload`` (``refuse``: whether to take nobody new)
us to a viewer     ``cut``: let go of those for whom most waits
=================  ==========================================================================

A child that dies, or says nothing for ``STUCK`` seconds, is started again with the same sockets and
eventfds, later each time. What a dead viewer process wanted stays wanted until its successor
speaks.
"""

import asyncio
import itertools
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from common.bus.gossip import Load
from common.runtime.logs import Log
from common.runtime.merge import Merger
from common.wire.gossip import fullness
from edge.children import Child, Report
from edge.overload import Overload

log = Log("edge.supervisor")

STUCK = 15
"""Seconds without a word from a child, which reports each second, until it counts as hung."""

ASK_TIMEOUT = 1.0

CROWDED = 0.95
"""Share of what the edge can carry from which new viewers are sent to others."""

ROOM = 0.9
"""Share below which it takes them again."""

MAX_STATES = 8192
"""Streams whose state is remembered. Further ones are not told to viewer processes."""


class Supervisor:
    """The middle of the star: one stream worker, some viewer processes."""

    def __init__(self, worker: Child, viewers: list[Child]) -> None:
        self.own = [worker, *viewers]
        """The children that this image started, the worker first."""

        self.worker = worker
        """The one that writes the pages now."""

        self.viewers = list(viewers)
        """All that serve: also those that an earlier image started, until they leave."""

        self.merger = Merger()
        self.states: dict[str, tuple[str, int]] = {}
        """State and epoch by stream, as the worker last said."""

        self.complete = asyncio.Event()
        """Set once every child of this image has been ready at the same time."""

        self.covered = False
        """Whether the children of an earlier image serve until then."""

        self.around: Callable[[], dict[str, Any]] | None = None
        """Makes the message that tells a viewer process of its surroundings."""

        self.memory: Callable[[], float] = lambda: 0.0
        """Tells which share of the memory is in use."""

        self.overload = Overload(lambda: self.memory(), lambda: self.worker, self.viewers)
        self._reported = asyncio.Event()
        self.most = (math.inf, math.inf)
        """What the edge can carry: bits a second, and sessions."""

        self.crowded = False
        self.restarting = 0.0
        """Seconds for which the balancers may hear nothing, while this process executes itself."""

        self._gone = Report()
        self._questions: dict[int, tuple[asyncio.Future[list[Any]], set[str], list[Any]]] = {}
        self._numbers = itertools.count(1)

    @property
    def children(self) -> list[Child]:
        """All of them, the worker first."""
        return [self.worker, *self.viewers]

    async def run(self) -> None:
        """Run the children until cancelled."""
        async with asyncio.TaskGroup() as group:
            for child in dict.fromkeys([*self.own, *self.children]):
                group.create_task(child.run(self.heard, self.ended), name=child.name)
            group.create_task(self.overload.run(), name="overload")
            while True:
                await asyncio.sleep(1.0)
                self.look_for_hung()

    def look_for_hung(self) -> None:
        """Kill children that have been silent for too long; call it once a second.

        Calls are counted and not the clock: if this process was frozen, they were not silent.
        """
        for child in self.own:
            child.silent += child.ready
            if child.silent > STUCK and child.process is not None and child.pid:
                log.error("child hung", extra={"child": child.name, "seconds": child.silent})
                child.silent = 0
                child.process.kill()

    def missing(self) -> str | None:
        """Return what is not ready yet, None if all is, or others serve meanwhile."""
        waiting = self._unready()
        return f"waiting for {', '.join(waiting)}" if waiting and not self.covered else None

    def _unready(self) -> list[str]:
        return [child.name for child in self.own if not child.ready]

    def heard(self, child: Child, message: dict[str, Any]) -> None:
        """Act on what a child says."""
        match message:
            case {"t": "ready"}:
                child.ready = True
                if not self._unready():
                    self.complete.set()
                    self.covered = False
                if child is self.worker:
                    self._tell_wanted()
                elif self.around is not None:
                    child.send(self.around())
                self.overload.tell(child)
                if self.crowded and child is not self.worker:
                    child.send({"t": "crowded", "crowded": True})
            case {"t": "want", "streams": [*streams]}:
                self._want(child, frozenset(map(str, streams)))
            case {"t": "state", "stream": str(stream), "state": str(state), "epoch": int(epoch)}:
                self._state(stream, state, epoch)
            case {"t": "segment", "stream": str(stream), "track": int(), "segment": int()}:
                if stream in child.wants:
                    self.worker.send(message)
            case {"t": "waiting"}:
                child.waiting.set()
                if child is self.worker:
                    child.send({"t": "go"})
            case {"t": "released"}:
                child.released.set()
            case {"t": "report"}:
                self._report(child, message)
            case {"t": "sessions", "id": int(number), "list": [*sessions]}:
                self._answered(number, child.name, sessions)
            case _:
                log.warning("child not understood", extra={"child": child.name})

    def ended(self, child: Child) -> None:
        """Note the death of a child."""
        self.merger.retire(child.name)
        child.forgot = True
        last, child.report = child.report, Report()
        self._gone.opened += last.opened
        self._gone.refused += last.refused
        for number in tuple(self._questions):
            self._answered(number, child.name, [])
        if child.inherited and child in self.viewers:
            self.viewers.remove(child)
            os.close(child.wake)
            self._tell_wanted()

    def wanted(self) -> set[str]:
        """Return the streams that any viewer process wants."""
        return {stream for viewer in self.viewers for stream in viewer.wants}

    def surround(self, around: Callable[[], dict[str, Any]]) -> None:
        """Tell every viewer process of its surroundings, those too that start later."""
        self.around = around
        for viewer in self.viewers:
            if viewer.ready:
                viewer.send(around())

    @property
    def viewing(self) -> int:
        """How many viewers there were by the last reports."""
        return sum(viewer.report.sessions for viewer in self.viewers)

    async def empty(self) -> None:
        """Wait until no viewer process has viewers, by their reports."""
        while self.viewing:
            self._reported.clear()
            await self._reported.wait()

    def load(self, memory: float, draining: bool = False) -> Load:
        """Return what the balancers are told.

        A child runs on one core at a time, so the busiest child is how full the edge is; what
        other programs do on the machine shows in how long our children take, not here.
        """
        reports = [viewer.report for viewer in self.viewers]
        viewers, bits = Counter[str](), Counter[str]()
        for report in reports:
            for stream, (watching, rate) in report.streams.items():
                viewers[stream] += watching
                bits[stream] += round(rate)
        live = [name for name, (state, _) in self.states.items() if state == "live"]
        live.sort(key=lambda stream: (-viewers[stream], stream))
        busiest = max((child.report.cpu for child in self.children), default=0.0)
        return Load(
            bandwidth=sum(report.bits_per_second for report in reports),
            sessions=sum(report.sessions for report in reports),
            cpu=min(1.0, busiest),
            memory=memory,
            draining=draining,
            accepted=self._gone.opened + sum(report.opened for report in reports),
            refused=self._gone.refused + sum(report.refused for report in reports),
            streams=live,
            viewers=[viewers[stream] for stream in live],
            bits=[bits[stream] for stream in live],
            restarting=self.restarting,
        )

    async def sessions(self) -> list[Any]:
        """Ask all viewer processes for their sessions; one that is silent is left out."""
        asked = {viewer.name for viewer in self.viewers if viewer.ready}
        if not asked:
            return []
        number = next(self._numbers)
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        found: list[Any] = []
        self._questions[number] = (answer, asked, found)
        for viewer in self.viewers:
            viewer.send({"t": "sessions", "id": number})
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                return await answer
        except TimeoutError:
            return found
        finally:
            self._questions.pop(number, None)

    def _want(self, child: Child, streams: frozenset[str]) -> None:
        before = self.wanted()
        fresh = streams if child.forgot else streams - child.wants
        child.wants, child.forgot = streams, False
        if self.wanted() != before:
            self._tell_wanted()
        for stream in fresh & self.states.keys():
            self._tell(child, stream)

    def _tell_wanted(self) -> None:
        self.worker.send({"t": "want", "streams": sorted(self.wanted())})

    def _state(self, stream: str, state: str, epoch: int) -> None:
        if stream not in self.states and len(self.states) >= MAX_STATES:
            return
        self.states[stream] = (state, epoch)
        for viewer in self.viewers:
            if stream in viewer.wants:
                self._tell(viewer, stream)
        if state == "absent" and not epoch:
            del self.states[stream]  # its pages are gone: the worker carries it no longer

    def _tell(self, viewer: Child, stream: str) -> None:
        state, epoch = self.states[stream]
        viewer.send({"t": "state", "stream": stream, "state": state, "epoch": epoch})

    def _report(self, child: Child, message: dict[str, Any]) -> None:
        self.merger.update(child.name, message.get("metrics", {}))
        # The time at which it was made: those of a restart wait, and are read in one go.
        now, last = float(message.get("at", time.monotonic())), child.report
        sent = int(message.get("bytes", 0))
        took = now - last.at
        rate = max(0, sent - last.bytes) * 8 / took if last.at and took > 0 else 0.0
        child.report = Report(
            at=now,
            sessions=int(message.get("sessions", 0)),
            bytes=sent,
            opened=int(message.get("opened", 0)),
            refused=int(message.get("refused", 0)),
            cpu=float(message.get("cpu", 0.0)),
            pages=int(message.get("pages", 0)),
            bits_per_second=rate,
            streams={
                str(stream): (int(watching), int(carried) * 8 / took if last.at and took > 0 else 0)
                for stream, (watching, carried) in message.get("streams", {}).items()
            },
        )
        self._reported.set()
        self._admit()

    def _admit(self) -> None:
        """Tell the viewer processes when the edge becomes full, and when it no longer is."""
        reports = [viewer.report for viewer in self.viewers]
        bits, sessions = sum(r.bits_per_second for r in reports), sum(r.sessions for r in reports)
        full = fullness(bits, sessions, 0.0, 0.0, self.most)
        crowded = full >= (ROOM if self.crowded else CROWDED)
        if crowded != self.crowded:
            self.crowded = crowded
            log.info("crowded" if crowded else "crowded no more", extra={"load": round(full, 3)})
            for viewer in self.viewers:
                viewer.send({"t": "crowded", "crowded": crowded})

    def _answered(self, number: int, name: str, sessions: list[Any]) -> None:
        if number not in self._questions:
            return
        answer, asked, found = self._questions[number]
        if name in asked:
            asked.discard(name)
            found += sessions
            if not asked and not answer.done():
                answer.set_result(found)
