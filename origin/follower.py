"""A stream that another origin owns, as this one takes it in too.

Frames are held until the owner's record of them has come. What is held at any moment is what a
successor has to publish; :mod:`origin.heir` does that.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from common.media.codec import Kind
from common.media.frame import Frame
from common.media.track import Track
from common.runtime import metrics
from common.runtime.config import StreamSettings
from common.runtime.logs import Log
from common.track.catalog import Catalog
from common.track.checksum import crc32
from common.track.record import Record
from origin.alignment import Alignment, Mark
from origin.feed import Feed, Slot, examine, frame_ticks, new_track, setup, track_time, with_init
from origin.normaliser import SECOND_US, SlotTime, Stamp, Timeline
from origin.publisher import Publisher, TrackWish

HOLD_US = 10 * SECOND_US
HOLD_BYTES = 64 * 1024 * 1024
"""Bytes that an origin holds of a stream that it follows, and that the owner does not publish. The
oldest are let go."""

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of one frame; a page holds no larger one. A larger one is dropped."""

NEAR_US = 60_000
"""How far the shift of a track may be from that of the track that was aligned first."""

log = Log("origin.follower")


class Held(NamedTuple):
    """A frame that the owner has not published."""

    order: int
    """Counts the frames of all tracks as they came."""

    frame: Frame
    stamp: Stamp
    init: int
    """Position of its setup bytes in the track as we know it."""

    now_us: int
    """Unix microseconds of its arrival."""

    mono_us: int


