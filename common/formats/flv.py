"""FLV, the tag stream that plays over plain HTTP, and the bodies that RTMP carries.

Video File Format Specification 10.1 (Adobe), annex E; Enhanced RTMP v2 (Veovera) for codecs
without a number of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from common.errors import FormatError, TrackUnsupported
from common.formats import amf
from common.formats.flv_tags import (
    FOURCC,
    AudioTag,
    MultitrackUnsupported,
    TagKind,
    VideoTag,
    audio_head,
    audio_sequence,
    parse_audio,
    parse_video,
    video_head,
    video_sequence,
)
from common.media.codec import Codec, Kind
from common.media.describe import Description, describe
from common.media.time import rescale
from common.media.track import Track

__all__ = [
    "AudioTag",
    "FlvDemuxer",
    "FlvMuxer",
    "MultitrackUnsupported",
    "Tag",
    "TagKind",
    "TagType",
    "VideoTag",
    "parse_audio",
    "parse_video",
]

SIGNATURE = b"FLV\x01"
MAX_HEADER = 1024
"""Bytes before the first tag; 9 in every file that exists. More are a FormatError."""

MAX_TAG = 8 * 1024 * 1024
"""Bytes of one tag's body. A longer one is a FormatError."""

_FILE_HEADER = 9
_TAG_HEADER = 11
_BACK_POINTER = 4
_HAS_AUDIO, _HAS_VIDEO = 4, 1
_MILLISECONDS = 1000
_TIME_MASK = 0x7FFFFFFF
_LEGACY_ID = {Codec.H264: 7, Codec.AAC: 10, Codec.MP3: 2}


class TagType(IntEnum):
    """TagType (E.4.1)."""

    AUDIO = 8
    VIDEO = 9
    SCRIPT = 18


@dataclass(slots=True)
class Tag:
    """One tag of an FLV stream."""

    kind: TagType
    timestamp_ms: int
    """32 bits; FFmpeg writes 31."""

    body: bytes
    """For :func:`parse_video`, :func:`parse_audio` or :func:`common.formats.amf.decode`."""


class FlvDemuxer:
    """Turn FLV bytes into tags. How they are split over the calls does not matter."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._started = False

    def feed(self, data: bytes) -> list[Tag]:
        """Take in bytes and return the tags they completed.

        Raises:
            FormatError: If this is not FLV, is encrypted, or a tag is too large.
        """
        buffer = self._buffer
        buffer += data
        tags: list[Tag] = []
        if not self._started and not self._start():
            return tags
        position, end = 0, len(buffer)
        while position + _TAG_HEADER <= end:
            size = int.from_bytes(buffer[position + 1 : position + 4], "big")
            kind = _tag_type(buffer[position], size)
            start = position + _TAG_HEADER
            after = start + size + _BACK_POINTER
            if after > end:
                break
            time = int.from_bytes(buffer[position + 4 : position + 7], "big")
            time |= buffer[position + 7] << 24
            tags.append(Tag(kind, time, bytes(buffer[start : start + size])))
            position = after
        if position:
            del buffer[:position]
        return tags

    def _start(self) -> bool:
        buffer = self._buffer
        if not SIGNATURE.startswith(buffer[:4]):
            raise FormatError("not an FLV stream")
        if len(buffer) < _FILE_HEADER:
            return False
        size = int.from_bytes(buffer[5:9], "big")
        if not _FILE_HEADER <= size <= MAX_HEADER:
            raise FormatError(f"FLV: header of {size} bytes")
        if len(buffer) < size + _BACK_POINTER:
            return False
        del buffer[: size + _BACK_POINTER]
        self._started = True
        return True


def _tag_type(first: int, size: int) -> TagType:
    if size > MAX_TAG:
        raise FormatError(f"FLV: tag of {size} bytes")
    try:
        # Bit 5 says that the body is encrypted; the two above are reserved.
        return TagType(first)
    except ValueError as error:
        raise FormatError(f"FLV: tag type {first} is unknown or encrypted") from error


class FrameRecord(Protocol):
    """What the muxer reads of a :class:`common.track.record.Record`."""

    @property
    def dts(self) -> int:
        """Decode time in the track's timescale."""

    @property
    def cts(self) -> int:
        """pts minus dts, in the track's timescale."""

    @property
    def init(self) -> int:
        """Position of the setup bytes in ``Track.inits``."""

    @property
    def key(self) -> bool:
        """Whether decoding can start here."""


