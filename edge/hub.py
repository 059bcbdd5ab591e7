"""Long-lived viewers: what is muxed once goes to every transport that wants it.

A viewer of a push output joins a :class:`~edge.feed.Feed`. It gets the header and a burst from
the newest keyframe up to where the feed stands, and from then on what every other viewer of the
feed gets: no frame twice, none missing. No task belongs to a viewer; its handler waits for
``Viewer.done`` and the bytes are written from the wake of the stream.

Flow control, by progress and never by the size of one burst: a viewer whose connection has held
more than ``slow`` seconds of media, and got no emptier, for ``PATIENCE`` seconds gets nothing
until the next keyframe at which it has caught up. One whose connection takes nothing for
``stall`` seconds is cut.
"""

import asyncio
from collections.abc import Callable

from common.errors import HeadwaterError, StreamNotFound, TrackUnsupported
from common.media.codec import Kind
from common.runtime import metrics
from common.runtime.logs import Limited, Log
from edge.feed import Chunk, Feed, Format
from edge.flow import Flow, Rate
from edge.mirrors import Mirror
from edge.selection import Selection
from edge.sessions import Session, Sessions
from edge.viewing import Phase, Viewer

__all__ = ["Hub", "Phase", "Viewer"]

log = Log("edge.hub")
limited = Limited(log)

RIDE = 0.05
"""Seconds that audio waits for a video frame to ride with."""

BUSY_INTERVAL = 0.1
"""Seconds between flushes while the process is busy: half the CPU time of a flush a frame."""

BUSY = 0.8
"""Share of a core above which flushes are spaced out; they are not any more below CALM."""

CALM = 0.5

LATE_TRACK = 1.0
"""Seconds of video that a new stream may have before its audio is no longer waited for."""


