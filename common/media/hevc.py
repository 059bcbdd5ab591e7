"""HEVC: sequence parameter sets and the hvcC record.

ITU-T H.265 (08/2021) 7.3.2.2, 7.3.3, 7.3.4, 7.3.7 and E.2.1; ISO/IEC 14496-15 8.3.2.1 and annex E.3
(the codec string).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from common.errors import FormatError
from common.media.bits import BitReader
from common.media.color import UNSAID, Display
from common.media.hevc_vui import skip_reference_sets, skip_scaling_list, timing
from common.media.nal import spans, unescape
from common.media.vui import read_display

NAL_IRAP_FIRST = 16
NAL_IRAP_LAST = 21
NAL_VPS = 32
NAL_SPS = 33
NAL_PPS = 34
NAL_AUD = 35
NAL_PREFIX_SEI = 39

MAX_SIDE = 65_536
"""Width or height in pixels; the highest level ends at 16 888. A larger one is a FormatError: the
track is refused."""

MAX_NALS_OF_A_KIND = 64
"""Parameter sets of one kind in a setup record. More are a FormatError."""


@dataclass(frozen=True, slots=True)
class ProfileTierLevel:
    """The general part of profile_tier_level()."""

    space: int
    tier: int
    profile: int
    compatibility: int
    """general_profile_compatibility_flag[0] is the highest of 32 bits."""

    constraints: int
    """48 bits: progressive, interlaced, non-packed, frame-only and what follows."""

    level: int

    @property
    def codec_string(self) -> str:
        """Return the RFC 6381 name (ISO/IEC 14496-15 E.3)."""
        space = ("", "A", "B", "C")[self.space]
        flags = int(f"{self.compatibility:032b}"[::-1], 2)
        tier = "H" if self.tier else "L"
        constraints = self.constraints.to_bytes(6, "big").rstrip(b"\x00")
        tail = "".join(f".{byte:X}" for byte in constraints)
        return f"hvc1.{space}{self.profile}.{flags:X}.{tier}{self.level}{tail}"


@dataclass(frozen=True, slots=True)
class Sps:
    """What a sequence parameter set says about the picture."""

    general: ProfileTierLevel
    width: int
    """Pixels inside the conformance window."""

    height: int
    chroma_format: int
    bit_depth_luma: int
    bit_depth_chroma: int
    temporal_layers: int
    temporal_nesting: bool
    frame_rate: Fraction | None = None
    display: Display = UNSAID


@dataclass(frozen=True, slots=True)
class HevcConfig:
    """An hvcC record."""

    general: ProfileTierLevel
    length_size: int
    """Bytes of the length in front of every NAL unit: 1, 2 or 4."""

    vps: tuple[bytes, ...]
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]


def nal_type(nal: bytes) -> int:
    """Return nal_unit_type; the NAL unit must not be empty."""
    return nal[0] >> 1 & 0x3F


def parse_sps(nal: bytes) -> Sps:
    """Read a sequence parameter set, given with its two NAL unit header bytes.

    Raises:
        FormatError: If it is not one.
    """
    if len(nal) < 3 or nal_type(nal) != NAL_SPS:
        raise FormatError("not an HEVC sequence parameter set")
    bits = BitReader(unescape(nal[2:]))
    bits.skip(4)  # sps_video_parameter_set_id
    sub_layers = bits.u(3)
    nesting = bits.flag()
    general = _profile_tier_level(bits, sub_layers)
    bits.ue_max(15, "sps_seq_parameter_set_id")
    chroma = bits.ue_max(3, "chroma_format_idc")
    separate = chroma == 3 and bits.flag()
    width, height = _dimensions(bits, 0 if separate else chroma)
    luma_depth = 8 + bits.ue_max(8, "bit_depth_luma_minus8")
    chroma_depth = 8 + bits.ue_max(8, "bit_depth_chroma_minus8")
    rate, display = _vui(bits, sub_layers)
    return Sps(
        general,
        width,
        height,
        chroma,
        luma_depth,
        chroma_depth,
        sub_layers + 1,
        nesting,
        rate,
        display,
    )


def _profile_tier_level(bits: BitReader, sub_layers: int) -> ProfileTierLevel:
    general = ProfileTierLevel(bits.u(2), bits.u(1), bits.u(5), bits.u(32), bits.u(48), bits.u(8))
    present = [(bits.flag(), bits.flag()) for _ in range(sub_layers)]
    if sub_layers:
        bits.skip(2 * (8 - sub_layers))
    for profile_present, level_present in present:
        bits.skip(88 * profile_present + 8 * level_present)
    return general


def _dimensions(bits: BitReader, chroma_array: int) -> tuple[int, int]:
    width = bits.ue_max(MAX_SIDE, "pic_width_in_luma_samples")
    height = bits.ue_max(MAX_SIDE, "pic_height_in_luma_samples")
    if bits.flag():
        left, right, top, bottom = bits.ue(), bits.ue(), bits.ue(), bits.ue()
        width -= (left + right) * (2 if chroma_array in (1, 2) else 1)
        height -= (top + bottom) * (2 if chroma_array == 1 else 1)
    if width <= 0 or height <= 0:
        raise FormatError("the conformance window leaves nothing of the picture")
    return width, height


def _vui(bits: BitReader, sub_layers: int) -> tuple[Fraction | None, Display]:
    """Read on to the VUI; a parameter set that is cut short there says no more about it."""
    display = UNSAID
    try:
        order_bits = bits.ue_max(12, "log2_max_pic_order_cnt_lsb_minus4") + 4
        for _ in range(sub_layers + 1 if bits.flag() else 1):
            bits.ue()
            bits.ue()
            bits.ue()
        for _ in range(6):  # block and transform sizes and depths
            bits.ue()
        if bits.flag() and bits.flag():
            skip_scaling_list(bits)
        bits.skip(2)  # amp_enabled_flag, sample_adaptive_offset_enabled_flag
        if bits.flag():
            bits.skip(8)
            bits.ue()
            bits.ue()
            bits.skip(1)
        skip_reference_sets(bits)
        if bits.flag():
            for _ in range(bits.ue_max(32, "num_long_term_ref_pics_sps")):
                bits.skip(order_bits + 1)
        bits.skip(2)  # sps_temporal_mvp_enabled_flag, strong_intra_smoothing_enabled_flag
        if not bits.flag():
            return None, display
        display = read_display(bits)
        return timing(bits), display
    except FormatError:
        return None, display


def parse_hvcc(data: bytes) -> HevcConfig:
    """Read an hvcC record (HEVCDecoderConfigurationRecord).

    Raises:
        FormatError: If it is not one.
    """
    if len(data) < 23 or data[0] != 1:
        raise FormatError("not an hvcC record")
    length_size = (data[21] & 3) + 1
    if length_size == 3:
        raise FormatError("hvcC: NAL unit lengths of three bytes")
    bits = BitReader(data[1:13])
    general = ProfileTierLevel(bits.u(2), bits.u(1), bits.u(5), bits.u(32), bits.u(48), bits.u(8))
    units: dict[int, list[bytes]] = {NAL_VPS: [], NAL_SPS: [], NAL_PPS: []}
    position = 23
    for _ in range(data[22]):
        kind = int.from_bytes(data[position : position + 1], "big") & 0x3F
        count = int.from_bytes(data[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            start = position + 2
            position = start + int.from_bytes(data[position:start], "big")
            if start > len(data) or position > len(data):
                raise FormatError("hvcC ends too early")
            units.setdefault(kind, []).append(data[start:position])
    return HevcConfig(
        general, length_size, tuple(units[NAL_VPS]), tuple(units[NAL_SPS]), tuple(units[NAL_PPS])
    )


def build_hvcc(vps: Sequence[bytes], sps: Sequence[bytes], pps: Sequence[bytes]) -> bytes:
    """Write the hvcC record for these parameter sets; NAL unit lengths have four bytes.

    Raises:
        FormatError: If there is no sequence parameter set, or one cannot be read.
    """
    if not sps:
        raise FormatError("hvcC needs a sequence parameter set")
    first = parse_sps(sps[0])
    general = first.general
    record = bytearray([1, general.space << 6 | general.tier << 5 | general.profile])
    record += general.compatibility.to_bytes(4, "big") + general.constraints.to_bytes(6, "big")
    record.append(general.level)
    record += b"\xf0\x00\xfc"  # no spatial segmentation, unknown parallelism
    record += bytes([0xFC | first.chroma_format, 0xF8 | first.bit_depth_luma - 8])
    record += bytes([0xF8 | first.bit_depth_chroma - 8, 0, 0])
    record.append(first.temporal_layers << 3 | first.temporal_nesting << 2 | 3)
    arrays = [(NAL_VPS, vps), (NAL_SPS, sps), (NAL_PPS, pps)]
    arrays = [(kind, nals) for kind, nals in arrays if nals]
    record.append(len(arrays))
    for kind, nals in arrays:
        if len(nals) > MAX_NALS_OF_A_KIND:
            raise FormatError("too many parameter sets")
        record.append(0x80 | kind)  # array_completeness: none of them is in the samples only
        record += len(nals).to_bytes(2, "big")
        for nal in nals:
            if len(nal) > 0xFFFF:
                raise FormatError("a parameter set is longer than 65 535 bytes")
            record += len(nal).to_bytes(2, "big") + nal
    return bytes(record)


def hvcc_from_nals(nals: Sequence[bytes]) -> bytes | None:
    """Write the hvcC record for the parameter sets among ``nals``; None if one kind is missing.

    Raises:
        FormatError: If a parameter set cannot be read.
    """
    found = [_distinct(nals, kind) for kind in (NAL_VPS, NAL_SPS, NAL_PPS)]
    return build_hvcc(*found) if all(found) else None


def _distinct(nals: Sequence[bytes], kind: int) -> list[bytes]:
    return list(dict.fromkeys(nal for nal in nals if len(nal) > 2 and nal_type(nal) == kind))


def is_irap(data: bytes, length_size: int = 4) -> bool:
    """Return whether a length-prefixed sample holds a slice of a random access picture.

    Raises:
        FormatError: If a NAL unit reaches beyond the sample.
    """
    return any(
        NAL_IRAP_FIRST <= data[start] >> 1 & 0x3F <= NAL_IRAP_LAST
        for start, _ in spans(data, length_size)
    )
