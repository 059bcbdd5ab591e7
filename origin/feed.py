"""The tracks of a slot: which id a publisher's track gets, and what its frames need."""

from collections.abc import Sequence
from dataclasses import replace

from common.errors import FormatError, TrackUnsupported
from common.media.audio import opus_duration
from common.media.codec import Codec, Kind
from common.media.describe import Description, describe
from common.media.time import rescale
from common.media.track import Track
from common.track.catalog import MAX_INIT_SIZE, MAX_INITS, MAX_TRACKS
from origin.normaliser import SlotTime, TrackTime
from origin.publisher import Publisher, TrackWish

VIDEO_SCALE = 90_000
SPARSE_SCALE = 1_000
MAX_CLOCK = 1_000_000_000
"""Ticks a second of a track. A finer clock is refused."""

MAX_VISIT_TRACKS = 16
"""Tracks of one publisher. One more is refused, and the publisher with it."""


class Feed:
    """One track during one publisher's visit."""

    __slots__ = (
        "after",
        "bytes",
        "codec",
        "first_dts",
        "frames",
        "init",
        "keyed",
        "kind",
        "next_init",
        "reported",
        "time",
        "timescale",
        "track",
    )

    def __init__(self, track: Track, init: int, time: TrackTime) -> None:
        self.track = track.id
        self.timescale = track.timescale
        self.codec = track.codec
        self.kind = track.codec.kind
        self.time = time
        self.init = init
        self.next_init = init
        """Setup bytes that hold from the next keyframe on."""
        self.keyed = self.kind is not Kind.VIDEO
        """Whether a keyframe has come."""
        self.first_dts: int | None = None
        self.frames = 0
        self.bytes = 0
        self.reported = (0, 0)
        self.after = -(2**63)
        """Frames up to this dts are in the pages already, from another origin."""

    def unreported(self) -> tuple[int, int]:
        """Return frames and bytes since this was last asked."""
        frames, size = self.reported
        self.reported = (self.frames, self.bytes)
        return self.frames - frames, self.bytes - size

    def succeed(self, track: Track, inits: Sequence[int]) -> None:
        """Become the feed of ``track``, which has our setup bytes at ``inits``."""
        self.track = track.id
        self.init, self.next_init = inits[self.init], inits[self.next_init]

    def samples(self, data: bytes) -> int:
        """Return the duration of a frame where only the frame tells it, else 0."""
        if self.codec is not Codec.OPUS:
            return 0
        try:
            return opus_duration(data)
        except FormatError:
            return 0


class Slot:
    """A named place for one publisher of a stream."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.publisher: Publisher | None = None
        self.time: SlotTime | None = None
        self.feeds: dict[int, Feed] = {}
        """The tracks of the present visit by id."""
        self.last_us = 0
        """When the last frame came, on the monotonic clock."""
        self.since_us = 0
        """When the present publisher came."""

    def choose(self, wish: TrackWish, tracks: Sequence[Track]) -> Track | None:
        """Return the track of an earlier visit that ``wish`` goes on with."""
        free = (
            track
            for track in tracks
            if track.slot == self.name and not track.ended and track.id not in self.feeds
        )
        return next((track for track in free if track.codec.kind is wish.codec.kind), None)


def examine(wish: TrackWish, feeds: int) -> tuple[Description, int]:
    """Check what a publisher says of a track; return its description and timescale.

    Raises:
        TrackUnsupported: If it cannot be carried; the text says why.
    """
    if feeds >= MAX_VISIT_TRACKS:
        raise TrackUnsupported(f"a publisher may send at most {MAX_VISIT_TRACKS} tracks")
    if not 0 < wish.clock <= MAX_CLOCK:
        raise TrackUnsupported(f"{wish.codec}: a clock of {wish.clock} ticks a second")
    description = setup(wish.codec, wish.init)
    kind = wish.codec.kind
    if kind is Kind.VIDEO:
        return description, VIDEO_SCALE
    if kind is Kind.AUDIO:
        return description, description.sample_rate or wish.clock
    return description, SPARSE_SCALE


def setup(codec: Codec, init: bytes) -> Description:
    """Read setup bytes.

    Raises:
        TrackUnsupported: If they are too large or not of this codec.
    """
    if len(init) > MAX_INIT_SIZE:
        raise TrackUnsupported(f"{codec}: setup data of {len(init)} bytes")
    try:
        return describe(codec, init)
    except FormatError as error:
        raise TrackUnsupported(f"{codec}: unusable setup data: {error}") from error


def frame_ticks(wish: TrackWish, description: Description, timescale: int) -> int:
    """Return nominal ticks from frame to frame as far as they are known, else 0."""
    if description.frame_samples and wish.codec.kind is Kind.AUDIO:
        return description.frame_samples
    if wish.frame_duration > 0:
        return rescale(wish.frame_duration, wish.clock, timescale)
    rate = description.frame_rate
    if rate is None or not 1 <= rate <= 1000:
        return 0
    return round(timescale / rate)


def new_track(number: int, wish: TrackWish, timescale: int, slot: str, nominal: int) -> Track:
    """Return a track as a publisher of ``slot`` wishes it."""
    name, language = wish.name, wish.language
    return Track(number, wish.codec, timescale, (wish.init,), slot, language, name, nominal)


def track_time(
    slot: SlotTime | None, wish: TrackWish, timescale: int, nominal: int, end: int | None = None
) -> TrackTime:
    """Return the clock of a track whose last record ends at ``end``."""
    assert slot is not None
    return TrackTime(
        slot,
        clock=wish.clock,
        timescale=timescale,
        wrap_bits=wish.wrap_bits,
        nominal=nominal,
        audio=wish.codec.kind is Kind.AUDIO,
        sparse=wish.codec.sparse,
        last_end=end,
    )


def with_init(track: Track, init: bytes) -> tuple[Track, int]:
    """Return the track with ``init`` among its setup bytes, and its position there.

    Raises:
        TrackUnsupported: If it got too many.
    """
    if init in track.inits:
        return track, len(track.inits) - 1 - track.inits[::-1].index(init)
    if len(track.inits) >= MAX_INITS:
        raise TrackUnsupported(f"track {track.id}: changed its setup data too often")
    return replace(track, inits=(*track.inits, init)), len(track.inits)


def next_id(tracks: Sequence[Track]) -> int:
    """Return the id of a new track; ids are never used again.

    Raises:
        TrackUnsupported: If the stream has had too many.
    """
    if len(tracks) >= MAX_TRACKS:
        raise TrackUnsupported(f"a stream may have at most {MAX_TRACKS} tracks, ended ones too")
    return max((track.id for track in tracks), default=0) + 1
