"""Play a file as a live stream: converted, in dts order, at its own speed, for ever if wanted."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.error

from common.errors import FormatError, StreamError
from common.media import audio
from common.media.codec import Codec, Kind
from common.media.describe import describe
from common.media.frame import Frame
from origin.child import ChildWriter, TrackNote
from origin.files.payload import Converter, converter
from origin.files.source import FORMATS, MAX_HEAD, detect_format
from origin.languages import bcp47

AHEAD = Fraction(1)
"""Seconds of file that are put in order before they are played: how far tracks are interleaved."""

MAX_AHEAD_FRAMES = 2000
"""Frames that are read ahead to bring them into order. With more the earliest goes out."""

MAX_AHEAD_BYTES = 64 * 1024 * 1024
"""Bytes of those frames. With more the earliest goes out."""

MAX_STREAMS = 64
"""Tracks of a file. Those after them are not played."""

MAX_BROKEN = 100
"""Unreadable packets of one pass. With one more the file is given up."""

_CLOCK = 90_000
"""Ticks a second where the file's own time base is not one tick in so many."""

_MOV = "mov,mp4,m4a,3gp,3g2,mj2"


@dataclass(slots=True)
class _Lane:
    """One track of the file."""

    number: int
    converter: Converter
    clock: int
    """Ticks a second."""

    unit: Fraction
    """Ticks of ``clock`` in one unit of the file's time base."""

    language: str
    frame_duration: int
    announced: bytes | None = None
    next_dts: int | None = None
    """In ticks, from the start of this pass."""

    latest: Fraction = field(default_factory=Fraction)


