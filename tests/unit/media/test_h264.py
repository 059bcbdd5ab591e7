"""H.264 parameter sets and avcC."""

from fractions import Fraction

import pytest

from common.errors import FormatError
from common.media import h264
from common.media.codec import Codec
from common.media.describe import describe, is_keyframe
from tests.unit.media.samples import AVCC_BASELINE, AVCC_HIGH, AVCC_MAIN, BitWriter


@pytest.mark.parametrize(
    ("avcc", "name"),
    [(AVCC_BASELINE, "avc1.42C00D"), (AVCC_MAIN, "avc1.4D401E"), (AVCC_HIGH, "avc1.640028")],
)
def test_real_records_give_the_codec_string_their_file_is_named_by(avcc: bytes, name: str) -> None:
    description = describe(Codec.H264, avcc)
    assert description.codec_string == name
    assert (description.width, description.height) == (416, 240)
    assert description.frame_rate == Fraction(1199, 50)
    assert description.display.video_range == "SDR"


@pytest.mark.parametrize("avcc", [AVCC_BASELINE, AVCC_MAIN])
def test_a_record_built_from_its_parameter_sets_is_the_same_record(avcc: bytes) -> None:
    config = h264.parse_avcc(avcc)
    assert h264.build_avcc(config.sps, config.pps) == avcc


def test_high_profiles_get_the_chroma_fields_at_the_end_of_the_record() -> None:
    config = h264.parse_avcc(AVCC_HIGH)
    built = h264.build_avcc(config.sps, config.pps)
    assert built == AVCC_HIGH + bytes([0xFD, 0xF8, 0xF8, 0])
    assert h264.parse_avcc(built) == config


def test_the_record_is_built_from_the_units_of_a_key_frame() -> None:
    config = h264.parse_avcc(AVCC_MAIN)
    units = [b"\x09\xf0", *config.sps, *config.pps, *config.sps, b"\x65abc"]
    assert h264.avcc_from_nals(units) == AVCC_MAIN
    assert h264.avcc_from_nals([b"\x65abc", *config.sps]) is None


def _sps(
    profile: int = 66, *, tail: BitWriter | None = None, high: BitWriter | None = None
) -> bytes:
    bits = BitWriter().u(8, profile).u(8, 0).u(8, 30).ue(0)
    bits.text += high.text if high else ""
    bits.ue(0, 0, 0, 1).u(1, 0)  # frame_num, poc type 0, poc lsb, ref frames, gaps
    bits.text += (tail or _size(39, 22)).text
    return b"\x67" + bits.rbsp()


def _size(
    width: int, height: int, *, frames_only: int = 1, crop: tuple[int, ...] = ()
) -> BitWriter:
    bits = BitWriter().ue(width, height).u(1, frames_only)
    if not frames_only:
        bits.u(1, 0)
    bits.u(1, 1).u(1, int(bool(crop))).ue(*crop)
    return bits.u(1, 0)


def test_cropping_counts_in_chroma_samples_and_fields() -> None:
    assert _dimensions(_sps(tail=_size(119, 67, crop=(0, 0, 0, 4)))) == (1920, 1080)
    fields = _size(119, 33, frames_only=0, crop=(0, 0, 0, 2))
    assert _dimensions(_sps(tail=fields)) == (1920, 1080)
    full = BitWriter().ue(3).u(1, 0).ue(0, 0).u(2, 0)
    assert _dimensions(_sps(244, high=full, tail=_size(39, 22, crop=(1, 0, 0, 3)))) == (639, 365)


def _dimensions(nal: bytes) -> tuple[int, int]:
    sps = h264.parse_sps(nal)
    return sps.width, sps.height


def test_scaling_lists_are_read_over() -> None:
    high = BitWriter().ue(1, 0, 0).u(1, 0).u(1, 1)
    high.u(1, 1)
    for _ in range(16):
        high.ue(0)  # delta_scale 0
    high.u(1, 1).ue(15)  # delta_scale +8 ... -8 ends the list: se(-8) is code 16
    high.ue(32)  # se(-16): 16 - 16 = 0, the rest repeats
    high.u(6, 0)
    assert _dimensions(_sps(100, high=high)) == (640, 368)


def test_a_picture_that_is_cropped_away_is_an_error() -> None:
    with pytest.raises(FormatError, match="cropping"):
        h264.parse_sps(_sps(tail=_size(0, 0, crop=(8, 0, 0, 0))))


def test_hdr_transfer_functions_are_named() -> None:
    tail = _size(39, 22)
    tail.text = tail.text[:-1]
    tail.u(1, 1).u(2, 0).u(1, 1).u(4, 0).u(1, 1).u(8, 9).u(8, 16).u(8, 9).u(1, 0).u(1, 0)
    assert h264.parse_sps(_sps(tail=tail)).display.video_range == "PQ"


def _shown(vui: BitWriter) -> h264.Sps:
    tail = _size(39, 22)
    tail.text = tail.text[:-1] + "1" + vui.text
    return h264.parse_sps(_sps(tail=tail))


@pytest.mark.parametrize(
    ("said", "aspect"),
    [
        (BitWriter().u(8, 0), None),
        (BitWriter().u(8, 1), (1, 1)),
        (BitWriter().u(8, 13), (160, 99)),
        (BitWriter().u(8, 16), (2, 1)),
        (BitWriter().u(8, 17), None),
        (BitWriter().u(8, 255).u(16, 64).u(16, 45), (64, 45)),
        (BitWriter().u(8, 255).u(16, 64).u(16, 0), None),
    ],
)
def test_the_shape_of_a_pixel_is_one_of_a_table_or_written_out(
    said: BitWriter, aspect: tuple[int, int] | None
) -> None:
    vui = BitWriter().u(1, 1)
    vui.text += said.text
    assert _shown(vui.u(5, 0)).display.aspect == aspect


def test_colours_are_known_although_the_rest_is_cut_off() -> None:
    vui = BitWriter().u(2, 0).u(1, 1).u(3, 5).u(1, 1).u(1, 1).u(8, 9).u(8, 18).u(8, 9).u(2, 1)
    sps = _shown(vui)
    assert (sps.display.color, sps.display.full_range, sps.frame_rate) == ((9, 18, 9), True, None)
    assert sps.display.video_range == "HLG"


def test_a_record_without_parameter_sets_is_described_by_its_header() -> None:
    description = describe(Codec.H264, bytes([1, 0x42, 0xC0, 0x1F, 0xFF, 0xE0, 0]))
    assert description.codec_string == "avc1.42C01F"
    assert description.width == 0


@pytest.mark.parametrize(
    "record", [b"", b"\0" * 8, AVCC_MAIN[:-1], AVCC_MAIN[:20], b"\1abc\xfe\xe0\0", AVCC_MAIN[:30]]
)
def test_broken_records_are_format_errors(record: bytes) -> None:
    with pytest.raises(FormatError):
        h264.parse_avcc(record)


def test_a_sample_is_a_keyframe_when_it_holds_an_idr_slice() -> None:
    idr = b"\0\0\0\2\x09\xf0\0\0\0\3\x65ab"
    assert is_keyframe(Codec.H264, idr, AVCC_MAIN)
    assert not is_keyframe(Codec.H264, b"\0\0\0\3\x41ab\0\0\0\2\x06\1", AVCC_MAIN)


def test_the_length_size_of_the_record_is_used_for_keyframes() -> None:
    short = bytes([*AVCC_MAIN[:4], 0xFC, *AVCC_MAIN[5:]])
    assert is_keyframe(Codec.H264, b"\3\x65ab", short)
