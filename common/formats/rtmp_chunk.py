"""The chunk stream of RTMP: messages cut into chunks, several chunk streams interleaved.

Adobe RTMP 1.0 (2012), section 5.3; message types of 5.4, 6 and 7.1.
"""

from enum import IntEnum
from typing import NamedTuple

from common.errors import FormatError

DEFAULT_CHUNK_SIZE = 128
"""Bytes of a chunk until a peer says otherwise (5.4.1)."""

MAX_CHUNK_SIZE = 1024 * 1024
"""Bytes of a chunk that a peer may choose; one is buffered at most. A larger size is a FormatError:
the connection ends."""

MAX_CHUNK_STREAMS = 64
"""Chunk streams a peer may open; encoders use four. More are a FormatError: the connection ends."""

MAX_MESSAGE = 8 * 1024 * 1024
"""Bytes of one message; a keyframe of 8 MiB is one second at 64 Mbit/s. A longer one is a
FormatError: the connection ends."""

MAX_IN_FLIGHT = 16 * 1024 * 1024
"""Bytes of unfinished messages on all chunk streams together. More are a FormatError: the
connection ends."""

EXTENDED = 0xFFFFFF
"""This in the timestamp field says that four more bytes follow (5.3.1.3)."""

_WRAP = 0xFFFFFFFF
_HEADER_SIZES = (11, 7, 3, 0)
_SLOW_START_MS = 1000


class MessageType(IntEnum):
    """Message type ids."""

    SET_CHUNK_SIZE = 1
    ABORT = 2
    ACKNOWLEDGEMENT = 3
    USER_CONTROL = 4
    WINDOW_ACK_SIZE = 5
    SET_PEER_BANDWIDTH = 6
    AUDIO = 8
    VIDEO = 9
    DATA_AMF3 = 15
    COMMAND_AMF3 = 17
    DATA = 18
    COMMAND = 20
    AGGREGATE = 22


class Message(NamedTuple):
    """One whole message."""

    type: int
    """A :class:`MessageType`, or a number that this module knows nothing of."""

    timestamp: int
    """Milliseconds, 32 bits."""

    stream: int
    """Message stream id: 0 is the connection itself."""

    body: bytes


class _ChunkStream:
    """The last header of one chunk stream, and what has come of its unfinished message."""

    __slots__ = (
        "delta",
        "extended",
        "field",
        "length",
        "pending",
        "stream",
        "timestamp",
        "type",
    )

    def __init__(self) -> None:
        self.timestamp = 0
        self.delta = 0
        self.field = 0
        self.extended = False
        self.length = 0
        self.type = 0
        self.stream = 0
        self.pending: bytearray | None = None


