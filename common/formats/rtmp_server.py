"""The server's end of an RTMP connection: encoders publish to it, players play from it."""

from collections.abc import Callable

from common.errors import ProtocolError
from common.formats.amf import Value
from common.formats.rtmp_chunk import MessageType
from common.formats.rtmp_events import (
    Connected,
    Event,
    PlayRequested,
    PublishRequested,
    StreamEnded,
)
from common.formats.rtmp_session import (
    CHUNK_SIZE,
    WINDOW,
    Capability,
    Command,
    Session,
    State,
    UserControl,
    enhanced_properties,
    limited_text,
)

MAX_STREAMS = 1000
"""createStream calls of one connection; an encoder makes one for each publish. With one more the
connection ends."""

_DYNAMIC = b"\x02"
_VERSION = "FMS/3,5,7,7009"
_CAPABILITIES = 31.0

_ASKED = {State.PUBLISH_ASKED: "Publish", State.PLAY_ASKED: "Play"}
_RUNNING = {State.PUBLISHING: "Publish", State.PLAYING: "Play"}


class ServerConnection(Session):
    """A connection that a client opened.

    Events: ``Connected``; ``PublishRequested`` or ``PlayRequested``, to be answered with
    :meth:`accept` or :meth:`reject`; ``Audio``, ``Video`` and ``Data`` of a publisher, also those
    that it sent before the answer; ``StreamEnded``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.can_reconnect = False
        """Whether the client follows :meth:`request_reconnect`."""

        self._app = ""
        self._app_query = ""
        self._streams = 0
        self._commands: dict[str, Callable[[Command, list[Event]], None]] = {
            "connect": self._connect,
            "createStream": self._create_stream,
            "publish": self._publish,
            "play": self._play,
            "deleteStream": self._delete_stream,
            "closeStream": self._close_stream,
            "FCUnpublish": self._unpublish,
            "getStreamLength": self._stream_length,
        }

    def accept(self) -> None:
        """Let the client publish or play.

        Raises:
            ProtocolError: If it asks for neither now.
        """
        what = _ASKED.get(self.state)
        if what is None:
            raise ProtocolError(f"RTMP: nothing to accept while {self.state.value}")
        self._user_control(UserControl.STREAM_BEGIN, self._stream)
        if self.state is State.PLAY_ASKED:
            self._status("status", "NetStream.Play.Reset", "playing anew")
        self._status("status", f"NetStream.{what}.Start", "go ahead")
        self.state = State.PUBLISHING if what == "Publish" else State.PLAYING

    def reject(self, code: str, text: str) -> None:
        """Tell the client why it may not publish or play, or no longer; then close.

        ``code`` as in ``NetStream.Publish.BadName``. Send the reply before closing the socket.
        """
        self._status("error", code, text)
        self.state = State.CLOSED

    def request_reconnect(self, text: str, tc_url: str = "") -> None:
        """Ask a client to connect again, here or at ``tc_url`` (Enhanced RTMP)."""
        info: dict[str, Value] = {
            "level": "status",
            "code": "NetConnection.Connect.ReconnectRequest",
            "description": text,
        }
        if tc_url:
            info["tcUrl"] = tc_url
        self._say("onStatus", 0, None, info)

    def _greet(self, block: bytes) -> None:
        self._out += (self._hello(), block)

    def _opened(self) -> None:
        """Wait for the client to speak."""

    def _takes_media(self) -> bool:
        return self.state in (State.PUBLISHING, State.PUBLISH_ASKED)

    def _command(self, command: Command, events: list[Event]) -> None:
        if self.state is State.CLOSED:
            return
        if (self.state is State.NEW) != (command.name == "connect"):
            name = command.name[:40]
            raise ProtocolError(f"RTMP server: command {name!r} while {self.state.value}")
        handle = self._commands.get(command.name)
        if handle is not None:
            handle(command, events)
        else:
            # releaseStream, FCPublish, _checkbw, FCSubscribe...: all a client needs is an answer.
            self._result(command, None)

    def _connect(self, command: Command, events: list[Event]) -> None:
        properties = command.arguments[0] if command.arguments else None
        if not isinstance(properties, dict):
            raise ProtocolError("RTMP server: connect without a command object")
        app, _, self._app_query = limited_text(properties.get("app")).partition("?")
        limited_text(properties.get("tcUrl"))
        self._app = app.strip("/")
        caps = properties.get("capsEx")
        self.can_reconnect = isinstance(caps, float) and caps % 2 >= Capability.RECONNECT
        self.state = State.IDLE
        enhanced = enhanced_properties(Capability.RECONNECT | Capability.MOD_EX)
        info: dict[str, Value] = {
            "level": "status",
            "code": "NetConnection.Connect.Success",
            "description": "connected",
            "objectEncoding": 0,
            **enhanced,
        }
        self._control(MessageType.WINDOW_ACK_SIZE, WINDOW)
        self._control(MessageType.SET_PEER_BANDWIDTH, WINDOW, _DYNAMIC)
        self._control(MessageType.SET_CHUNK_SIZE, CHUNK_SIZE)
        first: dict[str, Value] = {"fmsVer": _VERSION, "capabilities": _CAPABILITIES, **enhanced}
        self._say("_result", command.transaction, first, info)
        events.append(Connected(self._app, properties))

    def _create_stream(self, command: Command, events: list[Event]) -> None:
        if self._streams >= MAX_STREAMS:
            raise ProtocolError(f"RTMP server: more than {MAX_STREAMS} streams on a connection")
        self._streams += 1
        self._result(command, self._streams)

    def _publish(self, command: Command, events: list[Event]) -> None:
        name, query = self._ask(command, State.PUBLISH_ASKED)
        events.append(PublishRequested(self._app, name, query))

    def _play(self, command: Command, events: list[Event]) -> None:
        name, query = self._ask(command, State.PLAY_ASKED)
        events.append(PlayRequested(self._app, name, query))

    def _ask(self, command: Command, state: State) -> tuple[str, str]:
        if self.state is not State.IDLE:
            raise ProtocolError(f"RTMP server: command {command.name!r} while {self.state.value}")
        name, _, query = command.text(1).partition("?")
        self.state = state
        self._stream = command.stream
        return name, "&".join(part for part in (self._app_query, query) if part)

    def _delete_stream(self, command: Command, events: list[Event]) -> None:
        # GStreamer's rtmp2sink names its stream here with a string.
        which = command.arguments[1] if len(command.arguments) > 1 else None
        if not isinstance(which, float) or which == self._stream:
            self._end(command, events)

    def _close_stream(self, command: Command, events: list[Event]) -> None:
        if command.stream in (0, self._stream):
            self._end(command, events)

    def _unpublish(self, command: Command, events: list[Event]) -> None:
        self._result(command, None)
        self._end(command, events)

    def _end(self, command: Command, events: list[Event]) -> None:
        if self.state is State.IDLE:
            return
        what = _RUNNING.get(self.state)
        if what is not None:
            code = "NetStream.Unpublish.Success" if what == "Publish" else "NetStream.Play.Stop"
            self._status("status", code, "stopped")
        self.state = State.IDLE
        events.append(StreamEnded(command.name))

    def _stream_length(self, command: Command, events: list[Event]) -> None:
        self._result(command, 0)

    def _result(self, command: Command, value: Value) -> None:
        # Transaction 0 wants no answer; GStreamer's rtmp2sink uses it for releaseStream.
        if command.transaction:
            self._say("_result", command.transaction, None, value)

    def _status(self, level: str, code: str, text: str) -> None:
        info: dict[str, Value] = {"level": level, "code": code, "description": text}
        self._say("onStatus", 0, None, info, stream=self._stream)