class Hub:
    """All feeds of a viewer process."""

    def __init__(self, sessions: Sessions, *, slow: float = 1.0, stall: float = 10.0) -> None:
        self.sessions = sessions
        self.slow = slow
        self.stall = stall
        self.on_skip: Callable[[str, str, int], None] = lambda protocol, reason, frames: None
        self.interval = 0.0
        """Least seconds between two flushes of a feed."""

        self._loop = asyncio.get_running_loop()
        self._fans: dict[tuple[object, ...], Fan] = {}
        self._ending: set[Fan] = set()

    async def ready(
        self, mirror: Mirror, selection: Selection, form: Format, wait: float = 10.0
    ) -> None:
        """Wait until the stream has the tracks that this viewer wants.

        Raises:
            TrackUnsupported: If it has tracks, but none that this format carries.
            StreamNotFound: If it has none at all after ``wait`` seconds.
        """
        news = asyncio.Event()
        unsubscribe = mirror.subscribe(lambda moved, changed: news.set())
        try:
            with mirror.awaited():
                async with asyncio.timeout(wait):
                    while not _settled(mirror, selection, form):
                        news.clear()
                        await news.wait()
        except TimeoutError:
            if not mirror.catalog.tracks:
                raise StreamNotFound(f"{mirror.stream} has no tracks yet") from None
        finally:
            unsubscribe()
        if not selection.choose(mirror.catalog, form.codecs):
            raise TrackUnsupported(f"{form.protocol} carries none of the tracks of this stream")

    def join(
        self,
        mirror: Mirror,
        selection: Selection,
        form: Format,
        transport: asyncio.Transport,
        session: Session,
    ) -> Viewer:
        """Let a viewer in, after :meth:`ready`: header and burst now, the rest with each wake."""
        key = (mirror.stream, mirror.epoch, form.protocol, form.variant, selection)
        fan = self._fans.get(key)
        if fan is None:
            fan = self._fans[key] = Fan(self, mirror, selection, form)
            fan.on_stop = lambda: self._fans.pop(key, None)
        viewer = Viewer(transport, session, Flow(self._loop.time()))
        viewer.fan = fan
        fan.join(viewer)
        return viewer

    def leave(self, viewer: Viewer, reason: str = "left") -> None:
        """Take a viewer out; a second call does nothing."""
        viewer.finish(reason)
        viewer.fan.discard(viewer)
        viewer.session.close(viewer.reason)

    def hold(self, viewer: Viewer) -> None:
        """Send nothing to a viewer until :meth:`resume`."""
        if viewer.phase is not Phase.GONE:
            viewer.phase = Phase.HELD

    def resume(self, viewer: Viewer) -> None:
        """Go on with a viewer that was held, or that wants to be where the stream is now."""
        if viewer.phase is not Phase.GONE:
            viewer.phase = Phase.PENDING
            viewer.fan.start(viewer)

    def tick(self, load: float) -> None:
        """Cut viewers that take nothing, and space flushes by ``load``, the share of a core used.

        Call it every second.
        """
        if load > BUSY:
            self.interval = BUSY_INTERVAL
        elif load < CALM:
            self.interval = 0.0
        metrics.OVERLOAD.labels(reason="flush").set(self.interval > 0)
        now = self._loop.time()
        for fan in (*self._fans.values(), *self._ending):
            fan.cut_stalled(now)

    def viewers(self) -> int:
        """Return how many viewers the feeds have."""
        return sum(len(fan.viewers) for fan in self._fans.values())

    def members(self) -> list[Viewer]:
        """Return the viewers of all feeds."""
        return [viewer for fan in self._fans.values() for viewer in fan.viewers]

    def cut(self, transport: asyncio.BaseTransport, reason: str) -> bool:
        """End the viewer on a connection at once; return whether there is one."""
        for fan in (*self._fans.values(), *self._ending):
            for viewer in tuple(fan.viewers):
                if viewer.transport is transport:
                    fan.cut(viewer, reason)
                    return True
        return False

    def end_at_keyframe(self) -> None:
        """End every viewer where its next GOP would begin; those that get nothing now, at once."""
        for viewer in self.members():
            if viewer.phase is Phase.LIVE:
                viewer.phase = Phase.LEAVING
            elif viewer.phase is not Phase.LEAVING:
                viewer.fan.let_go(viewer)

    def keep(self) -> None:
        """Take :meth:`end_at_keyframe` back for those that are still here."""
        for viewer in self.members():
            if viewer.phase is Phase.LEAVING:
                viewer.phase = Phase.LIVE

    def end_now(self) -> None:
        """End every viewer that waits for a keyframe in vain."""
        for viewer in self.members():
            if viewer.phase is Phase.LEAVING:
                viewer.fan.let_go(viewer)

    def close(self) -> None:
        """Let every viewer go, whatever waits for it."""
        for fan in (*self._fans.values(), *self._ending):
            for viewer in tuple(fan.viewers):
                viewer.finish("stopped")
                fan.discard(viewer)

    def ending(self, fan: "Fan", ended: bool) -> None:
        """Keep an eye on a feed that has ended until its viewers have taken what waits."""
        (self._ending.add if ended else self._ending.discard)(fan)


def _settled(mirror: Mirror, selection: Selection, form: Format) -> bool:
    """Return whether the tracks of a stream are known: none is likely to come a moment later."""
    tracks = selection.choose(mirror.catalog, form.codecs)
    heads = [mirror.reader.track(track.id).head for track in tracks]
    if not tracks or not all(heads):
        return False
    if len({t.codec.kind for t in tracks}) == 2 or not selection.wants(Kind.AUDIO):
        return True
    reader = mirror.reader.track(tracks[0].id)
    first, last = reader.record(reader.oldest), reader.record(reader.head - 1)
    return last.dts - first.dts >= LATE_TRACK * tracks[0].timescale


