"""VP9: the uncompressed frame header and the vpcC record.

A vpcC box does not say how large the picture is, and an init segment must. So the setup bytes of a
track are the contents of the box (:func:`box` gives just these) and behind them, once a key frame
has been seen, width and height in two bytes each.

VP9 Bitstream & Decoding Process Specification 6.2 and annex A (levels); VP Codec ISO Media File
Format Binding (vpcC, the codec string).
"""

from dataclasses import dataclass, replace
from fractions import Fraction

from common.errors import FormatError
from common.media.bits import BitReader
from common.media.color import Display

BOX_SIZE = 12
"""Bytes of a vpcC box's contents: version, flags, record, no initialization data."""

SYNC_CODE = 0x498342
_CS_RGB = 7
_UNSPECIFIED = 2
_DEFAULT_COLORS = ((1, 1, 1), (_UNSPECIFIED,) * 3)
_CHROMA_420_COLOCATED = 1
_CHROMA_422 = 2
_CHROMA_444 = 3
_CHROMA_440 = 4
_CHROMA = {(1, 1): _CHROMA_420_COLOCATED, (1, 0): _CHROMA_422, (0, 0): _CHROMA_444}

# Color space of the frame header (7.2.2) to ITU-T H.273 primaries, transfer and matrix.
_COLOR_SPACES = {
    1: (5, 6, 5),
    2: (1, 1, 1),
    3: (6, 6, 6),
    4: (7, 7, 7),
    5: (9, 14, 9),
    7: (1, 13, 0),
}

