"""One live stream on its origin: slots in, records out.

The way of a frame: ``Publisher.write`` -> :meth:`LiveStream.write` -> normaliser -> segmenter ->
page -> bus. All of it in one call that never waits.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from common.errors import StoreFull, TrackUnsupported
from common.media.codec import Kind
from common.media.frame import Frame
from common.media.track import Track
from common.runtime import metrics
from common.runtime.config import StreamSettings
from common.runtime.logs import Limited, Log
from common.track.catalog import Catalog
from common.track.record import Record
from common.track.store import StreamWriter
from origin.bus import Bus, Starving
from origin.clock import WallClock
from origin.feed import (
    Feed,
    Slot,
    examine,
    frame_ticks,
    new_track,
    next_id,
    setup,
    track_time,
    with_init,
)
from origin.fence import Fence
from origin.figures import Figures
from origin.normaliser import SECOND_US, SlotTime, Stamp, Timeline, TrackTime
from origin.publisher import Publisher, TrackWish
from origin.segmenter import Cuts, Sample, Segmenter

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of one frame; a page holds no larger one. A larger one is dropped."""

NO_KEY_US = 10 * SECOND_US
"""How long a video track may go on without a keyframe before its publisher is refused."""

UNCLAIMED_US = 5 * SECOND_US
"""Tracks that a publisher does not announce again within this time after it came, have ended."""

PARTING_US = 3 * SECOND_US
"""How long a followed stream that nobody publishes any more is kept open for its successor."""

log = Log("origin.stream")
_drops = Limited(log)


