"""Setup records and headers of AAC, MP3 and Opus.

ISO/IEC 14496-3 1.6.2.1 (AudioSpecificConfig) and 1.A.2 (ADTS); ISO/IEC 11172-3 2.4.1.3 and
13818-3 (MPEG audio); RFC 6716 3.1 and RFC 7845 5.1 (Opus); Encapsulation of Opus in ISOBMFF 4.3.2.
"""

import struct
from dataclasses import dataclass

from common.errors import FormatError
from common.media.bits import BitReader

SAMPLE_RATES = (
    96_000,
    88_200,
    64_000,
    48_000,
    44_100,
    32_000,
    24_000,
    22_050,
    16_000,
    12_000,
    11_025,
    8_000,
    7_350,
)
"""samplingFrequencyIndex, ISO/IEC 14496-3 table 1.18."""

CHANNELS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 8, 11: 7, 12: 8, 14: 8}
"""channelConfiguration to channels, table 1.19."""

AOT_AAC_LC = 2
AOT_SBR = 5
AOT_PS = 29
AOT_USAC = 42
_GENERAL_AUDIO = frozenset({1, 2, 3, 4, 6, 7, 17, 19, 20, 21, 22, 23})
_ESCAPE = 31
_SYNC_EXTENSION = 0x2B7
_SYNC_PS = 0x548
_USAC_SAMPLES = {0: 768, 1: 1024, 2: 2048, 3: 2048, 4: 4096}
MAX_SAMPLE_RATE = 192_000
"""Hertz of the highest rate that a setup record may state. A higher one is a FormatError: the track
is refused."""

OPUS_RATE = 48_000
"""Opus timestamps count at 48 kHz whatever the input was."""

OPUS_FRAME_SAMPLES = 960
"""20 ms, what every encoder sends unless told otherwise."""

OPUS_MAX_SAMPLES = 5760
"""120 ms, RFC 6716 3.2.5."""

MP3_FRAME_SAMPLES = 1152
_OPUS_MAGIC = b"OpusHead"
_OPUS_HEAD = struct.Struct("<8sBBHIhB")
_DOPS = struct.Struct(">BBHIhB")


@dataclass(frozen=True, slots=True)
class AacConfig:
    """What an AudioSpecificConfig says."""

    object_type: int
    """AAC-LC is 2; 5 (SBR) and 29 (PS) when the record states them."""

    sample_rate: int
    """Hertz after SBR."""

    channels: int
    """After parametric stereo."""

    frame_samples: int = 1024
    """Samples of a frame at ``sample_rate``."""

    @property
    def codec_string(self) -> str:
        """Return the RFC 6381 name."""
        return f"mp4a.40.{self.object_type}"


@dataclass(frozen=True, slots=True)
class AdtsHeader:
    """The header of one ADTS frame."""

    object_type: int
    sample_rate: int
    channels: int
    channel_configuration: int
    header_size: int
    frame_size: int
    """Bytes with the header."""


@dataclass(frozen=True, slots=True)
class OpusHead:
    """The identification header of an Opus stream."""

    channels: int
    pre_skip: int
    input_rate: int
    gain: int
    """Q7.8 decibels."""

    family: int
    mapping: bytes
    """Stream count, coupled count and channel mapping; empty for family 0."""


@dataclass(frozen=True, slots=True)
class Mp3Header:
    """The header of one MPEG audio frame."""

    layer: int
    sample_rate: int
    channels: int
    bit_rate: int
    frame_size: int
    """Bytes with the header; 0 for the free format."""

    samples: int


def _object_type(bits: BitReader) -> int:
    kind = bits.u(5)
    return 32 + bits.u(6) if kind == _ESCAPE else kind


def _sample_rate(bits: BitReader) -> int:
    index = bits.u(4)
    if index == 15:
        rate = bits.u(24)
    elif index < len(SAMPLE_RATES):
        rate = SAMPLE_RATES[index]
    else:
        raise FormatError(f"samplingFrequencyIndex {index} does not exist")
    if not 0 < rate <= MAX_SAMPLE_RATE:
        raise FormatError(f"{rate} samples a second")
    return rate


