"""A stream that goes on after what pages hold: those of an earlier run, or of another origin."""

from dataclasses import replace

from common.media.codec import Kind
from common.runtime.logs import Log
from common.track.index import Opened
from origin.adoption import Adopted
from origin.feed import Feed, next_id, with_init
from origin.follower import Follower, Held, Lane
from origin.live import LiveStream
from origin.segmenter import Promises

log = Log("origin.heir")


class Heir(LiveStream):
    """A stream on its new owner. Call one of the methods here before anything else."""

    def adopt(self, adopted: Adopted) -> None:
        """Go on after what the pages hold.

        The segment that was open is closed; what comes next opens one after a discontinuity.
        """
        self._restore(adopted)
        segmenter = self._segmenter
        segmenter.adopt(adopted.rows, adopted.row_head, adopted.tails)
        for track in adopted.catalog.tracks:
            segmenter.leave(track.id)
            self.slot(track.slot).last_us = self._mono()
        # Stream time goes on by the time that has passed since the last record.
        self._clock.resume(adopted.opened.start_us, adopted.opened.wall_us)
        self._timeline.head_us = adopted.end_us
        self._timeline.arrival_us = self._mono() - max(0, self._now() - adopted.ingest_us)
        with self._room_or_starve():
            self._commit()
            segmenter.finish()
        segmenter.break_timeline()

    def _restore(self, adopted: Adopted) -> None:
        catalog, segmenter = adopted.catalog, self._segmenter
        self.catalog = replace(catalog, term=self.catalog.term, window_us=self.settings.window.us)
        self._promises = segmenter.promises = Promises(
            catalog.target_duration, catalog.part_target_us, catalog.independent
        )
        for track in catalog.tracks:
            segmenter.add_track(track.id, track.codec.kind, track.timescale)

    def succeed(self, adopted: Adopted, follower: Follower) -> None:
        """Go on in the place of an owner as if nothing had happened.

        ``adopted`` is its numbering, as far as it is known here; the follower's frames that are not
        in there come next, at the times that the owner would have given them.
        """
        self._restore(adopted)
        opened = adopted.opened
        self._clock.succeed(opened.start_us, opened.wall_us, opened.course.drift_us)
        self._timeline = follower.timeline
        inits: dict[int, list[int]] = {}
        for number in sorted(follower.lanes):
            inits[number] = self._inherit(follower.lanes[number], adopted, follower)
        self._move_times(follower)
        taken = {lane.theirs for lane in follower.lanes.values()}
        gone = [track.id for track in adopted.catalog.tracks if track.id not in taken]
        for track in adopted.catalog.tracks:
            self.slot(track.slot).last_us = self._mono()
        held = follower.held()
        for publisher in follower.publishers:
            self._welcome(publisher.slot, follower)
            publisher.move(self, {n: lane.theirs for n, lane in follower.lanes.items()})
        with self._room_or_starve():
            self._commit()
            self._segmenter.resume(adopted.rows, adopted.row_head, adopted.tails, gone)
        if any(_broken(lane, opened) for lane in follower.lanes.values()):
            self._segmenter.break_timeline()
        for lane, one in held:
            self._replay(lane, one, inits[lane.track.id][one.init])

    def _inherit(self, lane: Lane, adopted: Adopted, follower: Follower) -> list[int]:
        """Give a track of the follower its place; return where its setup bytes stand here."""
        known = self.catalog.track(lane.theirs) if lane.theirs else None
        if known is None:
            lane.theirs = next_id(self.catalog.tracks)
            known = replace(lane.track, id=lane.theirs)
            self._change(tracks=(*self.catalog.tracks, known))
            self._segmenter.add_track(known.id, known.codec.kind, known.timescale)
        places = []
        for init in lane.track.inits:
            known, place = with_init(known, init)
            places.append(place)
        self._replace_track(known)
        if known.codec.kind is Kind.VIDEO:
            self._flushing.add(known.id)
        if lane.alignment.shift is None:
            lane.alignment.shift = lane.from_us(follower.shift_us(lane.track.slot))
        lane.feed.succeed(known, places)
        tail = adopted.tails.get(known.id)
        if tail:
            lane.feed.after = tail[-1].dts
        return places

    def _move_times(self, follower: Follower) -> None:
        """Set the follower's clocks to what the owner's said."""
        shifts = {name: follower.shift_us(name) for name in follower.slots}
        for name, slot in follower.slots.items():
            if slot.time is not None:
                slot.time.move(shifts[name])
        for lane in follower.lanes.values():
            lane.feed.time.move(lane.alignment.shift or 0)
        if self._timeline.head_us >= 0:
            self._timeline.head_us += max(shifts.values(), default=0)

    def _welcome(self, name: str, follower: Follower) -> None:
        """Give a slot what it had at the follower."""
        slot, before = self.slot(name), follower.slots[name]
        slot.publisher, slot.time = before.publisher, before.time
        slot.last_us, slot.since_us = before.last_us, before.since_us
        lanes = [follower.lanes[number] for number in before.feeds]
        slot.feeds = {lane.theirs: lane.feed for lane in lanes}

    def _replay(self, lane: Lane, held: Held, init: int) -> None:
        """Publish a frame that was held."""
        feed, stamp = lane.feed, held.stamp
        stamp = stamp._replace(dts=stamp.dts + (lane.alignment.shift or 0))
        if stamp.dts > feed.after:
            self._place(feed, held.frame, stamp, init, held.now_us)

    def thaw(self) -> None:
        """Go on with the frames that wait at the fence: the stream is still ours."""
        for publisher, frame, now, mono in self.fence.open():
            feed = self.slots[publisher.slot].feeds.get(frame.track)
            if feed is not None and not publisher.closed:
                self._take(feed, frame, now, mono)

    def hand_over(self, follower: Follower) -> None:
        """Give all publishers to a follower, and the frames that wait; delete the pages.

        The owner has them by now, and ours may differ from where it went on without us.
        """
        ids = {publisher.number: publisher.move(follower) for publisher in self.publishers}
        for publisher, frame, _, _ in self.fence.open():
            if not publisher.closed and publisher.number in ids:
                frame.track = ids[publisher.number].get(frame.track, 0)
                follower.write(publisher, frame)
        self.remove()

    def renew(self, term: int) -> None:
        """Go on under a higher term."""
        self._change(term=term)
        with self._room_or_starve():
            self._commit()

    def inherit(self, adopted: Adopted | None, follower: Follower) -> bool:
        """Go on in the place of a follower's owner; return whether that leaves no seam."""
        if adopted is not None and adopted.whole and adopted.open and follower.aligned:
            self.succeed(adopted, follower)
            return True
        if adopted is not None:
            self.adopt(adopted)
        self.take_over(follower, follower.record_us if adopted is not None else 0)
        return False

    def take_over(self, follower: Follower, since_us: int) -> None:
        """Take a follower's publishers as if they had just come, and what they sent.

        Of that, what came since ``since_us`` on the monotonic clock: from the first keyframe on.
        """
        held = [(lane, one) for lane, one in follower.held() if one.mono_us >= since_us]
        feeds: dict[int, Feed] = {}
        for publisher in follower.publishers:
            numbers = list(follower.slots[publisher.slot].feeds)
            ids = publisher.move(self)
            feeds |= {number: self.slot(publisher.slot).feeds[ids[number]] for number in numbers}
        for lane, one in held:
            feed = feeds[lane.track.id]
            one.frame.track = feed.track
            self._take(feed, one.frame, one.now_us, one.mono_us)


def _broken(lane: Lane, opened: Opened) -> bool:
    """Whether the source has had a break that the newest segment does not tell of."""
    if lane.break_us is None:
        return False
    broke_us = lane.break_us + lane.to_us(lane.alignment.shift or 0)
    told = opened.breaks and opened.start_us >= broke_us - 1_000
    return not told and broke_us > opened.start_us - 1_000
