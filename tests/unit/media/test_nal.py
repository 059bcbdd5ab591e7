"""NAL unit streams and the counters and bits below them."""

import pytest

from common.errors import FormatError
from common.media import nal
from common.media.bits import MAX_HEADER, BitReader
from common.media.time import Unwrapper, rescale


def test_annexb_start_codes_of_either_length_and_padding_are_left_out() -> None:
    stream = b"\0\0\0\1\x67ab\0\0\0\0\0\1\x68c\0\0\1\x65def\0\0"
    assert nal.split_annexb(stream) == [b"\x67ab", b"\x68c", b"\x65def"]


def test_bytes_before_the_first_start_code_are_an_error() -> None:
    with pytest.raises(FormatError, match="start code"):
        nal.split_annexb(b"\x67\0\0\1\x68")
    with pytest.raises(FormatError, match="start code"):
        nal.split_annexb(b"no start code")


def test_an_empty_access_unit_has_no_nal_units() -> None:
    assert nal.split_annexb(b"") == []
    assert nal.split_length_prefixed(b"") == []


@pytest.mark.parametrize("size", [1, 2, 4])
def test_lengths_of_one_two_and_four_bytes_are_read(size: int) -> None:
    sample = (2).to_bytes(size, "big") + b"ab" + (0).to_bytes(size, "big")
    sample += (1).to_bytes(size, "big") + b"c"
    assert nal.split_length_prefixed(sample, size) == [b"ab", b"c"]


@pytest.mark.parametrize("sample", [b"\0\0\0\5abc", b"\0\0", b"\0\0\0\1a\0"])
def test_a_nal_unit_beyond_the_end_is_an_error(sample: bytes) -> None:
    with pytest.raises(FormatError, match="beyond"):
        nal.split_length_prefixed(sample)


def test_too_many_nal_units_are_an_error() -> None:
    with pytest.raises(FormatError, match="too many"):
        nal.split_length_prefixed(b"\0\0\0\1a" * (nal.MAX_NALS + 1))
    with pytest.raises(FormatError, match="too many"):
        nal.split_annexb(b"\0\0\1a" * (nal.MAX_NALS + 1))
    assert len(nal.split_length_prefixed(b"\0\0\0\1a" * nal.MAX_NALS)) == nal.MAX_NALS


def test_both_forms_turn_into_each_other() -> None:
    annexb = b"\0\0\0\1\x67a\0\0\0\1\x65b"
    sample = b"\0\0\0\2\x67a\0\0\0\2\x65b"
    assert nal.to_length_prefixed(annexb) == sample
    assert nal.to_annexb(sample) == annexb


def test_emulation_prevention_bytes_are_removed() -> None:
    assert nal.unescape(b"a\0\0\3\1\0\0\3\0\0\3b") == b"a\0\0\1\0\0\0\0b"


def test_exp_golomb_codes_are_read_as_the_specification_lists_them() -> None:
    codes = {"1": 0, "010": 1, "011": 2, "00100": 3, "00101": 4, "0001000": 7}
    for text, value in codes.items():
        padded = text.ljust(8, "0")
        assert BitReader(bytes([int(padded, 2)])).ue() == value
    assert [_se(text) for text in ("1", "010", "011", "00100", "00101")] == [0, 1, -1, 2, -2]


def _se(text: str) -> int:
    return BitReader(bytes([int(text.ljust(8, "0"), 2)])).se()


def test_headers_that_end_early_or_never_end_are_errors() -> None:
    with pytest.raises(FormatError, match="too early"):
        BitReader(b"\1").u(9)
    with pytest.raises(FormatError, match="too long"):
        BitReader(bytes(8)).ue()
    with pytest.raises(FormatError, match="too long"):
        BitReader(bytes(MAX_HEADER + 1))


def test_rescale_is_exact_and_rounds_halves_up() -> None:
    assert rescale(1, 1000, 90_000) == 90
    assert rescale(3, 2, 1) == 2
    assert rescale(-3, 2, 1) == -1
    assert rescale(2**62, 48_000, 48_000) == 2**62
    assert [rescale(n * 1024, 48_000, 1000) for n in range(4)] == [0, 21, 43, 64]


def test_a_counter_that_wraps_goes_on_counting() -> None:
    clock = Unwrapper(32)
    assert clock.unwrap(2**32 - 10) == 2**32 - 10
    assert clock.unwrap(5) == 2**32 + 5
    assert clock.unwrap(2**32 - 1) == 2**32 - 1, "a frame from before the wrap comes late"
    assert clock.unwrap(20) == 2**32 + 20