class FilePlayer:
    """One open file. :meth:`passes` yields frames with the second they are due in."""

    def __init__(self, file: BinaryIO, name: str, writer: ChildWriter) -> None:
        self._file = file
        self._writer = writer
        head = file.read(MAX_HEAD)
        self._format = detect_format(head, name)
        if self._format is None:
            known = ", ".join(FORMATS.values())
            raise StreamError(f"{name} is of no format that is played ({known})")
        self._lanes: dict[int, _Lane] = {}
        self._broken = 0
        self._warned: set[str] = set()

    def passes(self, loop: bool) -> Iterator[tuple[Fraction, Frame]]:
        """Yield (seconds since the start, frame) in order, again and again if ``loop``.

        The next pass is later by the length of the longest track, so no track overlaps itself and
        the longest goes on without a seam.

        Raises:
            StreamError: If the file cannot be read or holds no track that can be played.
        """
        offset = Fraction(0)
        while True:
            length = Fraction(0)
            first: dict[int, int] = {}
            for due, frame in self._ordered(self._one_pass(offset)):
                lane = self._lanes[frame.track - 1]
                if not lane.converter.codec.sparse:
                    end = frame.dts + (frame.duration or lane.frame_duration)
                    span = end - first.setdefault(frame.track, frame.dts)
                    length = max(length, Fraction(span, lane.clock))
                yield due, frame
            if not length:
                raise StreamError("nothing in the file can be played")
            if not loop:
                return
            offset += length

    def _one_pass(self, offset: Fraction) -> Iterator[tuple[Fraction, Frame]]:
        self._file.seek(0)
        self._broken = 0
        options = {
            "protocol_whitelist": "none",
            "format_whitelist": _MOV if self._format == "mov" else str(self._format),
        }
        try:
            with av.open(
                self._file,
                "r",
                format=self._format,
                options=options,
                metadata_encoding="utf-8",
                metadata_errors="replace",
            ) as container:
                self._open_lanes(container)
                start: Fraction | None = None
                for packet in container.demux():
                    for due, frame in self._take(packet):
                        start = due if start is None else start
                        yield self._shift(due, frame, offset - start)
        except (av.error.FFmpegError, EOFError, OSError) as error:
            raise StreamError(f"the file cannot be read: {error}") from error
        for lane in self._lanes.values():
            lane.next_dts = None

    def _shift(self, due: Fraction, frame: Frame, by: Fraction) -> tuple[Fraction, Frame]:
        lane = self._lanes[frame.track - 1]
        frame.dts += round(by * lane.clock)
        return due + by, frame

    def _open_lanes(self, container: Any) -> None:
        if self._lanes:
            return
        for stream in list(container.streams)[:MAX_STREAMS]:
            lane = self._lane(stream)
            if lane is not None:
                self._lanes[stream.index] = lane
        if not self._lanes:
            raise StreamError("the file has no track of a codec that Headwater carries")

    def _lane(self, stream: Any) -> _Lane | None:
        context = stream.codec_context
        if context is None or stream.type not in ("video", "audio", "subtitle"):
            return None
        name = stream.codec.canonical_name
        rate = getattr(stream, "guessed_rate", None)
        try:
            chosen = converter(name, bytes(context.extradata or b""), rate)
        except FormatError as error:
            self._warn(f"track {stream.index} ({name}) is left out: {error}")
            return None
        if chosen is None:
            self._warn(f"track {stream.index} ({name}) is left out: the codec is not carried")
            return None
        base = Fraction(stream.time_base)
        clock = base.denominator if base.numerator == 1 else _CLOCK
        duration = round(clock / rate) if rate and chosen.codec.kind is Kind.VIDEO else 0
        language = bcp47(stream.metadata.get("language", ""))
        return _Lane(stream.index + 1, chosen, clock, base * clock, language, duration)

    def _take(self, packet: Any) -> Iterator[tuple[Fraction, Frame]]:
        lane = self._lanes.get(packet.stream_index)
        if lane is None or packet.size == 0:
            return
        try:
            payloads = lane.converter.convert(bytes(packet))
            flagged = packet.is_keyframe
            yield from self._frames(lane, packet, payloads, flagged)
        except FormatError as error:
            self._broken += 1
            self._warn(f"a frame of track {lane.number - 1} is left out: {error}")
            if self._broken > MAX_BROKEN:
                raise StreamError(f"the file is damaged: {error}") from error

    def _frames(
        self, lane: _Lane, packet: Any, payloads: list[bytes], flagged: bool
    ) -> Iterator[tuple[Fraction, Frame]]:
        dts = packet.dts if packet.dts is not None else packet.pts
        ticks = lane.next_dts if dts is None else round(dts * lane.unit)
        ticks = ticks or 0
        cts = 0
        if packet.dts is not None and packet.pts is not None:
            cts = round((packet.pts - packet.dts) * lane.unit)
        for payload in payloads:
            if not lane.converter.ready:
                return  # nothing can be decoded before the first parameter sets
            key = lane.converter.keyframe(payload, flagged)
            duration = self._duration(lane, packet, payload, len(payloads))
            self._announce(lane)
            yield (
                Fraction(ticks, lane.clock),
                Frame(lane.number, ticks, payload, cts, key, duration),
            )
            ticks += duration or lane.frame_duration
        lane.next_dts = ticks

    def _duration(self, lane: _Lane, packet: Any, payload: bytes, count: int) -> int:
        samples = lane.converter.samples(payload)
        if samples:
            rate = self._rate(lane, payload)
            if rate:
                return round(Fraction(samples * lane.clock, rate))
        return round((packet.duration or 0) * lane.unit / count)

    def _rate(self, lane: _Lane, payload: bytes) -> int:
        if lane.converter.codec is Codec.MP3:
            return audio.parse_mp3_header(payload).sample_rate
        return describe(lane.converter.codec, lane.converter.init).sample_rate

    def _announce(self, lane: _Lane) -> None:
        if lane.announced == lane.converter.init:
            return
        lane.announced = lane.converter.init
        self._writer.track(
            TrackNote(
                lane.number,
                lane.converter.codec,
                lane.converter.init,
                lane.clock,
                lane.language,
                frame_duration=lane.frame_duration,
            )
        )

    def _warn(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < MAX_BROKEN:
            self._warned.add(text)
            self._writer.warning(text)

    def _ordered(
        self, frames: Iterator[tuple[Fraction, Frame]]
    ) -> Iterator[tuple[Fraction, Frame]]:
        """Put the tracks in dts order, looking ``AHEAD`` seconds ahead."""
        heap: list[tuple[Fraction, int, Frame]] = []
        size = 0
        newest = Fraction(0)
        for count, (due, frame) in enumerate(frames):
            lane = self._lanes[frame.track - 1]
            # A track keeps its own order, whatever its timestamps say.
            lane.latest = max(lane.latest, due)
            heapq.heappush(heap, (lane.latest, count, frame))
            newest = max(newest, lane.latest)
            size += len(frame.data)
            while heap and self._full(heap, newest, size):
                moment, _, first = heapq.heappop(heap)
                size -= len(first.data)
                yield moment, first
        while heap:
            moment, _, first = heapq.heappop(heap)
            yield moment, first

    @staticmethod
    def _full(heap: list[tuple[Fraction, int, Frame]], newest: Fraction, size: int) -> bool:
        crowded = len(heap) > MAX_AHEAD_FRAMES or size > MAX_AHEAD_BYTES
        return crowded or newest - heap[0][0] > AHEAD
