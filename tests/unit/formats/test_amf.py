"""AMF0: bytes as encoders send them, and the limits."""

import struct

import pytest

from common.errors import FormatError
from common.formats import amf
from common.formats.amf import Date, EcmaArray, decode, encode


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (1.5, "00 3ff8000000000000"),
        (True, "01 01"),
        (False, "01 00"),
        ("live", "02 0004 6c697665"),
        (None, "05"),
        ({"app": "x"}, "03 0003 617070 02 0001 78 0000 09"),
        ({}, "03 0000 09"),
        (EcmaArray(width=1.0), "08 00000001 0005 7769647468 00 3ff0000000000000 0000 09"),
        ([None, True], "0a 00000002 05 01 01"),
        (Date(1000.0), "0b 408f400000000000 0000"),
    ],
)
def test_a_value_has_the_bytes_of_the_specification(value: amf.Value, data: str) -> None:
    assert encode(value) == bytes.fromhex(data)
    assert decode(bytes.fromhex(data)) == [value]


def test_an_integer_is_written_as_a_number() -> None:
    assert decode(encode(7)) == [7.0]


def test_a_long_string_gets_the_long_marker() -> None:
    text = "x" * 65536
    assert encode(text)[:5] == b"\x0c\x00\x01\x00\x00"
    assert decode(encode(text)) == [text]


def test_an_ecma_array_stays_one_and_a_wrong_count_does_not_matter() -> None:
    [value] = decode(bytes.fromhex("08 00000000 0001 61 05 0000 09"))
    assert value == {"a": None}
    assert isinstance(value, EcmaArray)


def test_an_ecma_array_may_stop_at_the_end_of_the_message() -> None:
    assert decode(bytes.fromhex("08 00000001 0001 61 05")) == [{"a": None}]


def test_an_empty_key_that_is_not_the_end_is_a_key() -> None:
    assert decode(bytes.fromhex("03 0000 05 0000 09")) == [{"": None}]


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("06", None),
        ("0d", None),
        ("0f 00000001 78", "x"),
        ("10 0001 54 0001 61 05 0000 09", {"a": None}),
        ("02 0001 ff", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_rare_markers_are_read_as_their_nearest_kin(data: str, value: amf.Value) -> None:
    assert decode(bytes.fromhex(data)) == [value]


@pytest.mark.parametrize("marker", [0x04, 0x07, 0x09, 0x0E, 0x11, 0x12, 0xFF])
def test_an_unknown_marker_is_a_format_error(marker: int) -> None:
    with pytest.raises(FormatError, match="marker"):
        decode(bytes([marker]) + bytes(16))


def test_every_truncation_is_a_format_error() -> None:
    whole = encode({"a": "text", "b": [1.0, Date(0.0)], "c": {"d": True}})
    for size in range(1, len(whole)):
        with pytest.raises(FormatError):
            decode(whole[:size])


def _nested(levels: int) -> amf.Value:
    value: amf.Value = None
    for _ in range(levels):
        value = [value]
    return value


def test_values_nest_to_the_limit_and_no_deeper() -> None:
    deep = encode(_nested(amf.MAX_DEPTH))
    assert decode(deep) == [_nested(amf.MAX_DEPTH)]
    with pytest.raises(FormatError, match="nested"):
        decode(b"\x0a\x00\x00\x00\x01" + deep)
    with pytest.raises(ValueError, match="nested"):
        encode(_nested(amf.MAX_DEPTH + 1))


def test_an_object_has_a_limited_number_of_keys() -> None:
    full = {f"k{i}": None for i in range(amf.MAX_KEYS)}
    assert decode(encode(full)) == [full]
    with pytest.raises(FormatError, match="keys"):
        decode(encode(full | {"more": None}))


def test_a_huge_count_or_length_is_refused_before_anything_is_read() -> None:
    with pytest.raises(FormatError, match="array of"):
        decode(b"\x0a" + struct.pack(">I", 2**32 - 1))
    with pytest.raises(FormatError, match="string of"):
        decode(b"\x0c" + struct.pack(">I", 2**32 - 1))


def test_a_message_has_a_limited_number_of_values() -> None:
    with pytest.raises(FormatError, match="values in a message"):
        decode(b"\x05" * (amf.MAX_VALUES + 1))


def test_a_key_that_does_not_fit_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="key"):
        encode({"k" * 65536: None})
