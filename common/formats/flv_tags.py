"""What stands in a video or audio tag of FLV, which is also what an RTMP message carries.

Video File Format Specification 10.1 (Adobe), annex E.4.2 and E.4.3; Enhanced RTMP v2 (Veovera),
"Enhanced Audio" and "Enhanced Video". Multitrack bodies are recognised and refused.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

from common.errors import FormatError, TrackUnsupported
from common.media.codec import Codec
from common.media.vp9 import BOX_SIZE as VPCC_SIZE


class TagKind(Enum):
    """What the body of a tag is for."""

    SEQUENCE = "sequence"
    """Codec setup bytes."""

    FRAME = "frame"
    END = "end"
    """The track ends here."""

    METADATA = "metadata"
    """Colour or channel description; what we show is read from the bitstream instead."""


class MultitrackUnsupported(TrackUnsupported):
    """A multitrack body; the other tracks of its stream can be carried without it."""


@dataclass(slots=True)
class VideoTag:
    """The body of a video tag."""

    codec: Codec
    kind: TagKind
    cts: int
    """pts minus dts in milliseconds."""

    keyframe: bool
    """As the encoder flagged it; look into ``data`` for the truth."""

    data: bytes


@dataclass(slots=True)
class AudioTag:
    """The body of an audio tag."""

    codec: Codec
    kind: TagKind
    data: bytes


class VideoPacketType(IntEnum):
    """VideoPacketType of Enhanced RTMP."""

    SEQUENCE_START = 0
    CODED_FRAMES = 1
    SEQUENCE_END = 2
    CODED_FRAMES_X = 3
    METADATA = 4
    MPEG2TS_SEQUENCE_START = 5
    MULTITRACK = 6
    MOD_EX = 7


class AudioPacketType(IntEnum):
    """AudioPacketType of Enhanced RTMP."""

    SEQUENCE_START = 0
    CODED_FRAMES = 1
    SEQUENCE_END = 2
    MULTICHANNEL_CONFIG = 4
    MULTITRACK = 5
    MOD_EX = 7


VIDEO_FOURCC = {
    b"avc1": Codec.H264,
    b"hvc1": Codec.HEVC,
    b"av01": Codec.AV1,
    b"vp09": Codec.VP9,
}
AUDIO_FOURCC = {b"mp4a": Codec.AAC, b"Opus": Codec.OPUS, b".mp3": Codec.MP3}
FOURCC = {codec: fourcc for fourcc, codec in (VIDEO_FOURCC | AUDIO_FOURCC).items()}

_KEY_FRAME, _INTER_FRAME, _COMMAND_FRAME = 1, 2, 5
# 12 is not of the specification, but what encoders sent for HEVC before there was a FourCC.
_VIDEO_CODEC_ID = {7: Codec.H264, 12: Codec.HEVC}
_VIDEO_NAMES = {1: "JPEG", 2: "Sorenson H.263", 3: "Screen Video", 4: "VP6", 5: "VP6", 6: "Screen"}
_MP3, _AAC, _EX_AUDIO, _MP3_8K = 2, 10, 9, 14
_AUDIO_NAMES = {
    0: "PCM",
    1: "ADPCM",
    3: "PCM",
    4: "Nellymoser",
    5: "Nellymoser",
    6: "Nellymoser",
    7: "G.711 A-law",
    8: "G.711 mu-law",
    11: "Speex",
}
_MP3_RATES = {44100: 3, 22050: 2, 11025: 1}

_OPUS_STEREO = b"OpusHead\x01\x02\x00\x00\x80\xbb\x00\x00\x00\x00\x00"
"""The ID header (RFC 7845, 5.1) that an empty sequence start stands for."""

_HAS_CTS = (Codec.H264, Codec.HEVC)


def parse_video(body: bytes) -> VideoTag | None:
    """Read the body of a video tag; None where there is nothing for a viewer in it.

    Raises:
        FormatError: If it is cut off or no such packet type exists.
        MultitrackUnsupported: If it carries several tracks.
        TrackUnsupported: If the codec is not one of ours; the text names it.
    """
    if not body:
        return None
    first = body[0]
    if first & 0x80:
        return _enhanced_video(body)
    frame = first >> 4
    if frame == _COMMAND_FRAME:
        return None
    codec = _VIDEO_CODEC_ID.get(first & 0x0F)
    if codec is None:
        raise _unsupported("video", _VIDEO_NAMES.get(first & 0x0F, f"FLV codec {first & 0x0F}"))
    key = frame == _KEY_FRAME
    kind = _at(body, 1)
    if kind == VideoPacketType.SEQUENCE_END:
        return VideoTag(codec, TagKind.END, 0, key, b"")
    if kind > VideoPacketType.SEQUENCE_END:
        raise FormatError(f"FLV: AVCPacketType {kind}")
    if len(body) < 5:
        raise FormatError(f"FLV: video body of {len(body)} bytes")
    if kind == VideoPacketType.SEQUENCE_START:
        return VideoTag(codec, TagKind.SEQUENCE, 0, key, body[5:])
    return VideoTag(codec, TagKind.FRAME, _si24(body, 2), key, body[5:])


def _enhanced_video(body: bytes) -> VideoTag | None:
    frame = body[0] >> 4 & 7
    kind, position = body[0] & 0x0F, 1
    if kind == VideoPacketType.MOD_EX:
        kind, position = _mod_ex(body, position, VideoPacketType.MOD_EX)
    if kind != VideoPacketType.METADATA and frame == _COMMAND_FRAME:
        return None
    if kind == VideoPacketType.MULTITRACK:
        raise MultitrackUnsupported("several video tracks in one message are not supported yet")
    fourcc, position = _fourcc(body, position)
    codec = VIDEO_FOURCC.get(fourcc)
    if codec is None:
        raise _unsupported("video", fourcc.decode("ascii", "replace"))
    key = frame == _KEY_FRAME
    match kind:
        case VideoPacketType.CODED_FRAMES if codec in _HAS_CTS:
            if len(body) < position + 3:
                raise FormatError("FLV: coded frame without composition time")
            cts = _si24(body, position)
            return VideoTag(codec, TagKind.FRAME, cts, key, body[position + 3 :])
        case VideoPacketType.CODED_FRAMES | VideoPacketType.CODED_FRAMES_X:
            return VideoTag(codec, TagKind.FRAME, 0, key, body[position:])
        case VideoPacketType.SEQUENCE_START:
            return VideoTag(codec, TagKind.SEQUENCE, 0, key, body[position:])
        case VideoPacketType.SEQUENCE_END:
            return VideoTag(codec, TagKind.END, 0, key, b"")
        case VideoPacketType.METADATA:
            return VideoTag(codec, TagKind.METADATA, 0, False, body[position:])
        case VideoPacketType.MPEG2TS_SEQUENCE_START:
            return None
    raise FormatError(f"FLV: VideoPacketType {kind}")


def parse_audio(body: bytes) -> AudioTag | None:
    """Read the body of an audio tag; None where there is nothing for a listener in it.

    An empty body means silence, and so does an empty frame.

    Raises:
        FormatError: If it is cut off or no such packet type exists.
        MultitrackUnsupported: If it carries several tracks.
        TrackUnsupported: If the codec is not one of ours; the text names it.
    """
    if not body:
        return None
    sound = body[0] >> 4
    if sound == _EX_AUDIO:
        return _enhanced_audio(body)
    if sound in (_MP3, _MP3_8K):
        return AudioTag(Codec.MP3, TagKind.FRAME, body[1:]) if len(body) > 1 else None
    if sound != _AAC:
        raise _unsupported("audio", _AUDIO_NAMES.get(sound, f"FLV sound format {sound}"))
    kind = _at(body, 1)
    if kind > 1:
        raise FormatError(f"FLV: AACPacketType {kind}")
    if len(body) == 2:
        return None
    return AudioTag(Codec.AAC, TagKind.FRAME if kind else TagKind.SEQUENCE, body[2:])


def _enhanced_audio(body: bytes) -> AudioTag | None:
    kind, position = body[0] & 0x0F, 1
    if kind == AudioPacketType.MOD_EX:
        kind, position = _mod_ex(body, position, AudioPacketType.MOD_EX)
    if kind == AudioPacketType.MULTITRACK:
        raise MultitrackUnsupported("several audio tracks in one message are not supported yet")
    fourcc, position = _fourcc(body, position)
    codec = AUDIO_FOURCC.get(fourcc)
    if codec is None:
        raise _unsupported("audio", fourcc.decode("ascii", "replace"))
    data = body[position:]
    match kind:
        case AudioPacketType.CODED_FRAMES:
            return AudioTag(codec, TagKind.FRAME, data) if data else None
        case AudioPacketType.SEQUENCE_START:
            if not data and codec is Codec.OPUS:
                data = _OPUS_STEREO
            return AudioTag(codec, TagKind.SEQUENCE, data)
        case AudioPacketType.SEQUENCE_END:
            return AudioTag(codec, TagKind.END, b"")
        case AudioPacketType.MULTICHANNEL_CONFIG:
            return AudioTag(codec, TagKind.METADATA, data)
    raise FormatError(f"FLV: AudioPacketType {kind}")


def _mod_ex(body: bytes, position: int, again: int) -> tuple[int, int]:
    """Skip the modifiers (nanosecond offsets so far); return the packet type behind them."""
    kind = again
    while kind == again:
        size = _at(body, position) + 1
        position += 1
        if size == 256:
            size = (_at(body, position) << 8 | _at(body, position + 1)) + 1
            position += 2
        position += size
        kind = _at(body, position) & 0x0F
        position += 1
    return kind, position


def _fourcc(body: bytes, position: int) -> tuple[bytes, int]:
    if len(body) < position + 4:
        raise FormatError("FLV: FourCC cut off")
    return body[position : position + 4], position + 4


def _at(body: bytes, position: int) -> int:
    if position >= len(body):
        raise FormatError("FLV: body cut off")
    return body[position]


def _si24(body: bytes, position: int) -> int:
    return int.from_bytes(body[position : position + 3], "big", signed=True)


def _unsupported(kind: str, name: str) -> TrackUnsupported:
    ours = VIDEO_FOURCC if kind == "video" else AUDIO_FOURCC
    return TrackUnsupported(
        f"{kind} codec {name} is not supported; use one of {', '.join(ours.values())}"
    )


def video_sequence(codec: Codec, init: bytes) -> bytes:
    """Return the body that announces a video codec: legacy for H.264, else with its FourCC."""
    if codec is Codec.H264:
        return b"\x17\x00\x00\x00\x00" + init
    # What VP9's setup bytes have behind the box is ours alone.
    init = init[:VPCC_SIZE] if codec is Codec.VP9 else init
    return _ex_video(True, VideoPacketType.SEQUENCE_START, codec) + init


def video_head(codec: Codec, keyframe: bool, cts: int) -> bytes:
    """Return what stands before a coded picture in a body; ``cts`` in milliseconds."""
    if codec is Codec.H264:
        return (b"\x17\x01" if keyframe else b"\x27\x01") + _to_si24(cts)
    if codec is not Codec.HEVC:
        return _ex_video(keyframe, VideoPacketType.CODED_FRAMES, codec)
    if cts == 0:
        return _ex_video(keyframe, VideoPacketType.CODED_FRAMES_X, codec)
    return _ex_video(keyframe, VideoPacketType.CODED_FRAMES, codec) + _to_si24(cts)


def _ex_video(keyframe: bool, kind: VideoPacketType, codec: Codec) -> bytes:
    frame = _KEY_FRAME if keyframe else _INTER_FRAME
    return bytes((0x80 | frame << 4 | kind,)) + FOURCC[codec]


def _to_si24(cts: int) -> bytes:
    return max(-(1 << 23), min(cts, (1 << 23) - 1)).to_bytes(3, "big", signed=True)


def audio_sequence(codec: Codec, init: bytes) -> bytes:
    """Return the body that announces an audio codec; empty for MP3, which needs none."""
    if codec is Codec.AAC:
        return b"\xaf\x00" + init
    return b"\x90Opus" + init if codec is Codec.OPUS else b""


def audio_head(codec: Codec, sample_rate: int, channels: int) -> bytes:
    """Return what stands before an audio frame in a body."""
    if codec is Codec.AAC:
        return b"\xaf\x01"
    if codec is Codec.OPUS:
        return b"\x91Opus"
    stereo = channels != 1
    if sample_rate == 8000:
        return bytes((_MP3_8K << 4 | 2 | stereo,))
    # Other rates have no code; players read the rate from the frame.
    return bytes((_MP3 << 4 | _MP3_RATES.get(sample_rate, 3) << 2 | 2 | stereo,))
