"""The handle through which an input feeds one stream."""

from collections.abc import Callable, Mapping
from typing import Protocol

from common.media.codec import Codec
from common.media.frame import Frame


class Sink(Protocol):
    """What stands behind a publisher: the stream it feeds."""

    name: str

    def add_track(self, publisher: "Publisher", wish: "TrackWish") -> int:
        """Open or reuse a track of the publisher's slot."""

    def set_init(self, publisher: "Publisher", track: int, init: bytes) -> None:
        """Take new setup bytes for a track."""

    def write(self, publisher: "Publisher", frame: Frame) -> None:
        """Take one frame."""

    def leave(self, publisher: "Publisher", reason: str, ended: bool) -> None:
        """Let go of the slot."""


class Host(Sink, Protocol):
    """A sink that publishers can be moved to."""

    def enter(self, publisher: "Publisher") -> None:
        """Give the publisher's slot to it; it is free."""


class TrackWish:
    """What an input says of a track that it is about to send."""

    __slots__ = ("clock", "codec", "frame_duration", "init", "language", "name", "wrap_bits")

    def __init__(
        self,
        codec: Codec,
        init: bytes,
        clock: int,
        wrap_bits: int,
        language: str,
        name: str,
        frame_duration: int,
    ) -> None:
        self.codec = codec
        self.init = init
        self.clock = clock
        self.wrap_bits = wrap_bits
        self.language = language
        self.name = name
        self.frame_duration = frame_duration


class Publisher:
    """One encoder's visit to one slot of one stream. Nothing here waits."""

    def __init__(
        self, sink: Sink, slot: str, *, peer: str, protocol: str, number: int, key_id: bytes
    ) -> None:
        self.stream = sink.name
        self.slot = slot
        self.peer = peer
        self.protocol = protocol
        self.number = number
        """Counts publishers of this node, for logs."""
        self.key_id = key_id
        """A hash of the key it came with; who comes with the same one may take over."""
        self.forwarded = False
        """Whether another origin passes it on; it makes way for the encoder itself."""
        self.closed = ""
        """Why it was closed; empty while it is open."""
        self.on_close: Callable[[str], None] | None = None
        """Called with the reason when the origin, not the input, ends this visit (take-over,
        stop of the node); the input then closes its connection. Never called twice."""
        self._sink = sink
        self._wishes: dict[int, TrackWish] = {}
        self._ids: dict[int, int] = {}  # the sink's ids by those that the input knows, once moved

    def add_track(
        self,
        codec: Codec,
        init: bytes,
        *,
        clock: int,
        wrap_bits: int = 0,
        language: str = "und",
        name: str = "",
        frame_duration: int = 0,
    ) -> int:
        """Announce a track and return its id, which goes into ``Frame.track``.

        ``clock`` is ticks a second of the frames' ``dts`` and ``cts``; ``wrap_bits`` the width of
        a source clock that wraps (32 for RTMP, whose 31-bit wraps are then understood too);
        ``frame_duration`` ticks from frame to frame if the source knows, else 0.

        Raises:
            TrackUnsupported: If the setup bytes cannot be used, or there are too many tracks.
        """
        wish = TrackWish(codec, init, clock, wrap_bits, language, name, frame_duration)
        number = self._sink.add_track(self, wish)
        known = number if number not in self._wishes else max(self._wishes) + 1
        self._wishes[known] = wish
        if self._ids or known != number:
            self._ids[known] = number
        return known

    def set_init(self, track: int, init: bytes) -> None:
        """Take setup bytes sent mid-stream; equal ones are ignored, others break the timeline.

        Raises:
            TrackUnsupported: If the setup bytes cannot be used, or the track got too many.
        """
        if not self.closed:
            self._sink.set_init(self, self._ids.get(track, track), init)
            self._wishes[track].init = init

    def write(self, frame: Frame) -> None:
        """Publish one frame; after :meth:`close` it is ignored.

        Raises:
            TrackUnsupported: If no keyframe came for long, or the track is not this publisher's.
        """
        if not self.closed:
            if self._ids:
                frame.track = self._ids.get(frame.track, frame.track)
            self._sink.write(self, frame)

    def move(self, sink: Host, ids: Mapping[int, int] | None = None) -> dict[int, int]:
        """Feed another sink from now on; the input notices nothing.

        ``ids`` are the new sink's track ids by those of the old one, where it has the publisher's
        tracks already; else they are announced to it. Returns these ids.

        Raises:
            TrackUnsupported: If the new sink cannot carry a track.
        """
        old = {known: self._ids.get(known, known) for known in self._wishes}
        self._sink = sink
        if ids is None:
            sink.enter(self)
            ids = {old[known]: sink.add_track(self, wish) for known, wish in self._wishes.items()}
        self._ids = {known: ids[number] for known, number in old.items()}
        return dict(ids)

    def close(self, reason: str, ended: bool = False) -> None:
        """End the visit. ``ended``: the stream is over, nobody needs to wait for a reconnect."""
        if self.closed:
            return
        self.closed = reason or "closed"
        self._sink.leave(self, self.closed, ended)

    def dismiss(self, reason: str) -> None:
        """End the visit from the origin's side and tell the input."""
        if self.closed:
            return
        self.close(reason)
        if self.on_close is not None:
            self.on_close(self.closed)
