"""AMF0 for any value, and for anything else."""

from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.formats.amf import Date, EcmaArray, Value, decode, encode

numbers = st.floats(allow_nan=False)
texts = st.text(max_size=40)
scalars: st.SearchStrategy[Value] = st.none() | st.booleans() | numbers | texts
leaves: st.SearchStrategy[Value] = scalars | st.builds(Date, numbers)


def _deeper(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    objects = st.dictionaries(texts, inner, max_size=4)
    return st.lists(inner, max_size=4) | objects | objects.map(EcmaArray)


values = st.recursive(leaves, _deeper, max_leaves=8)


@given(st.lists(values, max_size=8))
def test_what_is_encoded_decodes_to_itself(items: list[Value]) -> None:
    try:
        data = encode(*items)
    except ValueError:
        return  # nested too deeply to be written
    assert decode(data) == items


@given(st.lists(values, min_size=1, max_size=4), st.data())
def test_a_changed_message_gives_values_or_a_format_error(
    items: list[Value], data: st.DataObject
) -> None:
    try:
        message = bytearray(encode(*items))
    except ValueError:
        return
    position = data.draw(st.integers(0, len(message) - 1))
    message[position] = data.draw(st.integers(0, 255))
    _decode(bytes(message))
    _decode(bytes(message[:position]))


@given(st.binary(max_size=300))
def test_garbage_gives_values_or_a_format_error(data: bytes) -> None:
    _decode(data)


def _decode(data: bytes) -> None:
    try:
        decode(data)
    except FormatError:
        return
