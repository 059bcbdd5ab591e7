"""What both ends of an RTMP connection have in common: handshake, control messages, sending.

Adobe RTMP 1.0 (2012), sections 5.2 (handshake), 5.4 and 7.1 (control), 7.2 (commands); Enhanced
RTMP v2 (Veovera) for the capabilities in ``connect`` and its answer. The digest handshake of
Flash Player 9 is not needed by any encoder: the plain one is always answered.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

from common.errors import FormatError, ProtocolError
from common.formats import amf
from common.formats.amf import Value
from common.formats.flv_tags import AUDIO_FOURCC, VIDEO_FOURCC
from common.formats.rtmp_chunk import ChunkReader, ChunkWriter, Message, MessageType
from common.formats.rtmp_events import Audio, Data, Event, Video

VERSION = 3
HANDSHAKE_SIZE = 1536
CHUNK_SIZE = 65536
"""Bytes of the chunks we send, and that FFmpeg then sends too."""

WINDOW = 2_500_000
"""Bytes between acknowledgements, unless the peer asks for another figure."""

MAX_COMMAND = 64 * 1024
"""Bytes of one command or data message. A longer one is a FormatError: the connection ends."""

MAX_TEXT = 1024
"""Characters of tcUrl, application and stream name. A longer one is an error: the connection
ends."""

_NONCE = bytes(i * 167 + 13 & 0xFF for i in range(HANDSHAKE_SIZE - 8))
"""Bytes 8 to 1535 of our C1 or S1 (5.2.3): told apart from the peer's, not secret."""

_TAG_HEADER = 11
_BACK_POINTER = 4


class State(Enum):
    """Where the conversation is."""

    HANDSHAKE = "handshake"
    NEW = "new"
    """No ``connect`` yet, or no answer to it."""

    IDLE = "idle"
    PUBLISH_ASKED = "publish asked"
    PUBLISHING = "publishing"
    PLAY_ASKED = "play asked"
    PLAYING = "playing"
    CLOSED = "closed"


class ChunkStreamId(IntEnum):
    """The chunk streams we send on; 2 is laid down, the others are habit."""

    CONTROL = 2
    COMMAND = 3
    AUDIO = 4
    DATA = 5
    VIDEO = 6


class UserControl(IntEnum):
    """User control event types (7.1.7)."""

    STREAM_BEGIN = 0
    STREAM_EOF = 1
    SET_BUFFER_LENGTH = 3
    PING_REQUEST = 6
    PING_RESPONSE = 7


class Capability(IntEnum):
    """Bits of ``capsEx``."""

    RECONNECT = 1
    MULTITRACK = 2
    MOD_EX = 4
    NANO_OFFSET = 8


CAN_FORWARD = 4
"""FourCcInfoMask: we pass a codec on without decoding it."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command message."""

    name: str
    transaction: float
    """0 asks for no answer."""

    stream: int
    arguments: tuple[Value, ...]
    """The command object first."""

    def text(self, position: int) -> str:
        """Return the argument at ``position`` if it is a string, else an empty one.

        Raises:
            ProtocolError: If it is longer than any name or URL may be.
        """
        value = self.arguments[position] if position < len(self.arguments) else None
        return limited_text(value)


def limited_text(value: Value) -> str:
    """Return ``value`` if it is a string, else an empty one.

    Raises:
        ProtocolError: If it is longer than any name or URL may be.
    """
    if not isinstance(value, str):
        return ""
    if len(value) > MAX_TEXT:
        raise ProtocolError(f"RTMP: a name or URL of {len(value)} characters")
    return value


def enhanced_properties(capabilities: int) -> dict[str, Value]:
    """Return what Enhanced RTMP adds to ``connect`` and to its answer: the codecs we carry."""
    video = {fourcc.decode(): CAN_FORWARD for fourcc in VIDEO_FOURCC}
    audio = {fourcc.decode(): CAN_FORWARD for fourcc in AUDIO_FOURCC}
    return {
        "fourCcList": [*video, *audio],
        "videoFourCcInfoMap": video,
        "audioFourCcInfoMap": audio,
        "capsEx": capabilities,
    }