def parse_asc(data: bytes) -> AacConfig:
    """Read an AudioSpecificConfig, with SBR and PS where it states them.

    Raises:
        FormatError: If it is not one, or of an object type without frames of fixed length.
    """
    bits = BitReader(data)
    signalled = kind = _object_type(bits)
    rate = core_rate = _sample_rate(bits)
    configuration = bits.u(4)
    if kind in (AOT_SBR, AOT_PS):
        rate = _sample_rate(bits)
        kind = _object_type(bits)
    if kind == AOT_USAC:
        return _usac(bits, rate, configuration)
    if kind not in _GENERAL_AUDIO:
        raise FormatError(f"audio object type {kind} is not AAC")
    samples = 960 if bits.flag() else 1024
    channels = _general_audio(bits, kind, configuration)
    if signalled == kind:
        signalled, rate = _extension(bits, kind, rate)
    if signalled == AOT_PS and channels == 1:
        channels = 2
    return AacConfig(signalled, rate, channels, samples * rate // core_rate)


def _general_audio(bits: BitReader, kind: int, configuration: int) -> int:
    """Read GASpecificConfig() behind frameLengthFlag; return the number of channels."""
    if bits.flag():
        bits.skip(14)  # coreCoderDelay
    extension = bits.flag()
    if configuration == 0:
        channels = _program_config(bits)
    elif configuration in CHANNELS:
        channels = CHANNELS[configuration]
    else:
        raise FormatError(f"channelConfiguration {configuration} does not exist")
    if kind in (6, 20):
        bits.skip(3)
    if extension:
        if kind == 22:
            bits.skip(16)
        if kind in (17, 19, 20, 23):
            bits.skip(3)
        bits.skip(1)
    return channels


def _program_config(bits: BitReader) -> int:
    """Count the channels of a program_config_element() (4.4.1.1)."""
    bits.skip(10)
    front, side, back, lfe = bits.u(4), bits.u(4), bits.u(4), bits.u(2)
    data, coupling = bits.u(3), bits.u(4)
    if bits.flag():
        bits.skip(4)
    if bits.flag():
        bits.skip(4)
    if bits.flag():
        bits.skip(3)
    channels = lfe
    for _ in range(front + side + back):
        channels += 1 + bits.u(1)
        bits.skip(4)
    bits.skip(4 * (lfe + data) + 5 * coupling)
    # byte_alignment() counts from the start of the record, which is a whole number of bytes.
    bits.skip(bits.left % 8)
    bits.skip(8 * bits.u(8))
    if channels == 0:
        raise FormatError("an AAC stream without channels")
    return channels


def _extension(bits: BitReader, kind: int, rate: int) -> tuple[int, int]:
    """Read the backward compatible signalling of SBR and PS at the end of the record."""
    if bits.left < 16 or bits.u(11) != _SYNC_EXTENSION:
        return kind, rate
    if _object_type(bits) != AOT_SBR or not bits.flag():
        return kind, rate
    rate = _sample_rate(bits)
    if bits.left >= 12 and bits.u(11) == _SYNC_PS and bits.flag():
        return AOT_PS, rate
    return AOT_SBR, rate


def _usac(bits: BitReader, rate: int, configuration: int) -> AacConfig:
    """Read the start of UsacConfig() (ISO/IEC 23003-3 5.2)."""
    if bits.u(5) == 31:
        bits.skip(24)
    samples = _USAC_SAMPLES.get(bits.u(3))
    channels = CHANNELS.get(configuration)
    if samples is None or channels is None:
        raise FormatError("a USAC configuration that does not exist")
    return AacConfig(AOT_USAC, rate, channels, samples)


def build_asc(object_type: int, sample_rate: int, channel_configuration: int) -> bytes:
    """Write an AudioSpecificConfig of two or five bytes.

    Raises:
        FormatError: If a value cannot be written.
    """
    if not 0 < object_type < _ESCAPE or not 0 <= channel_configuration < 16:
        raise FormatError("an AAC configuration that does not exist")
    if sample_rate in SAMPLE_RATES:
        index = SAMPLE_RATES.index(sample_rate)
        value = object_type << 11 | index << 7 | channel_configuration << 3
        return value.to_bytes(2, "big")
    if not 0 < sample_rate <= MAX_SAMPLE_RATE:
        raise FormatError(f"{sample_rate} samples a second")
    value = object_type << 35 | 15 << 31 | sample_rate << 7 | channel_configuration << 3
    return value.to_bytes(5, "big")


def parse_adts(data: bytes, position: int = 0) -> AdtsHeader:
    """Read the ADTS header at ``position``.

    Raises:
        FormatError: If there is none.
    """
    head = data[position : position + 7]
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        raise FormatError("no ADTS header where a frame should begin")
    index = head[2] >> 2 & 15
    if index >= len(SAMPLE_RATES):
        raise FormatError(f"samplingFrequencyIndex {index} does not exist")
    configuration = (head[2] & 1) << 2 | head[3] >> 6
    header_size = 7 if head[1] & 1 else 9
    frame_size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if frame_size < header_size or head[6] & 3:
        raise FormatError("an ADTS frame of an impossible size")
    return AdtsHeader(
        object_type=(head[2] >> 6) + 1,
        sample_rate=SAMPLE_RATES[index],
        channels=CHANNELS.get(configuration, 0),
        channel_configuration=configuration,
        header_size=header_size,
        frame_size=frame_size,
    )


def split_adts(data: bytes) -> list[tuple[AdtsHeader, bytes]]:
    """Return header and raw AAC of every ADTS frame.

    Raises:
        FormatError: If something else stands between them, or the last one is cut off.
    """
    frames = []
    position = 0
    while position < len(data):
        header = parse_adts(data, position)
        start, position = position + header.header_size, position + header.frame_size
        if position > len(data):
            raise FormatError("an ADTS frame is cut off")
        frames.append((header, data[start:position]))
    return frames


def parse_opus_head(data: bytes) -> OpusHead:
    """Read an OpusHead (RFC 7845 5.1), magic included.

    Raises:
        FormatError: If it is not one.
    """
    if len(data) < _OPUS_HEAD.size:
        raise FormatError("OpusHead is too short")
    magic, version, channels, skip, rate, gain, family = _OPUS_HEAD.unpack_from(data)
    if magic != _OPUS_MAGIC or version >> 4 or channels == 0:
        raise FormatError("not an OpusHead")
    mapping = _opus_mapping(family, channels, data[_OPUS_HEAD.size :])
    return OpusHead(channels, skip, rate, gain, family, mapping)


def _opus_mapping(family: int, channels: int, rest: bytes) -> bytes:
    if family == 0:
        if channels > 2:
            raise FormatError("Opus mapping family 0 has one or two channels")
        return b""
    mapping = rest[: 2 + channels]
    if len(mapping) < 2 + channels:
        raise FormatError("the Opus channel mapping is cut off")
    return mapping


def build_opus_head(head: OpusHead) -> bytes:
    """Write an OpusHead (RFC 7845 5.1), magic included."""
    return (
        _OPUS_HEAD.pack(
            _OPUS_MAGIC, 1, head.channels, head.pre_skip, head.input_rate, head.gain, head.family
        )
        + head.mapping
    )


def opus_head_to_dops(data: bytes) -> bytes:
    """Turn an OpusHead into the contents of a dOps box.

    Raises:
        FormatError: If it is not an OpusHead.
    """
    head = parse_opus_head(data)
    fields = (0, head.channels, head.pre_skip, head.input_rate, head.gain, head.family)
    return _DOPS.pack(*fields) + head.mapping


def dops_to_opus_head(data: bytes) -> bytes:
    """Turn the contents of a dOps box into an OpusHead.

    Raises:
        FormatError: If they are not a dOps box's.
    """
    if len(data) < _DOPS.size:
        raise FormatError("dOps is too short")
    version, channels, skip, rate, gain, family = _DOPS.unpack_from(data)
    if version or channels == 0:
        raise FormatError("not a dOps box")
    mapping = _opus_mapping(family, channels, data[_DOPS.size :])
    return build_opus_head(OpusHead(channels, skip, rate, gain, family, mapping))


def opus_duration(packet: bytes) -> int:
    """Return the samples at 48 kHz of an Opus packet (RFC 6716 3.1 and 3.2).

    Raises:
        FormatError: If it is empty, cut off or longer than 120 ms.
    """
    if not packet:
        raise FormatError("an empty Opus packet")
    toc = packet[0]
    config, code = toc >> 3, toc & 3
    if config < 12:
        samples = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        samples = (480, 960)[config & 1]
    else:
        samples = (120, 240, 480, 960)[config & 3]
    if code == 3:
        if len(packet) < 2:
            raise FormatError("an Opus packet is cut off")
        frames = packet[1] & 0x3F
    else:
        frames = (1, 2, 2)[code]
    if not 0 < frames * samples <= OPUS_MAX_SAMPLES:
        raise FormatError("an Opus packet longer than 120 ms")
    return frames * samples


_MP3_RATES = (44_100, 48_000, 32_000)
_MP3_BIT_RATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def parse_mp3_header(data: bytes) -> Mp3Header:
    """Read the four header bytes of an MPEG audio frame of any layer.

    Raises:
        FormatError: If it is not one.
    """
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        raise FormatError("no MPEG audio header where a frame should begin")
    version, layer = data[1] >> 3 & 3, 4 - (data[1] >> 1 & 3)
    rate_index, bit_rate_index = data[2] >> 2 & 3, data[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bit_rate_index == 15:
        raise FormatError("an MPEG audio header with reserved values")
    halvings = {3: 0, 2: 1, 0: 2}[version]
    rate = _MP3_RATES[rate_index] >> halvings
    bit_rate = _MP3_BIT_RATES[(1 if version == 3 else 2, layer)][bit_rate_index] * 1000
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else MP3_FRAME_SAMPLES
    slot = 4 if layer == 1 else 1
    padding = data[2] >> 1 & 1
    size = (samples * bit_rate // (8 * slot * rate) + padding) * slot if bit_rate else 0
    channels = 1 if data[3] >> 6 == 3 else 2
    return Mp3Header(layer, rate, channels, bit_rate, size, samples)
