"""From the bodies of FLV tags, as RTMP carries them too, to a publisher's tracks and frames."""

import json
from typing import Any

from common.errors import FormatError, TrackUnsupported
from common.formats.amf import Date, Value
from common.formats.flv import (
    AudioTag,
    MultitrackUnsupported,
    TagKind,
    VideoTag,
    parse_audio,
    parse_video,
)
from common.media.audio import parse_mp3_header
from common.media.codec import Codec
from common.media.describe import is_keyframe
from common.media.frame import Frame
from common.media.vp9 import normalise_vpcc
from common.runtime import metrics
from common.runtime.logs import Limited, Log
from origin.publisher import Publisher

CLOCK = 1000
"""Ticks a second of FLV timestamps."""

WRAP_BITS = 32
"""Width of RTMP timestamps; FFmpeg wraps at 31 bits, which the normaliser understands."""

MAX_HEADLESS = 300
"""Frames of a track before its sequence header: 10 s of video, 6 s of audio. With one more the
publisher is refused."""

DATA_NAMES = ("onTextData", "onCuePoint")
"""Script data that become a metadata track."""


class _Lane:
    """One kind of media: the track it has now and what sets its decoder up."""

    __slots__ = ("codec", "headless", "init", "track")

    def __init__(self) -> None:
        self.codec: Codec | None = None
        self.init = b""
        self.track = 0
        self.headless = 0


class FlvFeed:
    """Feeds one publisher. Tracks begin when their setup bytes come, early or late."""

    def __init__(self, publisher: Publisher, log: Log) -> None:
        self.publisher = publisher
        self._video = _Lane()
        self._audio = _Lane()
        self._data = _Lane()
        self._vpcc = b""
        self._log = log
        self._limited = Limited(log)
        self._multitrack = False

    def video(self, timestamp: int, body: bytes) -> None:
        """Take in a video body.

        Raises:
            FormatError: If the body is broken; a broken frame in a sound body is left out.
            TrackUnsupported: If the codec is not one of ours, or a track cannot be had.
        """
        try:
            tag = parse_video(body)
        except MultitrackUnsupported as error:
            self._skip_multitrack(error)
            return
        if tag is None:
            return
        if tag.kind is TagKind.FRAME:
            self._picture(timestamp, tag)
        elif tag.kind is TagKind.SEQUENCE:
            # The record of VP9 does not say how large the picture is: wait for a key frame.
            self._vpcc = normalise_vpcc(tag.data) if tag.codec is Codec.VP9 else b""
            if not self._vpcc:
                self._set_up(self._video, tag.codec, tag.data)

    def audio(self, timestamp: int, body: bytes) -> None:
        """Take in an audio body; raises as :meth:`video` does."""
        try:
            tag = parse_audio(body)
        except MultitrackUnsupported as error:
            self._skip_multitrack(error)
            return
        if tag is None:
            return
        if tag.kind is TagKind.FRAME:
            self._sound(timestamp, tag)
        elif tag.kind is TagKind.SEQUENCE and tag.codec is not Codec.MP3:
            self._set_up(self._audio, tag.codec, tag.data)

    def data(self, timestamp: int, name: str, values: tuple[Value, ...]) -> None:
        """Take in script data; cue points and text become frames of a JSON track.

        Metadata such as ``onMetaData`` change nothing: what they say is read from the bitstream.

        Raises:
            TrackUnsupported: If the publisher has too many tracks.
        """
        if name not in DATA_NAMES:
            return
        document = {"name": name, "data": _plain(values[0] if values else None)}
        try:
            text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        except ValueError:
            self._drop("data")
            return
        self._set_up(self._data, Codec.JSON, b"")
        self.publisher.write(Frame(self._data.track, timestamp, text.encode(), keyframe=True))

    def _picture(self, timestamp: int, tag: VideoTag) -> None:
        lane = self._video
        if not tag.data:
            return
        try:
            if self._vpcc and tag.codec is Codec.VP9 and is_keyframe(Codec.VP9, tag.data, b""):
                self._set_up(lane, Codec.VP9, normalise_vpcc(self._vpcc, tag.data))
            if not self._ready(lane, tag.codec):
                return
            key = is_keyframe(tag.codec, tag.data, lane.init)
        except FormatError:
            self._drop("broken")
            return
        self.publisher.write(Frame(lane.track, timestamp, tag.data, tag.cts, key))

    def _sound(self, timestamp: int, tag: AudioTag) -> None:
        lane = self._audio
        if tag.codec is Codec.MP3:
            try:
                self._set_up(lane, Codec.MP3, mp3_setup(tag.data))
            except FormatError:
                self._drop("broken")
                return
        elif not self._ready(lane, tag.codec):
            return
        self.publisher.write(Frame(lane.track, timestamp, tag.data, keyframe=True))

    def _set_up(self, lane: _Lane, codec: Codec, init: bytes) -> None:
        if codec is lane.codec:
            if init != lane.init:
                self.publisher.set_init(lane.track, init)
                lane.init = init
            return
        lane.track = self.publisher.add_track(codec, init, clock=CLOCK, wrap_bits=WRAP_BITS)
        lane.codec, lane.init, lane.headless = codec, init, 0

    def _ready(self, lane: _Lane, codec: Codec) -> bool:
        """Whether a frame of ``codec`` has a track; without setup bytes nobody can decode it."""
        if codec is lane.codec:
            return True
        lane.headless += 1
        if lane.headless > MAX_HEADLESS:
            raise TrackUnsupported(
                f"{MAX_HEADLESS} {codec} frames came without a sequence header before them; "
                "restart the encoder"
            )
        self._drop("no sequence header")
        return False

    def _drop(self, reason: str) -> None:
        metrics.FRAMES_DROPPED.labels(self.publisher.stream, reason.replace(" ", "_")).inc()
        self._limited.warning("frame dropped", reason, {"reason": reason})

    def _skip_multitrack(self, error: MultitrackUnsupported) -> None:
        if not self._multitrack:
            self._multitrack = True
            self._log.warning("tracks left out", extra={"reason": str(error)})


def mp3_setup(frame: bytes) -> bytes:
    """Return the part of an MP3 frame's header that is the same in all frames of a stream.

    MP3 has no setup bytes; a header with a fixed bit rate stands in for them, because the sample
    rate is written nowhere else.

    Raises:
        FormatError: If no MPEG audio frame begins here.
    """
    parse_mp3_header(frame)
    channels = frame[3] & 0xC0
    # Joint stereo is chosen frame by frame: take it for stereo.
    channels = 0 if channels == 0x40 else channels
    return bytes((0xFF, frame[1] | 1, 0x90 | frame[2] & 0x0C, channels))


def _plain(value: Value) -> Any:
    """Return an AMF value as JSON has it; dates become Unix milliseconds."""
    if isinstance(value, Date):
        return value.ms
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