class LiveStream:
    """One epoch of a stream on the node that owns it."""

    def __init__(
        self,
        settings: StreamSettings,
        writer: StreamWriter,
        bus: Bus,
        *,
        term: int,
        first_segment: int,
        now: Callable[[], int],
        mono: Callable[[], int],
    ) -> None:
        """``now`` tells Unix microseconds, ``mono`` microseconds that never go back.

        Where ``writer`` holds pages of an earlier run, call :meth:`adopt` first.
        """
        self.name = writer.stream
        self.settings = settings
        self.slots: dict[str, Slot] = {}
        self.catalog = Catalog(
            self.name, writer.epoch, term, version=0, window_us=settings.window.us
        )
        self._writer = writer
        self._bus = bus
        self._now = now
        self._mono = mono
        self._timeline = Timeline()
        self._clock = WallClock()
        cuts = Cuts(settings.segment.us, settings.segment_max.us, settings.part.us)
        self._segmenter = Segmenter(
            cuts,
            self._clock.wall,
            self._emit,
            first_segment=first_segment,
            drift=lambda: self._clock.drift_us,
        )
        self._promises = self._segmenter.promises
        self._dirty = True
        self._began = False
        self._flushing: set[int] = set()
        self._starved = False
        self._left_us = mono()
        self._ended_us: int | None = None
        self._figures = Figures(self.name)
        self.fence = Fence()
        self._parting: tuple[set[int], bool] | None = None
        self.followed = False
        """Whether another origin would go on with it."""
        bus.attach(writer)

    @property
    def writer(self) -> StreamWriter:
        """The pages."""
        return self._writer

    @property
    def next_segment(self) -> int:
        """The number of the next segment."""
        return self._segmenter.segment

    @property
    def publishers(self) -> list[Publisher]:
        """Who publishes now."""
        return [slot.publisher for slot in self.slots.values() if slot.publisher is not None]

    def slot(self, name: str) -> Slot:
        """Return a slot, made at its first use."""
        return self.slots.setdefault(name, Slot(name))

    # Publishers come and go.

    def enter(self, publisher: Publisher) -> None:
        """Give a free slot to a publisher."""
        slot = self.slot(publisher.slot)
        self._part()
        if self._began and slot.time is None and not self.publishers:
            self._segmenter.break_timeline()
        slot.publisher = publisher
        slot.time = SlotTime(self._timeline, slot.time)
        slot.feeds = {}
        slot.last_us = slot.since_us = self._mono()
        self._ended_us = None
        if not self.catalog.live:
            self._change(live=True)

    def leave(self, publisher: Publisher, reason: str, ended: bool) -> None:
        """Free the slot of a publisher."""
        slot = self.slots[publisher.slot]
        if slot.publisher is not publisher:
            return
        slot.publisher = None
        self._report()
        frames = sum(feed.frames for feed in slot.feeds.values())
        alone = not self.publishers
        self._left_us = self._mono()
        left = set(slot.feeds)
        slot.feeds = {}
        self._parting = (left, ended) if alone else None
        if not (alone and self.followed):
            self._part()
            for number in () if alone else left:
                with self._room_or_starve():
                    self._segmenter.leave(number)
        log.info(
            "publisher left",
            extra={
                "stream": self.name,
                "slot": slot.name,
                "reason": reason,
                "publisher": publisher.number,
                "frames": frames,
            },
        )

    def _part(self) -> None:
        """Close what is open: the last publisher has left, and nobody goes on in our place."""
        if self._parting is None:
            return
        (left, ended), self._parting = self._parting, None
        with self._room_or_starve():
            for number in left:
                self._segmenter.leave(number)
            self._segmenter.finish()
        if ended:
            self._end()

    def add_track(self, publisher: Publisher, wish: TrackWish) -> int:
        """Open a track, or go on with one of an earlier visit.

        Raises:
            TrackUnsupported: If it cannot be carried.
        """
        slot = self.slots[publisher.slot]
        description, timescale = examine(wish, len(slot.feeds))
        nominal = frame_ticks(wish, description, timescale)
        track = slot.choose(wish, self.catalog.tracks)
        if track is not None and (track.codec, track.timescale) != (wish.codec, timescale):
            self._end_track(track)
            self._segmenter.break_timeline()
            track = None
        if track is None:
            number = next_id(self.catalog.tracks)
            track = new_track(number, wish, timescale, slot.name, nominal)
            init = 0
            self._change(tracks=(*self.catalog.tracks, track))
            self._segmenter.add_track(number, wish.codec.kind, timescale)
        else:
            track, init = with_init(track, wish.init)
            self._replace_track(track)
            self._segmenter.join(track.id)
        if wish.codec.kind is Kind.VIDEO:
            self._flushing.add(track.id)
        slot.feeds[track.id] = Feed(track, init, self._track_time(slot, track, wish, nominal))
        return track.id

    def set_init(self, publisher: Publisher, track: int, init: bytes) -> None:
        """Take new setup bytes; they hold from the next keyframe on.

        Raises:
            TrackUnsupported: If they cannot be used.
        """
        feed = self._feed(publisher, track)
        setup(feed.codec, init)
        known = self.catalog.track(track)
        assert known is not None
        changed, feed.next_init = with_init(known, init)
        self._replace_track(changed)

    def _track_time(self, slot: Slot, track: Track, wish: TrackWish, nominal: int) -> TrackTime:
        head = self._writer.head(track.id)
        end = None
        if head:
            last = self._writer.reader().track(track.id).record(head - 1)
            end = last.dts + max(1, last.duration)
        return track_time(slot.time, wish, track.timescale, nominal, end)

    def _feed(self, publisher: Publisher, track: int) -> Feed:
        feed = self.slots[publisher.slot].feeds.get(track)
        if feed is None:
            raise TrackUnsupported(f"track {track} is not this publisher's")
        return feed

    # Frames.

    def write(self, publisher: Publisher, frame: Frame) -> None:
        """Take one frame the whole way.

        Raises:
            TrackUnsupported: If the track is not this publisher's, or no keyframe ever comes.
        """
        slot = self.slots[publisher.slot]
        feed = slot.feeds.get(frame.track) or self._feed(publisher, frame.track)
        if len(frame.data) > MAX_FRAME:
            self._figures.drop("size")
            return
        now, mono = self._now(), self._mono()
        slot.last_us = mono
        if mono <= self.fence.until_us:
            self._take(feed, frame, now, mono)
        elif not self.fence.park(publisher, frame, now, mono):
            self._figures.drop("fenced")

    def _take(self, feed: Feed, frame: Frame, now: int, mono: int) -> None:
        """Take a frame that came at ``now``, and at ``mono`` on the other clock."""
        stamp = feed.time.stamp(frame.dts, frame.cts, feed.samples(frame.data), mono)
        feed.frames += 1
        feed.bytes += len(frame.data)
        if frame.keyframe:
            feed.keyed = True
            feed.init = feed.next_init
        elif not feed.keyed:
            self._check_key(feed, stamp.dts)
        if stamp.dts > feed.after:
            self._place(feed, frame, stamp, feed.init, now)

    def _place(self, feed: Feed, frame: Frame, stamp: Stamp, init: int, now: int) -> None:
        """Take a frame with exact timestamps to its segment."""
        if stamp.breaks:
            self._segmenter.break_timeline()
            self._clock.step()
        if feed.kind is Kind.VIDEO or not self._flushing:
            self._clock.observe(stamp.dts * SECOND_US // feed.timescale, now)
        sample = Sample(
            feed.track,
            stamp.dts,
            stamp.cts,
            stamp.duration,
            frame.keyframe,
            init,
            frame.capture_us or now,
            now,
            frame.data,
        )
        try:
            if self._starved:
                self._recover(sample)
            else:
                self._segmenter.push(sample)
        except StoreFull as error:
            self._starve(error)

    def _check_key(self, feed: Feed, dts: int) -> None:
        """Refuse a video track that never has a keyframe."""
        if feed.first_dts is None:
            feed.first_dts = dts
        if (dts - feed.first_dts) * SECOND_US // 90_000 > NO_KEY_US:
            raise TrackUnsupported(
                f"no keyframe in {NO_KEY_US // SECOND_US} s of {feed.codec} video: "
                "set the encoder's keyframe interval to 2 s"
            )

    def _emit(self, track: int, record: Record, payload: bytes) -> None:
        """Store one record and send it; what the catalog has to say goes first."""
        if self._segmenter.promises is not self._promises:
            self._keep_promises()
        if self._dirty:
            self._commit()
        stored = self._writer.append(track, record, payload)
        self._bus.record(self.name, track, stored, payload, track in self._flushing)

    # No room for pages.

    def _starve(self, error: StoreFull) -> None:
        """Drop frames until there is room again, then go on at a keyframe."""
        if not self._starved:
            self._starved = True
            self._segmenter.interrupt()
        self._figures.drop("store_full")
        _drops.warning("no room for pages", self.name, {"stream": self.name, "error": str(error)})

    def _recover(self, sample: Sample) -> None:
        """Go on at a keyframe of video, or at any frame of a stream without."""
        if not sample.key or (self._flushing and sample.track not in self._flushing):
            self._figures.drop("store_full")
            return
        self._segmenter.finish()
        self._segmenter.break_timeline()
        self._starved = False
        self._segmenter.push(sample)

    def _room_or_starve(self) -> "Starving":
        return Starving(self._starve)

    # The catalog.

    def _change(self, **changes: object) -> None:
        self.catalog = replace(self.catalog, **changes)  # type: ignore[arg-type]
        self._dirty = True

    def _replace_track(self, track: Track) -> None:
        tracks = tuple(track if one.id == track.id else one for one in self.catalog.tracks)
        if tracks != self.catalog.tracks:
            self._change(tracks=tracks)

    def _end_track(self, track: Track) -> None:
        """End a track for good; its id is not used again."""
        self._replace_track(replace(track, ended=True))
        self._flushing.discard(track.id)
        with self._room_or_starve():
            self._segmenter.leave(track.id)

    def _keep_promises(self) -> None:
        promises = self._promises = self._segmenter.promises
        self._change(
            target_duration=promises.target_duration,
            part_target_us=promises.part_target_us,
            independent=promises.independent,
        )

    def redefine(self, settings: StreamSettings) -> None:
        """Use other settings; what was chosen for the epoch, such as durations, stays."""
        self.settings = settings
        self._writer.limit(settings.bytes_max)
        if self._began and self.catalog.window_us != settings.window.us:
            self._change(window_us=settings.window.us)
            self._commit()

    def _commit(self) -> None:
        """Write the catalog down and announce it."""
        self.catalog = self.catalog.evolve()
        self._writer.set_catalog(self.catalog)
        self._bus.catalog(self.catalog)
        self._dirty = False
        self._began = True

    def _end(self) -> None:
        """Say that nobody publishes any more: playlists end."""
        if self.catalog.live:
            self._change(live=False)
        self._ended_us = self._mono()
        if self._began:
            with suppress(StoreFull):
                self._commit()

    # Once a second, and at both ends of its life.

    def tick(self) -> bool:
        """Do what time asks for; return whether the stream is to be kept."""
        mono = self._mono()
        target_us = self._promises.target_duration * SECOND_US
        self._writer.evict(self._timeline.head_us - self.settings.window.us - target_us)
        self._report()
        if self._parting is not None and mono - self._left_us > PARTING_US:
            self._part()
        if self.publishers:
            self._tidy_tracks(mono)
            if self._dirty and self._began:
                with suppress(StoreFull):
                    self._commit()
            return True
        if self._ended_us is None:
            if mono - self._left_us > self.settings.reconnect.us:
                self._end()
            return self._began
        return self._began and mono - self._ended_us <= self.settings.window.us

    def _tidy_tracks(self, mono: int) -> None:
        """End tracks that nobody brings back, and learn frame durations."""
        for track in self.catalog.tracks:
            if track.ended:
                continue
            slot = self.slot(track.slot)
            feed = slot.feeds.get(track.id)
            if slot.publisher is None:
                if mono - slot.last_us > self.settings.reconnect.us:
                    self._end_track(track)
            elif feed is None:
                if slot.feeds and mono - slot.since_us > UNCLAIMED_US:
                    self._end_track(track)
            elif not track.frame_duration and feed.kind is Kind.VIDEO:
                self._replace_track(replace(track, frame_duration=feed.time.nominal))

    def _report(self) -> None:
        feeds = [feed for slot in self.slots.values() for feed in slot.feeds.values()]
        self._figures.report(feeds, self._segmenter, self._now(), bool(self.publishers))

    @property
    def age_us(self) -> int:
        """Microseconds since its newest frame came."""
        return max(0, self._mono() - self._timeline.arrival_us)

    def stop(self) -> None:
        """Let go of the pages; they stay for the next start."""
        for publisher in self.publishers:
            publisher.dismiss("the node stops")
        self._report()
        self._writer.close()

    def remove(self) -> None:
        """Delete the stream and its pages."""
        self._bus.remove(self.name, self.catalog.epoch)
        self._writer.remove()
        metrics.forget_stream(self.name)