class ChunkReader:
    """Put messages together from bytes.

    Chunk size and abort messages take effect here and are not returned.
    """

    def __init__(self) -> None:
        self.chunk_size = DEFAULT_CHUNK_SIZE
        self._buffer = bytearray()
        self._streams: dict[int, _ChunkStream] = {}
        self._in_flight = 0

    def feed(self, data: bytes) -> list[Message]:
        """Take in bytes and return the messages they completed.

        Raises:
            FormatError: If no encoder sends this, or a limit of this module is exceeded.
        """
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        position = 0
        with memoryview(buffer) as view:
            while (after := self._chunk(view, position, messages)) is not None:
                position = after
        if position:
            del buffer[:position]
        return messages

    def _chunk(self, view: memoryview, position: int, messages: list[Message]) -> int | None:
        """Read the chunk at ``position``; return where the next begins, None if it is not whole."""
        end = len(view)
        if position >= end:
            return None
        first = view[position]
        form = first >> 6
        number = first & 0x3F
        position += 1
        if number < 2:
            # 5.3.1.1: the id is in the next byte or in the next two, less 64.
            size = number + 1
            if position + size > end:
                return None
            number = 64 + int.from_bytes(view[position : position + size], "little")
            position += size
        start = position + _HEADER_SIZES[form]
        if start > end:
            return None
        stream = self._streams.get(number) or self._open(number, form)
        if form == 3:
            header = self._repeated(stream, view, start)
        else:
            header = self._header(stream, form, view, position)
        if header is None:
            return None
        start, length, kind, field, extended = header
        pending = stream.pending
        want = length - len(pending) if pending is not None else length
        if want > self.chunk_size:
            want = self.chunk_size
        after = start + want
        if after > end:
            return None
        if pending is None:
            self._begin(stream, form, field, extended)
            stream.length = length
            stream.type = kind
            if form == 0:
                stream.stream = int.from_bytes(view[position + 7 : position + 11], "little")
            if want == length:
                self._complete(stream, bytes(view[start:after]), messages)
                return after
            stream.pending = pending = bytearray()
        self._in_flight += want
        if self._in_flight > MAX_IN_FLIGHT:
            raise FormatError(f"RTMP: more than {MAX_IN_FLIGHT} bytes of unfinished messages")
        pending += view[start:after]
        if len(pending) == length:
            self._in_flight -= length
            stream.pending = None
            self._complete(stream, bytes(pending), messages)
        return after

    def _open(self, number: int, form: int) -> _ChunkStream:
        # librtmp begins the control chunk stream with a header of form 1; 2 and 3 need more
        # from before than there is.
        if form > 1:
            raise FormatError(f"RTMP: chunk stream {number} begins with a header of form {form}")
        if len(self._streams) >= MAX_CHUNK_STREAMS:
            raise FormatError(f"RTMP: more than {MAX_CHUNK_STREAMS} chunk streams")
        stream = self._streams[number] = _ChunkStream()
        return stream

    def _header(
        self, stream: _ChunkStream, form: int, view: memoryview, position: int
    ) -> tuple[int, int, int, int, bool] | None:
        """Read a header of form 0, 1 or 2: start of the data, length, type, field, extended."""
        if stream.pending is not None:
            raise FormatError("RTMP: a new message begins inside an unfinished one")
        field = int.from_bytes(view[position : position + 3], "big")
        if form < 2:
            length = int.from_bytes(view[position + 3 : position + 6], "big")
            kind = view[position + 6]
            if length > MAX_MESSAGE:
                raise FormatError(f"RTMP: message of {length} bytes")
        else:
            length, kind = stream.length, stream.type
        start = position + _HEADER_SIZES[form]
        if field != EXTENDED:
            return start, length, kind, field, False
        if start + 4 > len(view):
            return None
        return start + 4, length, kind, int.from_bytes(view[start : start + 4], "big"), True

    def _repeated(
        self, stream: _ChunkStream, view: memoryview, start: int
    ) -> tuple[int, int, int, int, bool] | None:
        """The same for form 3, which has no header of its own."""
        if stream.extended:
            if start + 4 > len(view):
                return None
            # Repeated by the specification (5.3.1.3), left out by some encoders: look whether
            # what stands here is the timestamp, as sent or as it came out.
            seen = int.from_bytes(view[start : start + 4], "big")
            if seen in (stream.field, stream.timestamp):
                start += 4
        return start, stream.length, stream.type, stream.field, stream.extended

    def _begin(self, stream: _ChunkStream, form: int, field: int, extended: bool) -> None:
        """Work out the timestamp of the message whose first chunk this is."""
        stream.field = field
        stream.extended = extended
        if form == 0:
            stream.timestamp = field
            # 5.3.1.2.4: a form 3 that follows repeats the timestamp as its delta. Encoders do
            # this in the first moments only; later it can but mean "no change".
            stream.delta = field if field < _SLOW_START_MS else 0
            return
        if form < 3:
            stream.delta = field
        stream.timestamp = (stream.timestamp + stream.delta) & _WRAP

    def _complete(self, stream: _ChunkStream, body: bytes, messages: list[Message]) -> None:
        if stream.type > MessageType.ABORT:
            messages.append(Message(stream.type, stream.timestamp, stream.stream, body))
        elif stream.type == MessageType.SET_CHUNK_SIZE:
            self.chunk_size = _chunk_size(body)
        elif stream.type == MessageType.ABORT:
            self._abort(_u32(body, "abort"))

    def _abort(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None and stream.pending is not None:
            self._in_flight -= len(stream.pending)
            stream.pending = None


def _chunk_size(body: bytes) -> int:
    # The first bit must be zero (5.4.1).
    size = _u32(body, "chunk size")
    if not 1 <= size <= MAX_CHUNK_SIZE:
        raise FormatError(f"RTMP: chunk size {size}, allowed are 1 to {MAX_CHUNK_SIZE}")
    return size


def _u32(body: bytes, what: str) -> int:
    if len(body) < 4:
        raise FormatError(f"RTMP: {what} message of {len(body)} bytes")
    return int.from_bytes(body[:4], "big")


def chunked(number: int, message: Message, chunk_size: int) -> bytes:
    """Return a message in chunks of its own: with a full header, needing nothing from before.

    The bytes are the same for every viewer with this chunk size, so they can be shared.
    ``number`` is the chunk stream, 2 to 63.
    """
    time = message.timestamp & _WRAP
    return _chunks(number, 0, time, message, chunk_size)


class _Sent(NamedTuple):
    """The header of the last message on a chunk stream; no delta after a full header."""

    time: int
    delta: int | None
    size: int
    type: int
    stream: int


class ChunkWriter:
    """Turn messages into chunks with the shortest headers that say it."""

    def __init__(self) -> None:
        self.chunk_size = DEFAULT_CHUNK_SIZE
        self._last: dict[int, _Sent] = {}

    def message(self, number: int, message: Message) -> bytes:
        """Return the chunks of ``message`` on chunk stream ``number``, 2 to 63.

        A new chunk size takes effect after its own message.
        """
        time = message.timestamp & _WRAP
        size = len(message.body)
        form, field, delta = 0, time, None
        last = self._last.get(number)
        if last is not None and last.stream == message.stream and time >= last.time:
            form, field = 1, time - last.time
            delta = field
            if last.type == message.type and last.size == size:
                form = 3 if delta == last.delta else 2
        self._last[number] = _Sent(time, delta, size, message.type, message.stream)
        data = _chunks(number, form, field, message, self.chunk_size)
        if message.type == MessageType.SET_CHUNK_SIZE:
            self.chunk_size = _chunk_size(message.body)
        return data


def _chunks(number: int, form: int, field: int, message: Message, chunk_size: int) -> bytes:
    body = message.body
    extended = field.to_bytes(4, "big") if field >= EXTENDED else b""
    head = b"".join(
        (
            min(field, EXTENDED).to_bytes(3, "big"),
            len(body).to_bytes(3, "big"),
            message.type.to_bytes(1, "big"),
            message.stream.to_bytes(4, "little"),
        )
    )[: _HEADER_SIZES[form]]
    basic = (form << 6 | number).to_bytes(1, "big")
    if len(body) <= chunk_size:
        return b"".join((basic, head, extended, body))
    again = (3 << 6 | number).to_bytes(1, "big") + extended
    parts = [basic, head, extended, body[:chunk_size]]
    for start in range(chunk_size, len(body), chunk_size):
        parts += (again, body[start : start + chunk_size])
    return b"".join(parts)