class Lane:
    """One track of one publisher, beside the owner's track that it is."""

    def __init__(self, feed: Feed, track: Track) -> None:
        self.feed = feed
        self.track = track
        self.theirs = 0
        """The owner's id of it; 0 while it has none."""
        self.alignment = Alignment()
        self.held: deque[Held] = deque()
        self.break_us: int | None = None
        """Stream time of the newest break of the source, by our clock."""

    @property
    def tolerance(self) -> int:
        """Ticks by which a frame may be off: less than half of the way to the next one."""
        return max(self.feed.timescale // 1000, self.feed.time.nominal * 2 // 5)

    def to_us(self, ticks: int) -> int:
        """Return ticks of this track in microseconds."""
        return ticks * SECOND_US // self.feed.timescale

    def from_us(self, us: int) -> int:
        """Return microseconds in ticks of this track."""
        return us * self.feed.timescale // SECOND_US

    @property
    def shift_us(self) -> int | None:
        """What the owner's stream time is more than ours; None while unknown."""
        shift = self.alignment.shift
        return None if shift is None else self.to_us(shift)


class Follower:
    """What publishers send here of a stream that another node owns. Nothing here waits."""

    def __init__(
        self,
        name: str,
        settings: StreamSettings,
        *,
        now: Callable[[], int],
        mono: Callable[[], int],
    ) -> None:
        """``now`` tells Unix microseconds, ``mono`` microseconds that never go back."""
        self.name = name
        self.settings = settings
        self.slots: dict[str, Slot] = {}
        self.lanes: dict[int, Lane] = {}
        """By the ids that publishers know."""
        self.timeline = Timeline()
        self.catalog: Catalog | None = None
        self.record_us = mono()
        """When the owner's newest record came, on the monotonic clock."""
        self.left_us = mono()
        """When the last publisher left."""
        self._now = now
        self._mono = mono
        self._order = 0
        self._bytes = 0
        self._ids = 0

    @property
    def publishers(self) -> list[Publisher]:
        """Who publishes now."""
        return [slot.publisher for slot in self.slots.values() if slot.publisher is not None]

    @property
    def aligned(self) -> bool:
        """Whether what it holds can follow the owner's records without a seam."""
        lanes = [lane for lane in self.lanes.values() if lane.theirs and not lane.feed.codec.sparse]
        return bool(lanes) and all(lane.alignment.shift is not None for lane in lanes)

    @property
    def lag_us(self) -> int:
        """How long the oldest frame that the owner has not published has been here."""
        oldest = min((lane.held[0].mono_us for lane in self.lanes.values() if lane.held), default=0)
        return self._mono() - oldest if oldest else 0

    def slot(self, name: str) -> Slot:
        """Return a slot, made at its first use."""
        return self.slots.setdefault(name, Slot(name))

    # What publishers call.

    def enter(self, publisher: Publisher) -> None:
        """Give a free slot to a publisher."""
        slot = self.slot(publisher.slot)
        slot.publisher = publisher
        slot.time = SlotTime(self.timeline, slot.time)
        slot.feeds = {}
        slot.last_us = slot.since_us = self._mono()

    def leave(self, publisher: Publisher, reason: str, ended: bool) -> None:
        """Free the slot of a publisher; what it sent and the owner has not is dropped."""
        slot = self.slots[publisher.slot]
        if slot.publisher is not publisher:
            return
        slot.publisher = None
        for number in slot.feeds:
            lane = self.lanes.pop(number)
            self._bytes -= sum(len(held.frame.data) for held in lane.held)
        slot.feeds = {}
        self.left_us = self._mono()
        extra = {"stream": self.name, "slot": slot.name, "reason": reason, "ended": ended}
        log.info("publisher left", extra={**extra, "publisher": publisher.number})

    def add_track(self, publisher: Publisher, wish: TrackWish) -> int:
        """Open a track; its id is known to this publisher alone.

        Raises:
            TrackUnsupported: If it cannot be carried.
        """
        slot = self.slots[publisher.slot]
        description, timescale = examine(wish, len(slot.feeds))
        nominal = frame_ticks(wish, description, timescale)
        self._ids += 1
        time = track_time(slot.time, wish, timescale, nominal)
        track = new_track(self._ids, wish, timescale, slot.name, nominal)
        feed = slot.feeds[track.id] = Feed(track, 0, time)
        self.lanes[track.id] = Lane(feed, track)
        self._match_tracks()
        return track.id

    def set_init(self, publisher: Publisher, track: int, init: bytes) -> None:
        """Take new setup bytes; they hold from the next keyframe on.

        Raises:
            TrackUnsupported: If they cannot be used.
        """
        lane = self.lanes[track]
        setup(lane.feed.codec, init)
        lane.track, lane.feed.next_init = with_init(lane.track, init)

    def write(self, publisher: Publisher, frame: Frame) -> None:
        """Hold one frame until the owner has published it."""
        lane = self.lanes.get(frame.track)
        data = frame.data
        if lane is None or len(data) > MAX_FRAME:
            metrics.FRAMES_DROPPED.labels(self.name, "size" if lane else "track").inc()
            return
        feed = lane.feed
        now, mono = self._now(), self._mono()
        self.slots[publisher.slot].last_us = mono
        stamp = feed.time.stamp(frame.dts, frame.cts, feed.samples(data), mono)
        feed.frames += 1
        feed.bytes += len(data)
        if frame.keyframe:
            feed.keyed = True
            feed.init = feed.next_init
        if stamp.breaks:
            lane.break_us = lane.to_us(stamp.dts)
        self._order += 1
        self._bytes += len(data)
        lane.held.append(Held(self._order, frame, stamp, feed.init, now, mono))
        lane.alignment.add(Mark(stamp.dts, len(data), crc32(data), now))
        self._settle(lane)
        self._bound(mono)

    def _bound(self, mono: int) -> None:
        """Drop the oldest frames where too much is held."""
        while True:
            lanes = [lane for lane in self.lanes.values() if lane.held]
            lane = min(lanes, key=lambda one: one.held[0].order, default=None)
            if lane is None:
                return
            if mono - lane.held[0].mono_us <= HOLD_US and self._bytes <= HOLD_BYTES:
                return
            lane.alignment.forget_oldest()
            self._bytes -= len(lane.held.popleft().frame.data)

    # What the owner publishes.

    def follow(self, catalog: Catalog) -> None:
        """Learn the owner's tracks."""
        if self.catalog is not None and catalog.epoch != self.catalog.epoch:
            for lane in self.lanes.values():
                lane.theirs = 0
                lane.alignment.lose()
                lane.alignment.theirs.clear()
        self.catalog = catalog
        self._match_tracks()

    def _match_tracks(self) -> None:
        """Find for every track of ours the owner's: the first that could be it."""
        taken = {lane.theirs for lane in self.lanes.values()}
        for lane in self.lanes.values():
            if lane.theirs or self.catalog is None:
                continue
            for track in self.catalog.tracks:
                same = (track.slot, track.codec, track.timescale) == (
                    lane.track.slot,
                    lane.track.codec,
                    lane.track.timescale,
                )
                if same and not track.ended and track.id not in taken:
                    lane.theirs = track.id
                    taken.add(track.id)
                    break

    def records(self, track: int, records: Iterable[Record]) -> None:
        """Take note of the owner's newest records of a track."""
        self.record_us = self._mono()
        lane = next((one for one in self.lanes.values() if one.theirs == track), None)
        if lane is None:
            return
        for record in records:
            if not record.lost:
                mark = Mark(record.dts, record.size, record.crc32, record.ingest_us)
                lane.alignment.record(mark)
        self._settle(lane)

    def _settle(self, lane: Lane) -> None:
        gone = lane.alignment.settle(lane.tolerance)
        for _ in range(gone):
            self._bytes -= len(lane.held.popleft().frame.data)

    def align(self) -> None:
        """Look for the shifts that are not known; call it now and then."""
        for name in self.slots:
            lanes = [
                lane for lane in self.lanes.values() if lane.theirs and lane.track.slot == name
            ]
            lanes.sort(key=lambda lane: (lane.feed.kind is not Kind.VIDEO, lane.track.id))
            about: int | None = None
            for lane in lanes:
                near = None
                if about is not None:
                    scale = lane.feed.timescale
                    near = (about * scale // SECOND_US, NEAR_US * scale // SECOND_US)
                elif lane is not lanes[0] and lanes[0].held:
                    break  # sound alone tells little: silence is the same all the time
                if lane.alignment.align(lane.tolerance, near):
                    self._settle(lane)
                    about = lane.shift_us if about is None else about

    # What a successor needs.

    def held(self) -> list[tuple[Lane, Held]]:
        """Return all frames that are held, in the order in which they came."""
        pairs = [(lane, held) for lane in self.lanes.values() for held in lane.held]
        return sorted(pairs, key=lambda pair: pair[1].order)

    def shift_us(self, slot: str) -> int:
        """Return what the owner's stream time is more than ours, by the first track aligned."""
        lanes = [lane for lane in self.lanes.values() if lane.track.slot == slot]
        lanes.sort(key=lambda lane: lane.feed.kind is not Kind.VIDEO)
        return next((lane.shift_us for lane in lanes if lane.shift_us is not None), 0)