class Session(ABC):
    """One RTMP connection without its socket.

    Call :meth:`feed` with what arrived and act on the events it returns; after that, and after
    every other call, send what :meth:`data_to_send` returns. After an error the connection is
    of no more use.
    """

    def __init__(self) -> None:
        self.state = State.HANDSHAKE
        self._reader = ChunkReader()
        self._writer = ChunkWriter()
        self._out: list[bytes] = []
        self._early = bytearray()
        self._greeted = False
        self._received = 0
        self._acknowledged = 0
        self._window = WINDOW
        self._stream = 0

    def data_to_send(self) -> list[bytes]:
        """Return the bytes to send now, to be written in one go."""
        out, self._out = self._out, []
        return out

    def feed(self, data: bytes) -> list[Event]:
        """Take in bytes and return what they mean.

        Raises:
            FormatError: If no peer that speaks RTMP sends this.
            ProtocolError: If the peer may not send this now.
        """
        self._received += len(data)
        if self.state is State.HANDSHAKE:
            data = self._handshake(data)
        events: list[Event] = []
        for message in self._reader.feed(data):
            self._dispatch(message, events)
        if self._received - self._acknowledged >= self._window:
            self._acknowledged = self._received
            self._control(MessageType.ACKNOWLEDGEMENT, self._received & 0xFFFFFFFF)
        return events

    def send_audio(self, timestamp: int, body: bytes) -> None:
        """Send an audio message."""
        self._send_media(ChunkStreamId.AUDIO, MessageType.AUDIO, timestamp, body)

    def send_video(self, timestamp: int, body: bytes) -> None:
        """Send a video message."""
        self._send_media(ChunkStreamId.VIDEO, MessageType.VIDEO, timestamp, body)

    def send_data(self, timestamp: int, name: str, *values: Value) -> None:
        """Send a data message; a publisher's metadata are ``@setDataFrame``, ``onMetaData``."""
        body = amf.encode(name, *values)
        self._send_media(ChunkStreamId.DATA, MessageType.DATA, timestamp, body)

    def ping(self, timestamp: int) -> None:
        """Ask the peer for a sign of life."""
        self._user_control(UserControl.PING_REQUEST, timestamp & 0xFFFFFFFF)

    def _send_media(self, number: int, kind: MessageType, timestamp: int, body: bytes) -> None:
        if self.state not in (State.PUBLISHING, State.PLAYING):
            raise ProtocolError(f"RTMP: no media while {self.state.value}")
        self._send(number, kind, body, self._stream, timestamp)

    # Handshake (5.2). Both ends read a version byte and two blocks of 1536 bytes.

    @abstractmethod
    def _greet(self, block: bytes) -> None:
        """Answer the peer's C1 or S1."""

    @abstractmethod
    def _opened(self) -> None:
        """Go on after the handshake."""

    def _hello(self) -> bytes:
        return VERSION.to_bytes(1, "big") + bytes(8) + _NONCE

    def _handshake(self, data: bytes) -> bytes:
        """Take the handshake in; return what came behind it."""
        early = self._early
        early += data
        if not self._greeted:
            if early and early[0] != VERSION:
                raise FormatError(f"RTMP: version {early[0]}, only {VERSION} is spoken here")
            if len(early) < 1 + HANDSHAKE_SIZE:
                return b""
            self._greet(bytes(early[1 : 1 + HANDSHAKE_SIZE]))
            del early[: 1 + HANDSHAKE_SIZE]
            self._greeted = True
        if len(early) < HANDSHAKE_SIZE:
            return b""
        rest = bytes(early[HANDSHAKE_SIZE:])
        early.clear()
        self.state = State.NEW
        self._opened()
        return rest

    # Receiving.

    @abstractmethod
    def _command(self, command: Command, events: list[Event]) -> None:
        """Act on a command."""

    @abstractmethod
    def _takes_media(self) -> bool:
        """Whether media from the peer mean something now."""

    def _dispatch(self, message: Message, events: list[Event]) -> None:
        kind = message.type
        if kind == MessageType.VIDEO:
            if self._takes_media():
                events.append(Video(message.timestamp, message.body))
        elif kind == MessageType.AUDIO:
            if self._takes_media():
                events.append(Audio(message.timestamp, message.body))
        elif kind in (MessageType.COMMAND, MessageType.COMMAND_AMF3):
            self._command(_read_command(message), events)
        elif kind in (MessageType.DATA, MessageType.DATA_AMF3):
            if self._takes_media() and (data := _read_data(message)) is not None:
                events.append(data)
        elif kind == MessageType.AGGREGATE:
            for part in _unroll(message):
                self._dispatch(part, events)
        elif kind == MessageType.USER_CONTROL:
            self._take_user_control(message.body)
        elif kind == MessageType.WINDOW_ACK_SIZE:
            self._window = max(1, _number(message.body))
        elif kind == MessageType.SET_PEER_BANDWIDTH:
            self._control(MessageType.WINDOW_ACK_SIZE, _number(message.body))

    def _take_user_control(self, body: bytes) -> None:
        if len(body) < 2:
            raise FormatError(f"RTMP: user control message of {len(body)} bytes")
        if int.from_bytes(body[:2], "big") == UserControl.PING_REQUEST:
            self._user_control(UserControl.PING_RESPONSE, _number(body[2:]))

    # Sending.

    def _send(
        self, number: int, kind: MessageType, body: bytes, stream: int = 0, timestamp: int = 0
    ) -> None:
        message = Message(kind, timestamp & 0xFFFFFFFF, stream, body)
        self._out.append(self._writer.message(number, message))

    def _control(self, kind: MessageType, value: int, tail: bytes = b"") -> None:
        self._send(ChunkStreamId.CONTROL, kind, value.to_bytes(4, "big") + tail)

    def _user_control(self, event: UserControl, value: int, tail: bytes = b"") -> None:
        body = struct.pack(">HI", event, value) + tail
        self._send(ChunkStreamId.CONTROL, MessageType.USER_CONTROL, body)

    def _say(self, name: str, transaction: float, *arguments: Value, stream: int = 0) -> None:
        body = amf.encode(name, transaction, *arguments)
        self._send(ChunkStreamId.COMMAND, MessageType.COMMAND, body, stream)


