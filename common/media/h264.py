"""H.264: sequence parameter sets and the avcC record.

ITU-T H.264 (08/2021) 7.3.2.1.1 and E.1.1; ISO/IEC 14496-15 5.3.3.1; RFC 6381 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from common.errors import FormatError
from common.media.bits import BitReader
from common.media.color import UNSAID, Display, frame_rate
from common.media.nal import spans, unescape
from common.media.vui import read_display, skip_chroma_location

NAL_IDR = 5
NAL_SEI = 6
NAL_SPS = 7
NAL_PPS = 8
NAL_AUD = 9

MAX_SIDE = 65_536
"""Width or height in pixels; the highest level ends at 16 384. A larger one is a FormatError: the
track is refused."""

MAX_REF_FRAMES_IN_CYCLE = 255
"""Reference frames of a picture order count cycle (7.4.2.1.1). More are a FormatError."""

_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244})
_AVCC_EXTENSION_PROFILES = frozenset({100, 110, 122, 144})
_SEI_RECOVERY_POINT = 6


@dataclass(frozen=True, slots=True)
class Sps:
    """What a sequence parameter set says about the picture."""

    profile: int
    constraints: int
    """constraint_set0_flag is the highest bit, as in the avcC record."""

    level: int
    width: int
    """Pixels after cropping."""

    height: int
    chroma_format: int = 1
    bit_depth_luma: int = 8
    bit_depth_chroma: int = 8
    frame_rate: Fraction | None = None
    display: Display = UNSAID

    @property
    def codec_string(self) -> str:
        """Return the RFC 6381 name."""
        return f"avc1.{self.profile:02X}{self.constraints:02X}{self.level:02X}"


@dataclass(frozen=True, slots=True)
class AvcConfig:
    """An avcC record."""

    profile: int
    constraints: int
    level: int
    length_size: int
    """Bytes of the length in front of every NAL unit: 1, 2 or 4."""

    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]


def parse_sps(nal: bytes) -> Sps:
    """Read a sequence parameter set, given with its NAL unit header byte.

    Raises:
        FormatError: If it is not one.
    """
    if len(nal) < 4 or nal[0] & 0x1F != NAL_SPS:
        raise FormatError("not an H.264 sequence parameter set")
    bits = BitReader(unescape(nal[1:]))
    profile, constraints, level = bits.u(8), bits.u(8), bits.u(8)
    bits.ue_max(31, "seq_parameter_set_id")
    chroma, luma_depth, chroma_depth, separate = 1, 8, 8, False
    if profile in _HIGH_PROFILES:
        chroma = bits.ue_max(3, "chroma_format_idc")
        separate = chroma == 3 and bits.flag()
        luma_depth = 8 + bits.ue_max(6, "bit_depth_luma_minus8")
        chroma_depth = 8 + bits.ue_max(6, "bit_depth_chroma_minus8")
        bits.skip(1)  # qpprime_y_zero_transform_bypass_flag
        _skip_scaling_matrix(bits, chroma)
    _skip_picture_order(bits)
    width, height = _dimensions(bits, 0 if separate else chroma)
    rate, display = _vui(bits) if bits.flag() else (None, UNSAID)
    return Sps(
        profile, constraints, level, width, height, chroma, luma_depth, chroma_depth, rate, display
    )


def _skip_scaling_matrix(bits: BitReader, chroma: int) -> None:
    if not bits.flag():
        return
    for index in range(12 if chroma == 3 else 8):
        if not bits.flag():
            continue
        last = following = 8
        for _ in range(16 if index < 6 else 64):
            if following:
                following = (last + bits.se()) % 256
            last = following or last


def _skip_picture_order(bits: BitReader) -> None:
    bits.ue_max(12, "log2_max_frame_num_minus4")
    order = bits.ue_max(2, "pic_order_cnt_type")
    if order == 0:
        bits.ue_max(12, "log2_max_pic_order_cnt_lsb_minus4")
    elif order == 1:
        bits.skip(1)
        bits.se()
        bits.se()
        for _ in range(bits.ue_max(MAX_REF_FRAMES_IN_CYCLE, "num_ref_frames_in_cycle")):
            bits.se()
    bits.ue()  # max_num_ref_frames
    bits.skip(1)  # gaps_in_frame_num_value_allowed_flag


def _dimensions(bits: BitReader, chroma_array: int) -> tuple[int, int]:
    width = (bits.ue_max(MAX_SIDE // 16 - 1, "pic_width_in_mbs_minus1") + 1) * 16
    map_units = bits.ue_max(MAX_SIDE // 16 - 1, "pic_height_in_map_units_minus1") + 1
    frames_only = bits.u(1)
    if not frames_only:
        bits.skip(1)  # mb_adaptive_frame_field_flag
    height = map_units * 16 * (2 - frames_only)
    bits.skip(1)  # direct_8x8_inference_flag
    if bits.flag():
        left, right, top, bottom = bits.ue(), bits.ue(), bits.ue(), bits.ue()
        unit_x = 2 if chroma_array in (1, 2) else 1
        unit_y = (2 if chroma_array == 1 else 1) * (2 - frames_only)
        width -= (left + right) * unit_x
        height -= (top + bottom) * unit_y
    if width <= 0 or height <= 0:
        raise FormatError("the cropping leaves nothing of the picture")
    return width, height


def _vui(bits: BitReader) -> tuple[Fraction | None, Display]:
    """Read what is said about display and frame rate; a VUI that is cut short says no more."""
    display = UNSAID
    try:
        display = read_display(bits)
        skip_chroma_location(bits)
        if bits.flag():
            units, scale = bits.u(32), bits.u(32)
            return frame_rate(scale, 2 * units), display
    except FormatError:
        return None, display
    return None, display


def parse_avcc(data: bytes) -> AvcConfig:
    """Read an avcC record (AVCDecoderConfigurationRecord).

    Raises:
        FormatError: If it is not one.
    """
    if len(data) < 7 or data[0] != 1:
        raise FormatError("not an avcC record")
    length_size = (data[4] & 3) + 1
    if length_size == 3:
        raise FormatError("avcC: NAL unit lengths of three bytes")
    sps, position = _units(data, 6, data[5] & 0x1F)
    if position >= len(data):
        raise FormatError("avcC ends too early")
    pps, _ = _units(data, position + 1, data[position])
    return AvcConfig(data[1], data[2], data[3], length_size, sps, pps)


def _units(data: bytes, position: int, count: int) -> tuple[tuple[bytes, ...], int]:
    units = []
    for _ in range(count):
        start = position + 2
        position = start + int.from_bytes(data[position:start], "big")
        if start > len(data) or position > len(data):
            raise FormatError("avcC ends too early")
        units.append(data[start:position])
    return tuple(units), position


def build_avcc(sps: Sequence[bytes], pps: Sequence[bytes]) -> bytes:
    """Write the avcC record for these parameter sets; NAL unit lengths have four bytes.

    Raises:
        FormatError: If there is no sequence parameter set, or one cannot be read.
    """
    if not 1 <= len(sps) <= 31 or len(pps) > 255:
        raise FormatError("avcC holds 1 to 31 sequence and at most 255 picture parameter sets")
    first = parse_sps(sps[0])
    record = bytearray([1, first.profile, first.constraints, first.level, 0xFF, 0xE0 | len(sps)])
    for nal in sps:
        record += _sized(nal)
    record.append(len(pps))
    for nal in pps:
        record += _sized(nal)
    if first.profile in _AVCC_EXTENSION_PROFILES:
        depths = (first.bit_depth_luma - 8, first.bit_depth_chroma - 8)
        record += bytes([0xFC | first.chroma_format, 0xF8 | depths[0], 0xF8 | depths[1], 0])
    return bytes(record)


def _sized(nal: bytes) -> bytes:
    if len(nal) > 0xFFFF:
        raise FormatError("a parameter set is longer than 65 535 bytes")
    return len(nal).to_bytes(2, "big") + nal


def avcc_from_nals(nals: Sequence[bytes]) -> bytes | None:
    """Write the avcC record for the parameter sets among ``nals``; None if one kind is missing.

    Raises:
        FormatError: If a parameter set cannot be read.
    """
    sps = _distinct(nals, NAL_SPS)
    pps = _distinct(nals, NAL_PPS)
    return build_avcc(sps, pps) if sps and pps else None


def _distinct(nals: Sequence[bytes], kind: int) -> list[bytes]:
    return list(dict.fromkeys(nal for nal in nals if nal and nal[0] & 0x1F == kind))


def is_idr(data: bytes, length_size: int = 4) -> bool:
    """Return whether a length-prefixed sample holds an IDR slice.

    Raises:
        FormatError: If a NAL unit reaches beyond the sample.
    """
    return any(data[start] & 0x1F == NAL_IDR for start, _ in spans(data, length_size))


def has_recovery_point(data: bytes, length_size: int = 4) -> bool:
    """Return whether a length-prefixed sample holds a recovery point SEI message (D.1.8).

    Decoding may start there although the picture is no IDR picture (open GOP, intra refresh).

    Raises:
        FormatError: If a NAL unit reaches beyond the sample.
    """
    for start, stop in spans(data, length_size):
        if data[start] & 0x1F == NAL_SEI and _SEI_RECOVERY_POINT in _sei_types(data[start:stop]):
            return True
    return False


def _sei_types(nal: bytes) -> list[int]:
    """Return the payload types of an SEI NAL unit (7.3.2.3.1)."""
    body = unescape(nal[1:]).rstrip(b"\x80") if nal else b""
    types = []
    position = 0
    while position < len(body) - 1:
        kind, position = _ff_coded(body, position)
        size, position = _ff_coded(body, position)
        types.append(kind)
        position += size
    return types


def _ff_coded(body: bytes, position: int) -> tuple[int, int]:
    value = 0
    while position < len(body) and body[position] == 0xFF:
        value += 255
        position += 1
    return value + (body[position] if position < len(body) else 0), position + 1
