"""AV1: open bitstream units, the sequence header and the av1C record.

AV1 Bitstream & Decoding Process Specification 5.3 to 5.9; AV1 Codec ISO Media File Format Binding
2.3 (av1C) and 5 (the codec string).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from common.errors import FormatError
from common.media.bits import BitReader
from common.media.color import Display, frame_rate

OBU_SEQUENCE_HEADER = 1
OBU_TEMPORAL_DELIMITER = 2
OBU_FRAME_HEADER = 3
OBU_FRAME = 6
OBU_PADDING = 15

MAX_OBUS = 4096
"""OBUs of one temporal unit; a frame has at most 4096 tiles, far fewer in practice. More are a
FormatError: the frame is dropped."""

MAX_LEB128 = 8
"""Bytes of a number in LEB128. A longer one is a FormatError."""

_CP_BT709, _TC_SRGB, _MC_IDENTITY = 1, 13, 0
_UNSPECIFIED = 2
_DEFAULT_COLORS = ((1, 1, 1), (_UNSPECIFIED,) * 3)
_KEY_FRAME = 0


class Obu(NamedTuple):
    """One open bitstream unit."""

    kind: int
    payload: bytes
    raw: bytes
    """Header, size and payload as they stood in the stream."""


@dataclass(frozen=True, slots=True)
class SequenceHeader:
    """What a sequence header says about the picture."""

    profile: int
    level: int
    """seq_level_idx[0]."""

    tier: int
    width: int
    height: int
    bit_depth: int
    monochrome: bool
    subsampling_x: int
    subsampling_y: int
    chroma_position: int
    color: tuple[int, int, int]
    """Colour primaries, transfer characteristics, matrix coefficients (ITU-T H.273)."""

    full_range: bool
    reduced: bool
    """reduced_still_picture_header: every frame is a key frame."""

    frame_rate: Fraction | None

    @property
    def codec_string(self) -> str:
        """Return the RFC 6381 name; the optional tail only where it is not the default."""
        tier = "H" if self.tier else "M"
        head = f"av01.{self.profile}.{self.level:02d}{tier}.{self.bit_depth:02d}"
        chroma = f"{self.subsampling_x}{self.subsampling_y}{self.chroma_position}"
        usual = self.color in _DEFAULT_COLORS and not self.monochrome and not self.full_range
        if usual and chroma.startswith("11"):
            return head
        primaries, transfer, matrix = self.color
        colors = f"{primaries:02d}.{transfer:02d}.{matrix:02d}.{self.full_range:d}"
        return f"{head}.{self.monochrome:d}.{chroma}.{colors}"

    @property
    def display(self) -> Display:
        """Return what is said about how to show it."""
        return Display(None, self.color, self.full_range)


@dataclass(frozen=True, slots=True)
class Av1Config:
    """An av1C record."""

    profile: int
    level: int
    tier: int
    obus: bytes
    """configOBUs: normally one sequence header."""

    sequence: SequenceHeader | None


def leb128(data: bytes, position: int) -> tuple[int, int]:
    """Read a leb128() number at ``position``; return it and the position behind it.

    Raises:
        FormatError: If it ends too early or is too long.
    """
    value = 0
    for index in range(MAX_LEB128):
        if position + index >= len(data):
            break
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise FormatError("a leb128 number has no end")


def iter_obus(data: bytes) -> Iterator[Obu]:
    """Yield the OBUs of a temporal unit in the low-overhead format.

    An OBU without a size field reaches to the end.

    Raises:
        FormatError: If one reaches beyond the end, or there are too many.
    """
    position = 0
    for _ in range(MAX_OBUS):
        if position == len(data):
            return
        header = data[position]
        if header & 0x80:
            raise FormatError("obu_forbidden_bit is set")
        start = position + (2 if header & 4 else 1)
        stop = len(data)
        if header & 2:
            size, start = leb128(data, start)
            stop = start + size
        if start > len(data) or stop > len(data):
            raise FormatError("an OBU reaches beyond its temporal unit")
        yield Obu(header >> 3 & 15, data[start:stop], data[position:stop])
        position = stop
    if position != len(data):
        raise FormatError("too many OBUs in a temporal unit")


def drop_temporal_delimiters(data: bytes) -> bytes:
    """Return a temporal unit as ISO media samples carry it: without temporal delimiters.

    Raises:
        FormatError: If an OBU reaches beyond the end.
    """
    return b"".join(obu.raw for obu in iter_obus(data) if obu.kind != OBU_TEMPORAL_DELIMITER)


def parse_sequence_header(payload: bytes) -> SequenceHeader:
    """Read the payload of a sequence header OBU (5.5).

    Raises:
        FormatError: If it is not one.
    """
    bits = BitReader(payload)
    profile = bits.u(3)
    if profile > 2:
        raise FormatError(f"AV1 profile {profile} does not exist")
    bits.skip(1)  # still_picture
    reduced = bits.flag()
    rate = None
    if reduced:
        level, tier = bits.u(5), 0
    else:
        rate, decoder_model = _timing(bits)
        level, tier = _operating_points(bits, decoder_model)
    width, height = _frame_size(bits)
    _skip_tools(bits, reduced)
    depth, mono, chroma, color, full = _color_config(bits, profile)
    return SequenceHeader(
        profile=profile,
        level=level,
        tier=tier,
        width=width,
        height=height,
        bit_depth=depth,
        monochrome=mono,
        subsampling_x=chroma[0],
        subsampling_y=chroma[1],
        chroma_position=chroma[2],
        color=color,
        full_range=full,
        reduced=reduced,
        frame_rate=rate,
    )


def _timing(bits: BitReader) -> tuple[Fraction | None, int]:
    """Read timing_info and decoder_model_info; return the rate and buffer_delay_length."""
    if not bits.flag():
        return None, 0
    units, scale = bits.u(32), bits.u(32)
    rate = None
    if bits.flag():  # equal_picture_interval
        rate = frame_rate(scale, units * (bits.ue() + 1))
    if not bits.flag():
        return rate, 0
    delay_length = bits.u(5) + 1
    bits.skip(32 + 5 + 5)
    return rate, delay_length


def _operating_points(bits: BitReader, delay_length: int) -> tuple[int, int]:
    display_delay = bits.flag()
    first = (0, 0)
    for index in range(bits.u(5) + 1):
        bits.skip(12)  # operating_point_idc
        level = bits.u(5)
        tier = bits.u(1) if level > 7 else 0
        if delay_length and bits.flag():
            bits.skip(2 * delay_length + 1)
        if display_delay and bits.flag():
            bits.skip(4)
        if index == 0:
            first = (level, tier)
    return first


def _frame_size(bits: BitReader) -> tuple[int, int]:
    width_bits, height_bits = bits.u(4) + 1, bits.u(4) + 1
    return bits.u(width_bits) + 1, bits.u(height_bits) + 1


def _skip_tools(bits: BitReader, reduced: bool) -> None:
    if not reduced and bits.flag():  # frame_id_numbers_present_flag
        bits.skip(7)
    bits.skip(3)  # use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
    if not reduced:
        bits.skip(4)  # interintra, masked, warped, dual filter
        order_hint = bits.flag()
        if order_hint:
            bits.skip(2)
        # seq_choose_screen_content_tools, else seq_force_screen_content_tools
        force_screen = 2 if bits.flag() else bits.u(1)
        if force_screen and not bits.flag():
            bits.skip(1)
        if order_hint:
            bits.skip(3)
    bits.skip(3)  # enable_superres, enable_cdef, enable_restoration


def _color_config(
    bits: BitReader, profile: int
) -> tuple[int, bool, tuple[int, int, int], tuple[int, int, int], bool]:
    """Read color_config() (5.5.2): depth, monochrome, chroma format, colours, full range."""
    high = bits.flag()
    depth = (12 if bits.flag() else 10) if profile == 2 and high else 10 if high else 8
    mono = profile != 1 and bits.flag()
    color = (_UNSPECIFIED,) * 3
    if bits.flag():
        color = (bits.u(8), bits.u(8), bits.u(8))
    if mono:
        return depth, True, (1, 1, 0), color, bits.flag()
    if color == (_CP_BT709, _TC_SRGB, _MC_IDENTITY):
        return depth, False, (0, 0, 0), color, True
    full = bits.flag()
    if profile == 0:
        x, y = 1, 1
    elif profile == 1:
        x, y = 0, 0
    elif depth == 12:
        x = bits.u(1)
        y = bits.u(1) if x else 0
    else:
        x, y = 1, 0
    position = bits.u(2) if x and y else 0
    return depth, False, (x, y, position), color, full


def sequence_header(data: bytes) -> Obu | None:
    """Return the first sequence header OBU of a temporal unit.

    Raises:
        FormatError: If an OBU reaches beyond the end.
    """
    return next((obu for obu in iter_obus(data) if obu.kind == OBU_SEQUENCE_HEADER), None)


def parse_av1c(data: bytes) -> Av1Config:
    """Read an av1C record.

    Raises:
        FormatError: If it is not one.
    """
    if len(data) < 4 or data[0] != 0x81:
        raise FormatError("not an av1C record")
    header = sequence_header(data[4:])
    sequence = parse_sequence_header(header.payload) if header else None
    return Av1Config(data[1] >> 5, data[1] & 31, data[2] >> 7, data[4:], sequence)


def build_av1c(sequence: Obu) -> bytes:
    """Write the av1C record for a sequence header OBU.

    Raises:
        FormatError: If it is not a sequence header.
    """
    if sequence.kind != OBU_SEQUENCE_HEADER:
        raise FormatError("not a sequence header OBU")
    header = parse_sequence_header(sequence.payload)
    flags = header.tier << 7 | (header.bit_depth > 8) << 6 | (header.bit_depth == 12) << 5
    flags |= header.monochrome << 4 | header.subsampling_x << 3 | header.subsampling_y << 2
    flags |= header.chroma_position
    # The record wants obu_has_size_field set, so the unit is written anew.
    size = bytearray()
    left = len(sequence.payload)
    while left > 127:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    size.append(left)
    obu = bytes([OBU_SEQUENCE_HEADER << 3 | 2]) + size + sequence.payload
    return bytes([0x81, header.profile << 5 | header.level, flags, 0]) + obu


def is_key_unit(data: bytes, reduced: bool = False) -> bool:
    """Return whether the first frame of a temporal unit is a shown key frame.

    ``reduced`` says that the sequence header has reduced_still_picture_header.

    Raises:
        FormatError: If an OBU reaches beyond the end.
    """
    for obu in iter_obus(data):
        if obu.kind in (OBU_FRAME, OBU_FRAME_HEADER) and obu.payload:
            # show_existing_frame, frame_type (2 bits), show_frame
            first = obu.payload[0]
            return reduced or (first >> 5 == _KEY_FRAME and first >> 4 & 1 == 1)
    return False