class Fan:
    """A feed and its viewers."""

    def __init__(self, hub: Hub, mirror: Mirror, selection: Selection, form: Format) -> None:
        self.feed = Feed(mirror, selection.choose(mirror.catalog, form.codecs), form)
        self.viewers: dict[Viewer, None] = {}
        self.ended = False
        self.on_stop: Callable[[], object] = lambda: None
        self._hub = hub
        self._selection = selection
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._flushed = -1.0
        self._opening: tuple[Chunk | None, bytes] = (None, b"")
        """What the newest burst begins with, and the header: the same bytes for all who join."""
        self._rate = Rate()
        self._unsubscribe = mirror.subscribe(self._moved)

    def join(self, viewer: Viewer) -> None:
        self.viewers[viewer] = None
        self.start(viewer)

    def start(self, viewer: Viewer) -> None:
        """Send header and burst, or leave it to the next keyframe if there is none yet."""
        chunks = self.feed.burst()
        if not chunks:
            return
        first = chunks[0]
        if self._opening[0] is not first:
            self._opening = first, self.feed.header(first.inits)
        before = viewer.flow.written
        viewer.write(self._opening[1])
        viewer.write(first.media)
        for chunk in chunks[1:]:
            viewer.write(chunk.data)
        viewer.phase = Phase.LIVE
        viewer.inits = chunks[-1].inits
        size = viewer.flow.written - before
        self._hub.sessions.count(self.feed.mirror.stream, self.feed.form.protocol, size)

    def discard(self, viewer: Viewer) -> None:
        if self.viewers.pop(viewer, viewer) is None and not self.viewers:
            self._close()

    def let_go(self, viewer: Viewer) -> None:
        """End a viewer that is to go on elsewhere."""
        viewer.finish("moved")
        self.discard(viewer)

    def _end(self) -> None:
        """Let every viewer go once it has taken what waits for it."""
        self.ended = True
        self._stop()
        self._hub.ending(self, True)
        self.cut_stalled(self._loop.time())

    def _close(self) -> None:
        self._stop()
        self._hub.ending(self, False)

    def _stop(self) -> None:
        self._unsubscribe()
        self.on_stop()
        self.on_stop = lambda: None  # by the second time another feed may have its place
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def cut(self, viewer: Viewer, reason: str) -> None:
        """End a viewer at once, whatever waits for it."""
        viewer.transport.abort()
        viewer.finish(reason)
        self.discard(viewer)
        metrics.VIEWERS_CUT.labels(protocol=self.feed.form.protocol, reason=reason).inc()

    def cut_stalled(self, now: float) -> None:
        for viewer in tuple(self.viewers):
            waiting = viewer.transport.get_write_buffer_size()
            if viewer.flow.stalled(now, waiting) > self._hub.stall:
                self.cut(viewer, "stalled")
            elif self.ended and not waiting:
                viewer.finish("ended")
                self.discard(viewer)

    def _moved(self, tracks: set[int], changed: bool) -> None:
        """Flush now, or soon: audio rides with video, and a busy process flushes less often."""
        if self.ended:
            return
        try:
            if changed and self._changed():
                return
        except HeadwaterError as error:
            self._fell_behind(error)
            return
        if not tracks & self.feed.tracks.keys():
            return
        wait = 0.0
        if self.feed.leader.id not in tracks and self.feed.video:
            wait = RIDE
        if self._hub.interval:
            wait = max(wait, self._flushed + self._hub.interval - self._loop.time())
        if wait <= 0:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(wait, self._flush)

    def _changed(self) -> bool:
        """Follow the catalog; return whether this was the end."""
        mirror, feed = self.feed.mirror, self.feed
        if not feed.current:
            self._end()  # another numbering, or frames taken back: viewers come again
            return True
        self._opening = None, b""  # the header may be another one
        fresh = self._selection.choose(mirror.catalog, feed.form.codecs)
        known = feed.leader.id in {track.id for track in fresh}
        if known and (added := feed.retrack(fresh)) is not None:
            self._deliver([added])
        over = mirror.ended or not mirror.catalog.live
        if over or not known:  # not known: another codec or another rendition leads from here on
            self._flush()
            self._end()
        return self.ended

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            chunks = self.feed.pull()
        except HeadwaterError as error:
            self._fell_behind(error)
            return
        self._count_lost()
        if chunks:
            self._deliver(chunks)

    def _count_lost(self) -> None:
        """Count what this node never got, for each viewer that should have had it."""
        lost, self.feed.lost = self.feed.lost, 0
        missed = [viewer for viewer in self.viewers if viewer.phase is Phase.LIVE] if lost else []
        for viewer in missed:
            viewer.session.dropped += lost
        if missed:
            self._hub.on_skip(self.feed.form.protocol, "lost", lost * len(missed))

    def _fell_behind(self, error: HeadwaterError) -> None:
        """Go on with the newest keyframe: the records are gone, or cannot be muxed."""
        stream = self.feed.mirror.stream
        limited.warning("feed fell behind", stream, {"stream": stream, "error": str(error)})
        self.feed.jump()

    def _deliver(self, chunks: list[Chunk]) -> None:
        now = self._flushed = self._loop.time()
        total = sum(len(chunk.data) for chunk in chunks)
        limit = self._rate.add(now, total) * self._hub.slow
        frames = sum(len(chunk.items) for chunk in chunks)
        pieces = [chunk.data for chunk in chunks]
        inits = chunks[-1].inits
        sent = 0
        for viewer in tuple(self.viewers):
            transport = viewer.transport
            # Nearly all viewers at nearly all times: written out, as each call is paid for by each.
            if (
                viewer.phase is Phase.LIVE
                and not transport.get_write_buffer_size()
                and not transport.is_closing()
            ):
                for piece in pieces:
                    transport.write(piece)
                viewer.flow.keeps_up(now, total)
                viewer.session.bytes += total
                viewer.inits = inits
                sent += total
            else:
                sent += self._send(viewer, chunks, now, limit, frames)
        sessions, protocol = self._hub.sessions, self.feed.form.protocol
        if sent:
            sessions.count(self.feed.mirror.stream, protocol, sent)
            sessions.latency(protocol, chunks[-1].capture_us)

    def _send(
        self, viewer: Viewer, chunks: list[Chunk], now: float, limit: float, frames: int
    ) -> int:
        """Write what is new to one viewer; return how many bytes."""
        transport = viewer.transport
        if transport.is_closing():
            viewer.finish("left")
            self.discard(viewer)
            return 0
        waiting = transport.get_write_buffer_size()
        if viewer.phase is Phase.LIVE:
            if viewer.flow.slow(now, waiting, limit):
                viewer.phase = Phase.SKIPPING
            else:
                before = viewer.flow.written
                for chunk in chunks:
                    viewer.write(chunk.data)
                viewer.inits = chunks[-1].inits
                return viewer.flow.written - before
        elif viewer.phase in (Phase.HELD, Phase.GONE):
            return 0
        elif viewer.phase is Phase.LEAVING:
            return self._finish(viewer, chunks)
        return self._catch_up(viewer, chunks, waiting <= limit, frames)

    def _finish(self, viewer: Viewer, chunks: list[Chunk]) -> int:
        """Write what comes before the next keyframe; with that, the viewer ends."""
        before = viewer.flow.written
        for chunk in chunks:
            if chunk.key:
                self.let_go(viewer)
                break
            viewer.write(chunk.data)
        return viewer.flow.written - before

    def _catch_up(self, viewer: Viewer, chunks: list[Chunk], able: bool, frames: int) -> int:
        """Begin at a keyframe among ``chunks``, if there is one and the viewer is ``able``."""
        start = next((n for n, chunk in enumerate(chunks) if chunk.key), None)
        if start is None or not able:
            skipped, rest = frames, []
        else:
            skipped, rest = sum(len(c.items) for c in chunks[:start]), chunks[start:]
        before = viewer.flow.written
        if rest and viewer.phase is Phase.PENDING:
            viewer.write(self.feed.header(rest[0].inits) + rest[0].media)
        elif rest:
            missed = b"" if rest[0].inits == viewer.inits else self.feed.change(rest[0])
            viewer.write(missed + rest[0].media)
        for chunk in rest[1:]:
            viewer.write(chunk.data)
        if viewer.phase is Phase.SKIPPING and skipped:
            viewer.session.dropped += skipped
            self._hub.on_skip(self.feed.form.protocol, "slow", skipped)
        if rest:
            viewer.phase = Phase.LIVE
            viewer.inits = rest[-1].inits
            viewer.flow.caught_up()
        return viewer.flow.written - before
