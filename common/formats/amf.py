"""AMF0, the serialisation of RTMP commands and of FLV script data.

Action Message Format AMF 0 (Adobe, 2007). AMF 3 values inside it (marker 0x11) are refused: no
encoder that publishes sends them, and a peer that was answered with ``objectEncoding`` 0 may not.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from common.errors import FormatError

MAX_DEPTH = 8
"""Levels of objects and arrays inside each other. Deeper ones are a FormatError: the connection
ends."""

MAX_KEYS = 256
"""Pairs in one object. More are a FormatError: the connection ends."""

MAX_ITEMS = 4096
"""Values in one strict array; the keyframe lists of FLV files are the long ones. More are a
FormatError: the connection ends."""

MAX_STRING = 64 * 1024
"""Bytes of one string; what the 16-bit length of a short one allows. More are a FormatError: the
connection ends."""

MAX_VALUES = 32
"""Values in one message. More are a FormatError: the connection ends."""


@dataclass(frozen=True, slots=True)
class Date:
    """A point in time: milliseconds since 1970-01-01 UTC (2.13)."""

    ms: float


class EcmaArray(dict[str, "Value"]):
    """An associative array (2.10): as an object, but written with its number of pairs."""


Value: TypeAlias = (
    "bool | float | str | Date | Mapping[str, Value] | Sequence[Value] | EcmaArray | None"
)
"""What a marker can stand for. Undefined and unsupported read as None, XML as a string,
typed objects as plain ones."""


class Marker(IntEnum):
    """Type markers (2.1)."""

    NUMBER = 0x00
    BOOLEAN = 0x01
    STRING = 0x02
    OBJECT = 0x03
    NULL = 0x05
    UNDEFINED = 0x06
    ECMA_ARRAY = 0x08
    OBJECT_END = 0x09
    STRICT_ARRAY = 0x0A
    DATE = 0x0B
    LONG_STRING = 0x0C
    UNSUPPORTED = 0x0D
    XML_DOCUMENT = 0x0F
    TYPED_OBJECT = 0x10


_F64 = struct.Struct(">d")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_DATE_BODY = struct.Struct(">dh")
_END = b"\x00\x00\x09"


def encode(*values: Value) -> bytes:
    """Return the values one after another.

    Raises:
        ValueError: If a key has more than 65 535 bytes or values nest too deeply.
    """
    out: list[bytes] = []
    for value in values:
        _write(out, value, 0)
    return b"".join(out)


def _write(out: list[bytes], value: Value, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("AMF: nested too deeply")
    if value is None:
        out.append(b"\x05")
    elif isinstance(value, bool):
        out.append(b"\x01\x01" if value else b"\x01\x00")
    elif isinstance(value, (int, float)):
        out.append(b"\x00" + _F64.pack(value))
    elif isinstance(value, str):
        text = value.encode()
        short = len(text) <= 0xFFFF
        out.append(b"\x02" + _U16.pack(len(text)) if short else b"\x0c" + _U32.pack(len(text)))
        out.append(text)
    elif isinstance(value, Date):
        out.append(b"\x0b" + _DATE_BODY.pack(value.ms, 0))
    elif isinstance(value, Mapping):
        ecma = isinstance(value, EcmaArray)
        out.append(b"\x08" + _U32.pack(len(value)) if ecma else b"\x03")
        _write_pairs(out, value, depth)
    else:
        out.append(b"\x0a" + _U32.pack(len(value)))
        for item in value:
            _write(out, item, depth + 1)


def _write_pairs(out: list[bytes], pairs: Mapping[str, Value], depth: int) -> None:
    for key, value in pairs.items():
        name = key.encode()
        if len(name) > 0xFFFF:
            raise ValueError("AMF: key too long")
        out.append(_U16.pack(len(name)) + name)
        _write(out, value, depth + 1)
    out.append(_END)


def decode(data: bytes) -> list[Value]:
    """Return all values of a message.

    Raises:
        FormatError: If the bytes are cut off, unknown, or exceed a limit of this module.
    """
    reader = _Reader(data)
    values: list[Value] = []
    while reader.position < len(data):
        if len(values) == MAX_VALUES:
            raise FormatError(f"AMF: more than {MAX_VALUES} values in a message")
        values.append(reader.value(0))
    return values


class _Reader:
    """A position in a message; every method moves it on."""

    __slots__ = ("_data", "position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def value(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise FormatError(f"AMF: nested deeper than {MAX_DEPTH}")
        marker = self._take(1)[0]
        match marker:
            case Marker.NUMBER:
                number: float = _F64.unpack(self._take(8))[0]
                return number
            case Marker.BOOLEAN:
                return self._take(1) != b"\x00"
            case Marker.STRING:
                return self._text(_U16.unpack(self._take(2))[0])
            case Marker.NULL | Marker.UNDEFINED | Marker.UNSUPPORTED:
                return None
            case Marker.DATE:
                return Date(_DATE_BODY.unpack(self._take(10))[0])
            case Marker.LONG_STRING | Marker.XML_DOCUMENT:
                return self._text(_U32.unpack(self._take(4))[0])
            case _:
                return self._compound(marker, depth)

    def _compound(self, marker: int, depth: int) -> Value:
        if marker == Marker.OBJECT:
            return self._pairs({}, depth, None)
        if marker == Marker.ECMA_ARRAY:
            return self._pairs(EcmaArray(), depth, _U32.unpack(self._take(4))[0])
        if marker == Marker.TYPED_OBJECT:
            self._take(_U16.unpack(self._take(2))[0])
            return self._pairs({}, depth, None)
        if marker == Marker.STRICT_ARRAY:
            count = _U32.unpack(self._take(4))[0]
            if count > MAX_ITEMS:
                raise FormatError(f"AMF: array of {count} values")
            return [self.value(depth + 1) for _ in range(count)]
        raise FormatError(f"AMF: marker 0x{marker:02x} is not supported")

    def _pairs(self, pairs: dict[str, Value], depth: int, count: int | None) -> dict[str, Value]:
        read = 0
        while True:
            # Some encoders leave out the end of an array at the end of a message; the count
            # of an ECMA array is otherwise a mere hint, often 0.
            if read == count and self.position == len(self._data):
                return pairs
            key = self._text(_U16.unpack(self._take(2))[0])
            if not key and self._data[self.position : self.position + 1] == b"\x09":
                self.position += 1
                return pairs
            if read == MAX_KEYS:
                raise FormatError(f"AMF: object with more than {MAX_KEYS} keys")
            pairs[key] = self.value(depth + 1)
            read += 1

    def _text(self, size: int) -> str:
        if size > MAX_STRING:
            raise FormatError(f"AMF: string of {size} bytes")
        # A wrong byte in a title must not cost the publisher his connection.
        return self._take(size).decode(errors="replace")

    def _take(self, size: int) -> bytes:
        start = self.position
        self.position = start + size
        if self.position > len(self._data):
            raise FormatError("AMF: cut off")
        return self._data[start : self.position]
