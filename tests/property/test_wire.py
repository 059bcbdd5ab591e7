"""Foreign bytes on the bus give messages or FormatError, and what we send arrives equal."""

import contextlib
from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.track.record import Record
from common.wire.control import decode_control, encode_control
from common.wire.media import Item
from common.wire.messages import Media, decode_bus, encode_media

U16, U32, U63 = (
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**63 - 1),
)
I32, I64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)


@st.composite
def item(draw: st.DrawFn) -> Item:
    payload = draw(st.binary(max_size=40))
    flags = draw(U16)
    if payload:
        flags &= ~4
    record = Record(
        draw(U63), draw(I64), draw(I64), draw(I64), draw(I32), draw(U32), draw(U32), draw(U32),
        0, len(payload), draw(U32), flags, draw(U16),
    )  # fmt: skip
    return Item(draw(U16), record, payload)


TREES = st.recursive(
    st.none() | st.booleans() | I64 | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=14)
        | st.dictionaries(st.integers(0, 9) | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=30,
)
KINDS = ["hello", "join", "joined", "absent", "pull", "records", "gone", "ping", "pong", "x"]


@given(st.lists(item(), min_size=1, max_size=6), U63, U63)
def test_any_frames_arrive_as_they_were_sent(items: list[Item], epoch: int, term: int) -> None:
    assert decode_bus(encode_media("a", epoch, term, items)) == Media("a", epoch, term, items)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_garbage_gives_only_format_errors(frames: list[bytes]) -> None:
    for decode in (decode_bus, decode_control):
        with contextlib.suppress(FormatError):
            decode(frames)


@given(st.sampled_from(b"MCHNX"), st.lists(TREES, max_size=7), st.binary(max_size=40))
def test_any_header_on_the_bus_gives_a_message_or_a_format_error(
    kind: int, fields: list[Any], payload: bytes
) -> None:
    topic = bytes([kind]) + (b"\0" if kind == ord("N") else b"live+a\0")
    with contextlib.suppress(FormatError):
        decode_bus([topic, msgpack.packb([1, *fields]), payload])


@given(st.sampled_from(KINDS), st.lists(TREES, max_size=9), st.binary(max_size=40))
def test_any_control_message_gives_one_or_a_format_error(
    kind: str, fields: list[Any], payload: bytes
) -> None:
    header = msgpack.packb([1, kind, *fields])
    for frames in ([header], [header, payload]):
        with contextlib.suppress(FormatError):
            encode_control(decode_control(frames))


@given(st.lists(item(), min_size=1, max_size=3), st.data())
def test_a_damaged_message_gives_a_message_or_a_format_error(
    items: list[Item], data: st.DataObject
) -> None:
    frames = encode_media("a", 1, 1, items)
    at = data.draw(st.integers(0, 2))
    frame = bytearray(frames[at])
    if frame:
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    frames[at] = bytes(frame[: data.draw(st.integers(0, len(frame)))])
    with contextlib.suppress(FormatError):
        decode_bus(frames)