class FlvMuxer:
    """Turn records into FLV bytes. Pure: equal records give equal bytes, so they can be shared.

    H.264, AAC and MP3 are written as in 2008, the other codecs as Enhanced RTMP.
    """

    def __init__(self, tracks: Sequence[Track]) -> None:
        """Take the tracks to carry, at most one of video and one of audio.

        Raises:
            TrackUnsupported: If FLV cannot carry one of them, or there are several of a kind.
        """
        for track in tracks:
            if track.codec not in FOURCC:
                raise TrackUnsupported(f"FLV cannot carry {track.codec}")
        kinds = [track.codec.kind for track in tracks]
        if len(set(kinds)) < len(kinds):
            raise TrackUnsupported("FLV carries one video track and one audio track")
        self._tracks = tuple(tracks)

    def header(self, inits: Mapping[int, int]) -> bytes:
        """Return the file header, onMetaData, and the setup bytes of every track.

        ``inits`` has, by track id, the position in ``Track.inits`` to begin with; 0 if missing.

        Raises:
            FormatError: If setup bytes cannot be read.
        """
        kinds = {track.codec.kind for track in self._tracks}
        flags = (Kind.AUDIO in kinds) * _HAS_AUDIO | (Kind.VIDEO in kinds) * _HAS_VIDEO
        parts = [SIGNATURE, bytes((flags,)), _FILE_HEADER.to_bytes(4, "big"), bytes(_BACK_POINTER)]
        parts.append(_tag(TagType.SCRIPT, 0, amf.encode("onMetaData", self._metadata(inits))))
        parts += [self.sequence_header(t, inits.get(t.id, 0), 0) for t in self._tracks]
        return b"".join(parts)

    def sequence_header(self, track: Track, init: int, dts_ms: int) -> bytes:
        """Return the tag with the setup bytes at position ``init``; empty for MP3."""
        if track.codec.kind is Kind.VIDEO:
            return _tag(TagType.VIDEO, dts_ms, video_sequence(track.codec, _init(track, init)))
        body = audio_sequence(track.codec, _init(track, init))
        return _tag(TagType.AUDIO, dts_ms, body) if body else b""

    def tag(self, track: Track, record: FrameRecord, payload: bytes) -> bytes:
        """Return the tag of one frame, with the back pointer behind it."""
        dts = rescale(record.dts, track.timescale, _MILLISECONDS)
        if track.codec.kind is Kind.VIDEO:
            pts = rescale(record.dts + record.cts, track.timescale, _MILLISECONDS)
            head = video_head(track.codec, record.key, pts - dts)
            return _tag(TagType.VIDEO, dts, head, payload)
        about = _describe(track, record.init)
        head = audio_head(track.codec, about.sample_rate or track.timescale, about.channels)
        return _tag(TagType.AUDIO, dts, head, payload)

    def _metadata(self, inits: Mapping[int, int]) -> amf.EcmaArray:
        values: dict[str, amf.Value] = {"encoder": "Headwater"}
        for track in self._tracks:
            about = _describe(track, inits.get(track.id, 0))
            number = _LEGACY_ID.get(track.codec) or int.from_bytes(FOURCC[track.codec], "big")
            if track.codec.kind is Kind.VIDEO:
                values |= {"videocodecid": number, "width": about.width, "height": about.height}
                if about.frame_rate:
                    values["framerate"] = float(about.frame_rate)
            else:
                rate = about.sample_rate or track.timescale
                values |= {"audiocodecid": number, "audiosamplerate": rate, "audiosamplesize": 16}
                values["stereo"] = about.channels != 1
        return amf.EcmaArray(values)


def _init(track: Track, position: int) -> bytes:
    return track.inits[position] if position < len(track.inits) else b""


def _describe(track: Track, position: int) -> Description:
    return describe(track.codec, _init(track, position))


def _tag(kind: TagType, dts_ms: int, head: bytes, payload: bytes = b"") -> bytes:
    size = len(head) + len(payload)
    time = dts_ms & _TIME_MASK
    return b"".join(
        (
            (kind << 24 | size).to_bytes(4, "big"),
            (time & 0xFFFFFF).to_bytes(3, "big"),
            bytes((time >> 24, 0, 0, 0)),
            head,
            payload,
            (size + _TAG_HEADER).to_bytes(4, "big"),
        )
    )
