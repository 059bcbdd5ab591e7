"""What an RTMP connection tells whoever drives it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from common.formats.amf import Value


@dataclass(slots=True)
class Audio:
    """An audio message; :func:`common.formats.flv.parse_audio` reads the body."""

    timestamp: int
    """Milliseconds, 32 bits, as sent."""

    body: bytes


@dataclass(slots=True)
class Video:
    """A video message; :func:`common.formats.flv.parse_video` reads the body."""

    timestamp: int
    """Milliseconds, 32 bits, as sent."""

    body: bytes


@dataclass(slots=True)
class Data:
    """A data message such as ``onMetaData``; ``@setDataFrame`` has been taken off."""

    timestamp: int
    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection is set up: what the peer said of itself."""

    app: str
    """The application, without its query and without slashes at the ends."""

    properties: Mapping[str, Value]
    """To the server: the command object of ``connect``. To the client: of its answer."""


@dataclass(frozen=True, slots=True)
class PublishRequested:
    """A client wants to publish: answer with ``accept()`` or ``reject()``."""

    app: str
    name: str
    """The stream name, which is the key, without its query."""

    query: str
    """What stood behind ``?`` in the application and in the name, joined by ``&``, as sent."""


@dataclass(frozen=True, slots=True)
class PlayRequested:
    """A client wants to play: answer with ``accept()`` or ``reject()``."""

    app: str
    name: str
    query: str


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer has stopped publishing or playing, in good order."""

    reason: str
    """The command or status code that said so."""


@dataclass(frozen=True, slots=True)
class Started:
    """To the client: publishing or playing has begun."""


@dataclass(frozen=True, slots=True)
class Refused:
    """To the client: the server said no, or has cut the stream off."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class ReconnectRequested:
    """To the client: the server wants it elsewhere (Enhanced RTMP)."""

    tc_url: str
    """Where to; empty for the same address again."""

    text: str


Event: TypeAlias = (
    Audio
    | Video
    | Data
    | Connected
    | PublishRequested
    | PlayRequested
    | StreamEnded
    | Started
    | Refused
    | ReconnectRequested
)