def _values(message: Message) -> list[Value]:
    body = message.body
    if len(body) > MAX_COMMAND:
        raise FormatError(f"RTMP: command or data message of {len(body)} bytes")
    if message.type in (MessageType.COMMAND_AMF3, MessageType.DATA_AMF3) and body[:1] == b"\x00":
        # The format byte: 0 says that AMF 0 values follow.
        body = body[1:]
    return amf.decode(body)


def _read_command(message: Message) -> Command:
    values = _values(message)
    if not values or not isinstance(values[0], str):
        raise FormatError("RTMP: a command without a name")
    transaction = values[1] if len(values) > 1 else 0.0
    if isinstance(transaction, bool) or not isinstance(transaction, int | float):
        raise FormatError(f"RTMP: command {values[0][:40]!r} without a transaction id")
    return Command(values[0], transaction, message.stream, tuple(values[2:]))


def _read_data(message: Message) -> Data | None:
    values = _values(message)
    if values and values[0] == "@setDataFrame":
        del values[0]
    if not values or not isinstance(values[0], str):
        return None
    return Data(message.timestamp, values[0], tuple(values[1:]))


def _unroll(message: Message) -> Iterator[Message]:
    """Take an aggregate message (7.1.6) apart: FLV tags whose first one is at its timestamp."""
    body, position = message.body, 0
    first: int | None = None
    while position < len(body):
        start = position + _TAG_HEADER
        end = start + int.from_bytes(body[position + 1 : position + 4], "big")
        if end > len(body):
            raise FormatError("RTMP: aggregate message cut off")
        time = int.from_bytes(body[position + 4 : position + 7], "big") | body[position + 7] << 24
        first = time if first is None else first
        kind = body[position]
        if kind in (MessageType.AUDIO, MessageType.VIDEO, MessageType.DATA):
            stamp = (message.timestamp + time - first) & 0xFFFFFFFF
            yield Message(kind, stamp, message.stream, body[start:end])
        position = end + _BACK_POINTER


def _number(body: bytes) -> int:
    if len(body) < 4:
        raise FormatError(f"RTMP: control message of {len(body)} bytes")
    return int.from_bytes(body[:4], "big")
