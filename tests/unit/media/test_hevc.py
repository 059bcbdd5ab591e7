"""HEVC parameter sets and hvcC."""

from fractions import Fraction

import pytest

from common.errors import FormatError
from common.media import hevc
from common.media.codec import Codec
from common.media.describe import describe, is_keyframe
from tests.unit.media.samples import HVCC_MAIN, HVCC_MAIN_HIGH_TIER, HVCC_REXT


@pytest.mark.parametrize(
    ("hvcc", "name"),
    [
        (HVCC_MAIN, "hvc1.1.6.L60.90"),
        (HVCC_MAIN_HIGH_TIER, "hvc1.1.6.H120.90"),
        (HVCC_REXT, "hvc1.4.10.H120.9C.8"),
    ],
)
def test_real_records_give_the_codec_string_their_file_is_named_by(hvcc: bytes, name: str) -> None:
    description = describe(Codec.HEVC, hvcc)
    assert description.codec_string == name
    assert (description.width, description.height) == (416, 240)
    assert description.frame_rate == Fraction(1199, 50)


@pytest.mark.parametrize("hvcc", [HVCC_MAIN, HVCC_MAIN_HIGH_TIER, HVCC_REXT])
def test_a_record_built_from_its_parameter_sets_is_the_same_record(hvcc: bytes) -> None:
    config = hevc.parse_hvcc(hvcc)
    units = [*config.pps, *config.sps, *config.vps, *config.sps, b"\x26\1abc"]
    assert hevc.hvcc_from_nals(units) == hvcc
    assert hevc.hvcc_from_nals(config.sps) is None


def test_a_wrong_header_of_the_record_does_not_change_the_codec_string() -> None:
    wrong = bytearray(HVCC_MAIN)
    wrong[2:12] = bytes.fromhex("20000000b00000000000")
    assert describe(Codec.HEVC, bytes(wrong)).codec_string == "hvc1.1.6.L60.90"


def test_profile_space_and_constraint_bytes_are_written_as_players_expect() -> None:
    general = hevc.ProfileTierLevel(2, 1, 2, 0x20000000, 0xB01000000000, 153)
    assert general.codec_string == "hvc1.B2.4.H153.B0.10"
    plain = hevc.ProfileTierLevel(0, 0, 1, 0x60000000, 0, 93)
    assert plain.codec_string == "hvc1.1.6.L93"


def test_a_parameter_set_cut_short_behind_the_size_still_tells_the_size() -> None:
    sps = hevc.parse_hvcc(HVCC_MAIN).sps[0]
    cut = hevc.parse_sps(sps[:26])
    assert (cut.width, cut.height, cut.frame_rate) == (416, 240, None)


@pytest.mark.parametrize("record", [b"", bytes(30), HVCC_MAIN[:-1], HVCC_MAIN[:40]])
def test_broken_records_are_format_errors(record: bytes) -> None:
    with pytest.raises(FormatError):
        hevc.parse_hvcc(record)


@pytest.mark.parametrize(
    ("kind", "key"), [(1, False), (15, False), (16, True), (19, True), (21, True), (22, False)]
)
def test_random_access_pictures_are_keyframes(kind: int, key: bool) -> None:
    sample = b"\0\0\0\3\x46\1\x50" + b"\0\0\0\4" + bytes([kind << 1, 1, 0xAF, 0])
    assert is_keyframe(Codec.HEVC, sample, HVCC_MAIN) is key
