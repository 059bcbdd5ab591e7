"""Sample entries: what a track is coded in, as ``stsd`` tells a player.

ISO/IEC 14496-12 section 12, 14496-14 (mp4a, esds), 14496-15 (avc1, hvc1); the ISOBMFF bindings
of AV1 (av01), VP9 (vp09) and Opus.
"""

import struct
from collections.abc import Callable
from dataclasses import replace

from common.errors import TrackUnsupported
from common.formats.mp4 import box, full_box
from common.media import vp9
from common.media.audio import opus_head_to_dops
from common.media.codec import Codec, Kind
from common.media.color import UNSPECIFIED, Display
from common.media.describe import Description, describe

_VISUAL = struct.Struct(">6xH16xHHIIIH32xHh")
_AUDIO = struct.Struct(">6xH8xHHHHI")
_DPI_72 = 0x480000
_DEPTH_COLOUR = 0x18

_OBJECT_AAC = 0x40
_OBJECT_MPEG2_AUDIO = 0x69
_OBJECT_MPEG1_AUDIO = 0x6B
_LEAST_MPEG1_RATE = 32_000
_STREAM_AUDIO = 0x15

_ES, _DECODER_CONFIG, _DECODER_SPECIFIC, _SL_CONFIG = 3, 4, 5, 6
_SL_MP4 = b"\x02"

OPUS_RATE = 48_000
MAX_SIDE = 0xFFFF
"""Pixels of width or height that there is room for. A larger picture is written as this one."""


def sample_entry(codec: Codec, init: bytes, rate: int) -> bytes:
    """Write the sample entry of a track from its setup bytes.

    ``rate`` is the sample rate where the setup bytes do not say it, as with MP3.

    Raises:
        FormatError: If the setup bytes are not what the codec says.
        TrackUnsupported: If MP4 cannot carry the codec.
    """
    writer = _WRITERS.get(codec)
    if writer is None:
        raise TrackUnsupported(f"MP4 does not carry {codec} here")
    description = describe(codec, init)
    if not description.sample_rate and codec.kind is Kind.AUDIO:
        description = replace(description, sample_rate=rate)
    return writer(init, description)


def _visual(kind: bytes, description: Description, setup: bytes) -> bytes:
    fields = _VISUAL.pack(
        1,  # data_reference_index
        min(description.width, MAX_SIDE),
        min(description.height, MAX_SIDE),
        _DPI_72,
        _DPI_72,
        0,
        1,  # frames per sample
        _DEPTH_COLOUR,
        -1,
    )
    display = description.display
    return box(kind, fields, setup, _pasp(display), _colr(display))


def _audio(kind: bytes, channels: int, rate: int, *boxes: bytes) -> bytes:
    # The field is 16.16: a rate that does not fit stands in the codec's own setup only.
    rate = rate if rate < 0x10000 else 0
    return box(kind, _AUDIO.pack(1, channels, 16, 0, 0, rate << 16), *boxes)


def _avc1(init: bytes, description: Description) -> bytes:
    return _visual(b"avc1", description, box(b"avcC", init))


def _hvc1(init: bytes, description: Description) -> bytes:
    # hvc1 although parameter sets may stand in the samples too: Apple players refuse hev1.
    return _visual(b"hvc1", description, box(b"hvcC", init))


def _av01(init: bytes, description: Description) -> bytes:
    return _visual(b"av01", description, box(b"av1C", init))


def _vp09(init: bytes, description: Description) -> bytes:
    return _visual(b"vp09", description, box(b"vpcC", vp9.box(init)))


def _pasp(display: Display) -> bytes:
    """Write the shape of a pixel, or nothing where the bitstream does not say."""
    return box(b"pasp", struct.pack(">II", *display.aspect)) if display.aspect else b""


def _colr(display: Display) -> bytes:
    """Write the colour box, or nothing where the bitstream does not say."""
    if display.color == UNSPECIFIED and not display.full_range:
        return b""
    fields = struct.pack(">4sHHHB", b"nclx", *display.color, display.full_range << 7)
    return box(b"colr", fields)


def _aac(init: bytes, description: Description) -> bytes:
    return _mp4a(_OBJECT_AAC, init, description)


def _mp3(init: bytes, description: Description) -> bytes:
    low = 0 < description.sample_rate < _LEAST_MPEG1_RATE
    return _mp4a(_OBJECT_MPEG2_AUDIO if low else _OBJECT_MPEG1_AUDIO, b"", description)


def _mp4a(object_type: int, specific: bytes, description: Description) -> bytes:
    # Bitrates and buffer size stay 0, "unknown": no byte may depend on what has been measured.
    config = struct.pack(">BB11x", object_type, _STREAM_AUDIO)
    if specific:
        config += _descriptor(_DECODER_SPECIFIC, specific)
    stream = struct.pack(">HB", 0, 0) + _descriptor(_DECODER_CONFIG, config)
    esds = full_box(b"esds", 0, 0, _descriptor(_ES, stream + _descriptor(_SL_CONFIG, _SL_MP4)))
    return _audio(b"mp4a", description.channels or 2, description.sample_rate, esds)


def _descriptor(tag: int, body: bytes) -> bytes:
    """Write an MPEG-4 descriptor with its length in four bytes (14496-1 section 8.3.3)."""
    size = len(body)
    length = bytes((0x80 | size >> shift & 0x7F) for shift in (21, 14, 7)) + bytes([size & 0x7F])
    return bytes([tag]) + length + body


def _opus(init: bytes, description: Description) -> bytes:
    return _audio(b"Opus", description.channels, OPUS_RATE, box(b"dOps", opus_head_to_dops(init)))


_WRITERS: dict[Codec, Callable[[bytes, Description], bytes]] = {
    Codec.H264: _avc1,
    Codec.HEVC: _hvc1,
    Codec.AV1: _av01,
    Codec.VP9: _vp09,
    Codec.AAC: _aac,
    Codec.MP3: _mp3,
    Codec.OPUS: _opus,
}

CARRIED = frozenset(_WRITERS)
"""The codecs that an MP4 file can hold here."""
