"""AV1 units and av1C, VP9 frame headers and vpcC."""

from fractions import Fraction

import pytest

from common.errors import FormatError
from common.media import av1, vp9
from common.media.codec import Codec
from common.media.describe import describe, is_keyframe
from tests.unit.media.samples import AV1C, AV1C_BARE, VPCC, BitWriter

DELIMITER = b"\x12\x00"
SEQUENCE = AV1C[4:]


def obu(kind: int, payload: bytes) -> bytes:
    return bytes([kind << 3 | 2, len(payload)]) + payload


KEY_FRAME = obu(av1.OBU_FRAME, b"\x10key")
INTER_FRAME = obu(av1.OBU_FRAME, b"\x30inter")


def test_a_real_record_gives_the_codec_string_its_file_is_named_by() -> None:
    description = describe(Codec.AV1, AV1C)
    assert description.codec_string == "av01.0.00M.08"
    assert (description.width, description.height) == (416, 240)
    assert describe(Codec.AV1, AV1C_BARE).codec_string == "av01.0.00M.08"


def test_the_record_is_built_from_the_sequence_header_of_a_key_frame() -> None:
    header = av1.sequence_header(DELIMITER + SEQUENCE + KEY_FRAME)
    assert header is not None
    assert av1.build_av1c(header) == AV1C


def test_temporal_delimiters_are_dropped_and_nothing_else() -> None:
    assert av1.drop_temporal_delimiters(DELIMITER + SEQUENCE + KEY_FRAME) == SEQUENCE + KEY_FRAME


def test_a_unit_without_a_size_reaches_to_the_end() -> None:
    units = list(av1.iter_obus(DELIMITER + bytes([av1.OBU_FRAME << 3]) + b"\x10rest"))
    assert [unit.kind for unit in units] == [av1.OBU_TEMPORAL_DELIMITER, av1.OBU_FRAME]
    assert units[1].payload == b"\x10rest"


def test_sizes_of_several_bytes_are_read_and_written() -> None:
    assert av1.leb128(b"\xe5\x8e\x26", 0) == (624_485, 3)
    padded = SEQUENCE[:1] + b"\x8b\x00" + SEQUENCE[2:]
    header = av1.sequence_header(padded)
    assert header is not None
    assert av1.build_av1c(header) == AV1C


@pytest.mark.parametrize("data", [b"\x92", b"\x12\x05ab", b"\x12", b"\x12\xff" + b"\xff" * 9])
def test_broken_units_are_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError):
        list(av1.iter_obus(data))


def test_a_shown_key_frame_with_a_sequence_header_is_a_keyframe() -> None:
    assert is_keyframe(Codec.AV1, SEQUENCE + KEY_FRAME, AV1C_BARE)
    assert is_keyframe(Codec.AV1, KEY_FRAME, AV1C)
    assert not is_keyframe(Codec.AV1, KEY_FRAME, AV1C_BARE)
    assert not is_keyframe(Codec.AV1, SEQUENCE + INTER_FRAME, AV1C)
    assert not is_keyframe(Codec.AV1, obu(av1.OBU_FRAME_HEADER, b"\x80"), AV1C)


def _sequence(bits_10: bool, colors: tuple[int, int, int], full: int) -> bytes:
    bits = BitWriter().u(3, 0).u(2, 0)
    bits.u(1, 1).u(32, 1).u(32, 60).u(1, 1).ue(1)  # timing: 60 ticks, two a picture
    bits.u(1, 0).u(1, 0).u(5, 0).u(12, 0).u(5, 13).u(1, 1)  # one operating point, 5.1 high
    bits.u(4, 10).u(4, 10).u(11, 1919).u(11, 1079)
    bits.u(1, 0).u(3, 0).u(4, 0).u(1, 1).u(2, 0).u(1, 1).u(1, 1).u(3, 6).u(3, 0)
    bits.u(1, int(bits_10)).u(1, 0).u(1, 1)
    for color in colors:
        bits.u(8, color)
    return bits.u(1, full).u(2, 0).u(1, 0).packed()


def test_hdr_has_the_long_codec_string_and_its_range() -> None:
    header = av1.parse_sequence_header(_sequence(True, (9, 16, 9), 0))
    assert header.codec_string == "av01.0.13H.10.0.110.09.16.09.0"
    assert header.display.video_range == "PQ"
    assert (header.width, header.height) == (1920, 1080)
    assert header.frame_rate == Fraction(30)


def test_the_default_colours_have_the_short_codec_string() -> None:
    header = av1.parse_sequence_header(_sequence(False, (1, 1, 1), 0))
    assert header.codec_string == "av01.0.13H.08"
    full = av1.parse_sequence_header(_sequence(False, (1, 1, 1), 1))
    assert full.codec_string == "av01.0.13H.08.0.110.01.01.01.1"


def _vp9_key(profile: int = 0, width: int = 640, height: int = 360) -> bytes:
    bits = BitWriter().u(2, 2).u(1, profile & 1).u(1, profile >> 1).u(1, 0).u(1, 0).u(2, 2)
    bits.u(24, vp9.SYNC_CODE)
    if profile >= 2:
        bits.u(1, 0)
    bits.u(3, 2).u(1, 0)
    if profile & 1:
        bits.u(2, 0).u(1, 0)
    return bits.u(16, width - 1).u(16, height - 1).u(8, 0).packed()


def test_vp9_setup_bytes_carry_the_box_and_the_size() -> None:
    init = vp9.build_vpcc(_vp9_key(), Fraction(25))
    description = describe(Codec.VP9, init)
    assert description.codec_string == "vp09.00.21.08"
    assert (description.width, description.height) == (640, 360)
    assert vp9.box(init) == init[:12]
    assert len(init) == 16


def test_vp9_profiles_depths_and_levels_are_told_apart() -> None:
    assert describe(Codec.VP9, vp9.build_vpcc(_vp9_key(2))).codec_string == "vp09.02.21.10"
    uhd = vp9.build_vpcc(_vp9_key(1, 3840, 2160), Fraction(50))
    assert describe(Codec.VP9, uhd).codec_string == "vp09.01.51.08.03.01.01.01.00"


def test_the_bare_record_of_rtmp_gets_its_box_header_and_the_size_of_a_key_frame() -> None:
    bare = VPCC[4:]
    assert describe(Codec.VP9, bare) == describe(Codec.VP9, VPCC)
    assert vp9.normalise_vpcc(bare) == VPCC
    assert describe(Codec.VP9, vp9.normalise_vpcc(bare, _vp9_key())).width == 640


def test_vp9_key_frames_are_told_from_others() -> None:
    assert is_keyframe(Codec.VP9, _vp9_key(), VPCC)
    assert not is_keyframe(Codec.VP9, b"\x86\x00\x40\x92", VPCC)
    with pytest.raises(FormatError):
        is_keyframe(Codec.VP9, b"\x00abc", VPCC)


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\0\0", b"\x09" + bytes(11), b"\1\0\0\0\0\x14\x02\0\0\0"]
)
def test_broken_vpcc_records_are_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError):
        vp9.parse_vpcc(data)