# Annex A: level, luma samples a second, luma samples a picture.
_LEVELS = (
    (10, 829_440, 36_864),
    (11, 2_764_800, 73_728),
    (20, 4_608_000, 122_880),
    (21, 9_216_000, 245_760),
    (30, 20_736_000, 552_960),
    (31, 36_864_000, 983_040),
    (40, 83_558_400, 2_228_224),
    (41, 160_432_128, 2_228_224),
    (50, 311_951_360, 8_912_896),
    (51, 588_251_136, 8_912_896),
    (52, 1_176_502_272, 8_912_896),
    (60, 1_176_502_272, 35_651_584),
    (61, 2_353_004_544, 35_651_584),
    (62, 4_706_009_088, 35_651_584),
)


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The uncompressed header of a key frame."""

    profile: int
    bit_depth: int
    chroma: int
    """chroma_subsampling as vpcC counts it."""

    color: tuple[int, int, int]
    full_range: bool
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Vp9Config:
    """A vpcC record."""

    profile: int
    level: int
    """Times ten: 31 is level 3.1."""

    bit_depth: int
    chroma: int
    full_range: bool
    color: tuple[int, int, int]
    width: int = 0
    """Pixels; 0 where only the frames say it."""

    height: int = 0

    @property
    def codec_string(self) -> str:
        """Return the RFC 6381 name; the optional tail only where it is not the default."""
        head = f"vp09.{self.profile:02d}.{self.level:02d}.{self.bit_depth:02d}"
        if self.chroma <= 1 and self.color in _DEFAULT_COLORS and not self.full_range:
            return head
        primaries, transfer, matrix = self.color
        colors = f"{primaries:02d}.{transfer:02d}.{matrix:02d}.{self.full_range:02d}"
        return f"{head}.{self.chroma:02d}.{colors}"

    @property
    def display(self) -> Display:
        """Return what is said about how to show it."""
        return Display(None, self.color, self.full_range)


def parse_vpcc(data: bytes) -> Vp9Config:
    """Read a vpcC box's contents, with or without the version and flags in front.

    Enhanced RTMP sends the bare record, MP4 files the full box; a bare one cannot begin with
    the full box's ``01 00 00 00`` because that would be level 0 with samples of no bits.

    Raises:
        FormatError: If it is not one.
    """
    full = data[:4] == b"\x01\x00\x00\x00"
    record = data[4:] if full else data
    if len(record) < 6 or record[0] > 3:
        raise FormatError("not a vpcC record")
    depth = record[2] >> 4
    if depth not in (8, 10, 12):
        raise FormatError(f"vpcC: samples of {depth} bits")
    return Vp9Config(
        profile=record[0],
        level=record[1],
        bit_depth=depth,
        chroma=record[2] >> 1 & 7,
        full_range=record[2] & 1 == 1,
        color=(record[3], record[4], record[5]),
        width=int.from_bytes(data[BOX_SIZE : BOX_SIZE + 2], "big") if full else 0,
        height=int.from_bytes(data[BOX_SIZE + 2 : BOX_SIZE + 4], "big") if full else 0,
    )


def normalise_vpcc(data: bytes, key_frame: bytes = b"") -> bytes:
    """Return the setup bytes for either form of the record, with the size of ``key_frame``.

    Raises:
        FormatError: If it is not a vpcC record, or the frame is not a key frame.
    """
    config = parse_vpcc(data)
    header = _key_header(key_frame) if key_frame else None
    return write_vpcc(
        replace(config, width=header.width, height=header.height) if header else config
    )


def box(init: bytes) -> bytes:
    """Return the contents of the vpcC box among the setup bytes of a track.

    Raises:
        FormatError: If they hold none.
    """
    return write_vpcc(parse_vpcc(init))[:BOX_SIZE]


def write_vpcc(config: Vp9Config) -> bytes:
    """Write setup bytes: version 1, flags 0, the record; the size of the picture if known."""
    packed = config.bit_depth << 4 | config.chroma << 1 | config.full_range
    record = bytes([1, 0, 0, 0, config.profile, config.level, packed, *config.color, 0, 0])
    if not config.width or not config.height:
        return record
    return record + config.width.to_bytes(2, "big") + config.height.to_bytes(2, "big")


def build_vpcc(frame: bytes, rate: Fraction | None = None) -> bytes:
    """Write the setup bytes for a stream that starts with this key frame.

    Args:
        frame: A whole key frame or superframe.
        rate: Frames a second, for the level; 30 where unknown.

    Raises:
        FormatError: If it is not a key frame.
    """
    header = _key_header(frame)
    level = _level(header.width * header.height, rate or Fraction(30))
    return write_vpcc(
        Vp9Config(
            header.profile,
            level,
            header.bit_depth,
            header.chroma,
            header.full_range,
            header.color,
            header.width,
            header.height,
        )
    )


def _key_header(frame: bytes) -> FrameHeader:
    header = parse_frame_header(frame)
    if header is None:
        raise FormatError("not a VP9 key frame")
    if header.width > 0xFFFF or header.height > 0xFFFF:
        raise FormatError("a VP9 picture too large for an ISO media file")
    return header


def _level(picture: int, rate: Fraction) -> int:
    for level, samples_a_second, samples in _LEVELS:
        if picture <= samples and picture * rate <= samples_a_second:
            return level
    return _LEVELS[-1][0]


def parse_frame_header(frame: bytes) -> FrameHeader | None:
    """Read the header of a key frame; None if the frame is another kind.

    Raises:
        FormatError: If it is not a VP9 frame.
    """
    bits = BitReader(frame[:32])
    if bits.u(2) != 2:
        raise FormatError("not a VP9 frame")
    profile = bits.u(1) | bits.u(1) << 1
    if profile == 3 and bits.flag():
        raise FormatError("reserved VP9 profile")
    if bits.flag() or bits.flag():  # show_existing_frame, frame_type
        return None
    bits.skip(2)  # show_frame, error_resilient_mode
    if bits.u(24) != SYNC_CODE:
        raise FormatError("a VP9 key frame without its sync code")
    depth = (12 if bits.flag() else 10) if profile >= 2 else 8
    space = bits.u(3)
    color = _COLOR_SPACES.get(space, (_UNSPECIFIED,) * 3)
    odd = profile in (1, 3)
    if space == _CS_RGB:
        full, chroma = True, _CHROMA_444
        bits.skip(1 if odd else 0)
    else:
        full = bits.flag()
        chroma = _CHROMA_420_COLOCATED
        if odd:
            chroma = _CHROMA.get((bits.u(1), bits.u(1)), _CHROMA_440)
            bits.skip(1)
    return FrameHeader(profile, depth, chroma, color, full, bits.u(16) + 1, bits.u(16) + 1)
