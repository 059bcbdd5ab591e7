"""RTMP without sockets, both ends: see :class:`ServerConnection` and :class:`ClientConnection`."""

from common.formats.rtmp_client import ClientConnection
from common.formats.rtmp_events import (
    Audio,
    Connected,
    Data,
    Event,
    PlayRequested,
    PublishRequested,
    ReconnectRequested,
    Refused,
    Started,
    StreamEnded,
    Video,
)
from common.formats.rtmp_server import ServerConnection
from common.formats.rtmp_session import State

__all__ = [
    "Audio",
    "ClientConnection",
    "Connected",
    "Data",
    "Event",
    "PlayRequested",
    "PublishRequested",
    "ReconnectRequested",
    "Refused",
    "ServerConnection",
    "Started",
    "State",
    "StreamEnded",
    "Video",
]
