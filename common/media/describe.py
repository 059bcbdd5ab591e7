"""What the setup bytes of a track say: codec string, size, rate; and which frames are keyframes."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from common.errors import FormatError
from common.media import audio, av1, h264, hevc, vp9
from common.media.codec import Codec
from common.media.color import UNSAID, Display


@dataclass(frozen=True, slots=True)
class Description:
    """A track as a playlist or an init segment describes it."""

    codec_string: str
    """RFC 6381, computed from the bitstream; empty for metadata and subtitles."""

    width: int = 0
    """Pixels after cropping; 0 where only the frames say it."""

    height: int = 0
    sample_rate: int = 0
    """Samples a second that come out of the decoder; 0 where only the frames say it."""

    channels: int = 0
    frame_rate: Fraction | None = None
    """Frames a second, where the encoder states it."""

    display: Display = UNSAID
    """Shape of the samples and their colours."""

    frame_samples: int = 0
    """Samples of an audio frame; 960 for Opus, whose packets may differ."""

    @property
    def shown_width(self) -> int:
        """Width in square pixels, with the height as it is."""
        across, down = self.display.aspect or (1, 1)
        return (2 * self.width * across + down) // (2 * down)


@lru_cache(maxsize=1024)
def describe(codec: Codec, init: bytes) -> Description:
    """Read the setup bytes of a track (``Track.inits``).

    Raises:
        FormatError: If they are not what this codec needs.
    """
    return _DESCRIBERS[codec](init)


def is_keyframe(codec: Codec, data: bytes, init: bytes) -> bool:
    """Return whether decoding can start at this frame, from its bits alone.

    H.264: an IDR picture; HEVC: any random access picture; AV1: a shown key frame, with a sequence
    header here or in ``init``; VP9: a key frame. Always true for audio, metadata and text.

    Raises:
        FormatError: If the frame or ``init`` is not of this codec.
    """
    if codec is Codec.H264:
        return h264.is_idr(data, _length_size(codec, init))
    if codec is Codec.HEVC:
        return hevc.is_irap(data, _length_size(codec, init))
    if codec is Codec.AV1:
        return _av1_key(data, init)
    if codec is Codec.VP9:
        return vp9.parse_frame_header(data) is not None
    return True


@lru_cache(maxsize=1024)
def _length_size(codec: Codec, init: bytes) -> int:
    parse = h264.parse_avcc if codec is Codec.H264 else hevc.parse_hvcc
    return parse(init).length_size


@lru_cache(maxsize=1024)
def _av1_setup(init: bytes) -> tuple[bool, bool]:
    """Return whether av1C holds a sequence header, and whether that is of still pictures."""
    sequence = av1.parse_av1c(init).sequence
    return sequence is not None, sequence is not None and sequence.reduced


def _av1_key(data: bytes, init: bytes) -> bool:
    known, reduced = _av1_setup(init)
    return av1.is_key_unit(data, reduced) and (known or av1.sequence_header(data) is not None)


def _h264(init: bytes) -> Description:
    config = h264.parse_avcc(init)
    if not config.sps:
        name = f"avc1.{config.profile:02X}{config.constraints:02X}{config.level:02X}"
        return Description(name)
    sps = h264.parse_sps(config.sps[0])
    return Description(
        sps.codec_string,
        sps.width,
        sps.height,
        frame_rate=sps.frame_rate,
        display=sps.display,
    )


def _hevc(init: bytes) -> Description:
    config = hevc.parse_hvcc(init)
    if not config.sps:
        return Description(config.general.codec_string)
    # Some muxers write a wrong profile_tier_level into the record: the parameter set is right.
    sps = hevc.parse_sps(config.sps[0])
    return Description(
        sps.general.codec_string,
        sps.width,
        sps.height,
        frame_rate=sps.frame_rate,
        display=sps.display,
    )


def _av1(init: bytes) -> Description:
    config = av1.parse_av1c(init)
    sequence = config.sequence
    if sequence is None:
        depth = (12 if init[2] & 0x20 else 10) if init[2] & 0x40 else 8
        tier = "H" if config.tier else "M"
        return Description(f"av01.{config.profile}.{config.level:02d}{tier}.{depth:02d}")
    return Description(
        sequence.codec_string,
        sequence.width,
        sequence.height,
        frame_rate=sequence.frame_rate,
        display=sequence.display,
    )


def _vp9(init: bytes) -> Description:
    config = vp9.parse_vpcc(init)
    return Description(config.codec_string, config.width, config.height, display=config.display)


def _aac(init: bytes) -> Description:
    config = audio.parse_asc(init)
    return Description(
        config.codec_string,
        sample_rate=config.sample_rate,
        channels=config.channels,
        frame_samples=config.frame_samples,
    )


def _mp3(init: bytes) -> Description:
    if not init:
        return Description("mp4a.6B", channels=2, frame_samples=audio.MP3_FRAME_SAMPLES)
    header = audio.parse_mp3_header(init)
    return Description(
        "mp4a.6B",
        sample_rate=header.sample_rate,
        channels=header.channels,
        frame_samples=header.samples,
    )


def _opus(init: bytes) -> Description:
    head = audio.parse_opus_head(init)
    return Description(
        "opus",
        sample_rate=audio.OPUS_RATE,
        channels=head.channels,
        frame_samples=audio.OPUS_FRAME_SAMPLES,
    )


def _text(init: bytes) -> Description:
    if init:
        raise FormatError("metadata and subtitles have no setup bytes")
    return Description("")


_DESCRIBERS: dict[Codec, Callable[[bytes], Description]] = {
    Codec.H264: _h264,
    Codec.HEVC: _hevc,
    Codec.AV1: _av1,
    Codec.VP9: _vp9,
    Codec.AAC: _aac,
    Codec.MP3: _mp3,
    Codec.OPUS: _opus,
    Codec.JSON: _text,
    Codec.TEXT: _text,
}
