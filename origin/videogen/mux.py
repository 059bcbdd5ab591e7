"""Writing the test stream into a container, for files, pipes and foreign servers.

Only for the command ``headwater videogen``: PyAV holds the interpreter while a network output
opens, which a serving process must never do.
"""

import io
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av

from common.errors import ConfigError
from common.media.codec import Codec, Kind
from common.media.describe import Description, describe
from common.media.frame import Frame
from origin.child import TrackNote
from origin.languages import iso639_2

_CODEC_IDS = {
    Codec.H264: "V_MPEG4/ISO/AVC",
    Codec.HEVC: "V_MPEGH/ISO/HEVC",
    Codec.AV1: "V_AV1",
    Codec.AAC: "A_AAC",
    Codec.OPUS: "A_OPUS",
}

_EXTENSIONS = {
    ".flv": "flv",
    ".ts": "mpegts",
    ".mp4": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}

_SCHEMES = {"rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp", "udp": "mpegts", "tcp": "mpegts"}

_OPTIONS = {
    "mp4": {"movflags": "frag_keyframe+delay_moov+default_base_moof"},
    "mov": {"movflags": "frag_keyframe+delay_moov+default_base_moof"},
    "flv": {"flvflags": "no_duration_filesize"},
    "rtsp": {"rtsp_transport": "tcp"},
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where the test stream goes."""

    place: str | BinaryIO
    format: str

    @property
    def live(self) -> bool:
        """Whether a peer listens, rather than a file that takes what comes."""
        return isinstance(self.place, str) and "://" in self.place


def parse_target(text: str, container: str, output: BinaryIO) -> Target:
    """Read the TARGET argument: a path, ``-`` for ``output``, or a URL.

    Raises:
        ConfigError: If the container cannot be told, or the URL's scheme is not one we send to.
    """
    if text == "-":
        return Target(output, container or "mpegts")
    scheme, mark, _ = text.partition("://")
    if mark:
        if scheme not in _SCHEMES:
            known = ", ".join(f"{name}://" for name in _SCHEMES)
            raise ConfigError("TARGET", f"cannot send to {scheme}://; known are {known}")
        return Target(text, container or _SCHEMES[scheme])
    extension = os.path.splitext(text)[1].lower()
    guessed = container or _EXTENSIONS.get(extension, "")
    if not guessed:
        known = ", ".join(_EXTENSIONS)
        raise ConfigError("TARGET", f"{text}: give --format, or one of the endings {known}")
    return Target(text, guessed)


class Muxer:
    """A container that takes the frames of the generator; tracks it cannot carry are left out."""

    def __init__(self, target: Target, tracks: Sequence[TrackNote]) -> None:
        carried = [note for note in tracks if note.codec in _CODEC_IDS]
        # FFmpeg makes output streams only from those of an input: here is the smallest one.
        self._template: Any = av.open(
            io.BytesIO(_matroska(carried)),
            "r",
            format="matroska",
            options={"probesize": "32", "analyzeduration": "0"},
        )
        options = _OPTIONS.get(target.format, {})
        self._output: Any = av.open(target.place, "w", format=target.format, options=options)
        self._streams: dict[int, tuple[Any, Fraction]] = {}
        for note, stream in zip(carried, self._template.streams, strict=True):
            out = self._output.add_stream_from_template(stream, opaque=True)
            out.time_base = Fraction(1, note.clock)
            out.metadata["language"] = iso639_2(note.language)
            self._streams[note.number] = (out, Fraction(1, note.clock))

    def write(self, frame: Frame) -> None:
        """Write one frame."""
        entry = self._streams.get(frame.track)
        if entry is None:
            return
        stream, time_base = entry
        packet: Any = av.Packet(frame.data)
        packet.dts, packet.pts = frame.dts, frame.dts + frame.cts
        packet.duration = frame.duration
        packet.time_base = time_base
        packet.is_keyframe = frame.keyframe
        packet.stream = stream
        self._output.mux_one(packet)

    def close(self) -> None:
        """Finish the container."""
        self._output.close()
        self._template.close()


def _matroska(tracks: Sequence[TrackNote]) -> bytes:
    """Return a Matroska file without frames that describes the tracks (RFC 9559)."""
    head = _number("4286", 1) + _number("42F7", 1) + _number("42F2", 4) + _number("42F3", 8)
    head += _element("4282", b"matroska") + _number("4287", 4) + _number("4285", 2)
    info = _number("2AD7B1", 1_000_000) + _element("4D80", b"x") + _element("5741", b"x")
    return (
        _element("1A45DFA3", head)
        + bytes.fromhex("1853806701FFFFFFFFFFFFFF")
        + _element("1549A966", info)
        + _element("1654AE6B", b"".join(_track(note) for note in tracks))
        + bytes.fromhex("1F43B67501FFFFFFFFFFFFFF")
        + _number("E7", 0)
    )


def _track(note: TrackNote) -> bytes:
    said = describe(note.codec, note.init)
    kind = 1 if note.codec.kind is Kind.VIDEO else 2
    body = _number("D7", note.number) + _number("73C5", note.number) + _number("83", kind)
    body += _element("86", _CODEC_IDS[note.codec].encode()) + _number("9C", 0)
    return _element("AE", body + _element("63A2", note.init) + _shape(kind, said))


def _shape(kind: int, said: Description) -> bytes:
    if kind == 1:
        return _element("E0", _number("B0", said.width) + _number("BA", said.height))
    rate = _element("B5", struct.pack(">d", said.sample_rate))
    return _element("E1", rate + _number("9F", said.channels))


def _element(name: str, body: bytes) -> bytes:
    return bytes.fromhex(name) + (1 << 56 | len(body)).to_bytes(8, "big") + body


def _number(name: str, value: int) -> bytes:
    return _element(name, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))
