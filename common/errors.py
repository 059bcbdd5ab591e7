"""Every exception that Headwater raises on purpose.

* :exc:`HeadwaterError`
    * :exc:`ConfigError` (exit code 2)
    * :exc:`ListenError` (exit code 3)
    * :exc:`ProtocolError`
        * :exc:`FormatError`
    * :exc:`StreamError`
        * :exc:`StreamNotFound`
        * :exc:`StreamBusy`
        * :exc:`TrackUnsupported`
        * :exc:`PageGone`
        * :exc:`StoreFull`
    * :exc:`AccessDenied`
    * :exc:`NodeUnavailable`
"""


class HeadwaterError(Exception):
    """Base class of all errors raised on purpose; the text tells the person what to do."""

    http_status = 500


class ConfigError(HeadwaterError):
    """A setting is missing, unknown or has a wrong value."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ListenError(HeadwaterError):
    """An address cannot be listened on."""


class ProtocolError(HeadwaterError):
    """The peer did something its protocol forbids; close the connection."""

    http_status = 400


class FormatError(ProtocolError):
    """Bytes that no valid encoder would have produced."""


class StreamError(HeadwaterError):
    """Something about one stream, not about the process."""


class StreamNotFound(StreamError):
    """No such stream, or it is not live."""

    http_status = 404


class StreamBusy(StreamError):
    """Somebody else already publishes here."""

    http_status = 409


class TrackUnsupported(StreamError):
    """A codec, or a way to use it, that Headwater or this protocol cannot carry."""

    http_status = 415


class PageGone(StreamError):
    """The record asked for has left the window."""

    http_status = 410


class StoreFull(StreamError):
    """The page folder has no room for another page."""

    http_status = 507


class AccessDenied(HeadwaterError):
    """The viewer or publisher may not do this."""

    http_status = 403


class NodeUnavailable(HeadwaterError):
    """This node cannot take the request now: full, draining, or not ready."""

    http_status = 503
