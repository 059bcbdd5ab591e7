"""The test stream as one sequence of frames, paced by a clock."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.media.codec import Codec
from common.media.frame import Frame
from origin.child import TrackNote
from origin.videogen.encode import AUDIO_RATE, VIDEO_CLOCK, AudioEncoder, VideoEncoder
from origin.videogen.picture import Painter
from origin.videogen.settings import Settings

BEEP = 0.1
"""Seconds that the tone sounds at the start of every second of the wall clock."""

BEEP_HERTZ = (1000, 600, 1500, 800, 1250, 700, 1800, 900)
"""One tone a language, so that ears can tell them apart."""

_LOUDNESS = 0.4
_SECOND_US = 1_000_000


class Clock(Protocol):
    """The time that the generator goes by."""

    def wall_us(self) -> int:
        """Return Unix microseconds."""

    def wait_until(self, wall_us: int) -> None:
        """Return at this time, or at once when it has passed."""


class RealClock:
    """The wall clock at the start, and from there on a clock that nobody sets."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def wall_us(self) -> int:
        """Return Unix microseconds."""
        return (time.monotonic_ns() + self._offset) // 1000

    def wait_until(self, wall_us: int) -> None:
        """Sleep until then."""
        ahead = wall_us - self.wall_us()
        if ahead > 0:
            time.sleep(ahead / _SECOND_US)


class FastClock:
    """A clock that is always where it is wanted: encode as fast as the machine can."""

    def __init__(self, wall_us: int) -> None:
        self._now = wall_us

    def wall_us(self) -> int:
        """Return Unix microseconds."""
        return self._now

    def wait_until(self, wall_us: int) -> None:
        """Be there."""
        self._now = max(self._now, wall_us)


@dataclass(slots=True)
class _Voice:
    """One language: its encoder, its tone, the second in which it beeps."""

    encoder: AudioEncoder
    language: str
    second: NDArray[np.float32]


class Generator:
    """Makes the frames of all tracks; track numbers are those of :meth:`tracks`."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._start_us = 0
        self._frame_ticks = VIDEO_CLOCK / settings.fps
        self._number = 0
        self._samples = 0
        self._videos: list[tuple[Painter, VideoEncoder]] = []
        if settings.video is not None:
            for rendition in settings.renditions:
                painter = Painter(rendition.width, rendition.height, settings.fps)
                encoder = VideoEncoder(len(self._videos) + 1, settings, rendition)
                self._videos.append((painter, encoder))
        self._voices = self._make_voices()
        self._metadata = len(self._videos) + len(self._voices) + 1 if settings.metadata else 0

    def _make_voices(self) -> list[_Voice]:
        if self._settings.audio is None:
            return []
        voices = []
        for index, language in enumerate(self._settings.languages):
            encoder = AudioEncoder(len(self._videos) + index + 1, self._settings.audio)
            tone = _second(BEEP_HERTZ[index % len(BEEP_HERTZ)])
            voices.append(_Voice(encoder, language, tone))
        return voices

    def frames(self, count: int | None = None) -> Iterator[list[Frame]]:
        """Yield the frames of each picture's time, for ever or for ``count`` pictures."""
        self._start_us = self._clock.wall_us()  # opening the encoders took its time
        while count is None or self._number < count:
            due_us = self._start_us + int(self._number / self._settings.fps * _SECOND_US)
            self._clock.wait_until(due_us)
            yield self._step()
        yield [frame for _, encoder in self._videos for frame in encoder.flush()]

    def _step(self) -> list[Frame]:
        # What is burnt in is when the picture is painted, not when it should have been.
        now_us = self._clock.wall_us()
        frames: list[Frame] = []
        if self._metadata and self._number % self._settings.metadata == 0:
            frames.append(self._document(now_us))
        for painter, encoder in self._videos:
            planes = painter.paint(self._number, now_us)
            frames += encoder.encode(planes, self._number, now_us)
        self._number += 1
        until = int(self._number / self._settings.fps * AUDIO_RATE)
        return frames + self._speak(until, now_us)

    def _document(self, now_us: int) -> Frame:
        text = json.dumps({"wall": now_us // 1000, "frame": self._number})
        dts = round(self._number * self._frame_ticks)
        return Frame(self._metadata, dts, text.encode(), keyframe=True, capture_us=now_us)

    def _speak(self, until: int, now_us: int) -> list[Frame]:
        frames: list[Frame] = []
        size = self._voices[0].encoder.frame_size if self._voices else 0
        # The encoder is a frame late; sound that ends before its picture would hold players back.
        while self._voices and self._samples < until + size:
            offset = self._start_us * AUDIO_RATE // _SECOND_US + self._samples
            for voice in self._voices:
                samples = voice.second[np.arange(offset, offset + size) % AUDIO_RATE]
                for pts, data in voice.encoder.encode(samples, self._samples):
                    heard_us = self._start_us + pts * _SECOND_US // AUDIO_RATE
                    capture_us = min(now_us, heard_us)
                    track = voice.encoder.track
                    frames.append(Frame(track, pts, data, 0, True, size, capture_us))
            self._samples += size
        return frames

    def ready(self) -> bool:
        """Return whether every encoder has shown its setup bytes."""
        return all(encoder.init for _, encoder in self._videos)

    def tracks(self) -> list[TrackNote]:
        """Return all tracks, once :meth:`ready`."""
        notes = [
            TrackNote(
                encoder.track,
                encoder.codec,
                encoder.init,
                VIDEO_CLOCK,
                name=f"{encoder.height}p",
                frame_duration=round(self._frame_ticks),
            )
            for _, encoder in self._videos
        ]
        for voice in self._voices:
            encoder = voice.encoder
            notes.append(
                TrackNote(
                    encoder.track,
                    encoder.codec,
                    encoder.init,
                    AUDIO_RATE,
                    language=voice.language,
                    frame_duration=encoder.frame_size,
                )
            )
        if self._metadata:
            notes.append(TrackNote(self._metadata, Codec.JSON, b"", VIDEO_CLOCK, name="clock"))
        return notes

    def run(self, count: int | None = None) -> Iterator[list[Frame]]:
        """Yield as :meth:`frames` does, but only once all tracks are known."""
        held: list[Frame] = []
        for frames in self.frames(count):
            held += frames
            if self.ready():
                yield held
                held = []


def _second(hertz: int) -> NDArray[np.float32]:
    """Return a second that begins with a beep, faded in and out within 5 ms."""
    moments = np.arange(AUDIO_RATE) / AUDIO_RATE
    fade = np.clip(np.minimum(moments, BEEP - moments) / 0.005, 0, 1)
    return (np.sin(2 * np.pi * hertz * moments) * fade * _LOUDNESS).astype(np.float32)
