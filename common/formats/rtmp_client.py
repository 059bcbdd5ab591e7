"""The client's end of an RTMP connection: it publishes to a server or plays from one."""

from common.errors import ProtocolError
from common.formats.amf import Value
from common.formats.rtmp_chunk import MessageType
from common.formats.rtmp_events import (
    Connected,
    Event,
    ReconnectRequested,
    Refused,
    Started,
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

_BUFFER_MS = 3000
_ENDS = ("NetStream.Play.Stop", "NetStream.Play.Complete", "NetStream.Play.UnpublishNotify")


class ClientConnection(Session):
    """A connection that we open.

    Events: ``Connected``, then call :meth:`publish` or :meth:`play`; ``Started``; ``Audio``,
    ``Video`` and ``Data`` while playing; ``Refused``, ``StreamEnded``, ``ReconnectRequested``.
    """

    def __init__(self, app: str, tc_url: str, agent: str = "Headwater") -> None:
        super().__init__()
        self._app = app
        self._tc_url = tc_url
        self._agent = agent
        self._name = ""
        self._transaction = 0
        self._asked: dict[float, str] = {}
        self._out.append(self._hello())

    def publish(self, name: str) -> None:
        """Ask to publish under ``name``, which may carry a query."""
        self._ask(name, State.PUBLISH_ASKED)
        self._call("releaseStream", None, name)
        self._call("FCPublish", None, name)
        self._call("createStream", None)

    def play(self, name: str) -> None:
        """Ask to play ``name``, which may carry a query."""
        self._ask(name, State.PLAY_ASKED)
        self._call("createStream", None)

    def stop(self) -> None:
        """Stop publishing or playing."""
        if self.state is State.PUBLISHING:
            self._call("FCUnpublish", None, self._name)
        self._say("deleteStream", 0, None, self._stream)
        self.state = State.IDLE

    def _ask(self, name: str, state: State) -> None:
        if self.state is not State.IDLE:
            raise ProtocolError(f"RTMP client: cannot ask for a stream while {self.state.value}")
        self._name = name
        self.state = state

    def _call(self, name: str, *arguments: Value, stream: int = 0) -> None:
        self._transaction += 1
        self._asked[self._transaction] = name
        self._say(name, self._transaction, *arguments, stream=stream)

    def _greet(self, block: bytes) -> None:
        self._out.append(block)

    def _opened(self) -> None:
        self._control(MessageType.SET_CHUNK_SIZE, CHUNK_SIZE)
        self._control(MessageType.WINDOW_ACK_SIZE, WINDOW)
        properties: dict[str, Value] = {
            "app": self._app,
            "type": "nonprivate",
            "flashVer": self._agent,
            "tcUrl": self._tc_url,
            **enhanced_properties(Capability.RECONNECT | Capability.MOD_EX),
        }
        self._call("connect", properties)

    def _takes_media(self) -> bool:
        return self.state is State.PLAYING

    def _command(self, command: Command, events: list[Event]) -> None:
        if command.name in ("_result", "_error"):
            asked = self._asked.pop(command.transaction, None)
            if asked == "connect":
                self._connected(command, events)
            elif asked == "createStream":
                self._created(command, events)
        elif command.name == "onStatus":
            self._status(_properties(command, 1), events)

    def _connected(self, command: Command, events: list[Event]) -> None:
        if command.name == "_error":
            self._refused(_properties(command, 1), events)
            return
        self.state = State.IDLE
        events.append(Connected(self._app, _properties(command, 0) | _properties(command, 1)))

    def _created(self, command: Command, events: list[Event]) -> None:
        value = command.arguments[1] if len(command.arguments) > 1 else None
        if command.name == "_error" or not isinstance(value, float) or not 0 < value < 2**32:
            self._refused(_properties(command, 1), events)
            return
        self._stream = int(value)
        if self.state is State.PUBLISH_ASKED:
            self._call("publish", None, self._name, "live", stream=self._stream)
        elif self.state is State.PLAY_ASKED:
            self._call("play", None, self._name, -2000, stream=self._stream)
            tail = _BUFFER_MS.to_bytes(4, "big")
            self._user_control(UserControl.SET_BUFFER_LENGTH, self._stream, tail)

    def _status(self, info: dict[str, Value], events: list[Event]) -> None:
        code = limited_text(info.get("code"))
        if info.get("level") == "error":
            self._refused(info, events)
        elif code == "NetConnection.Connect.ReconnectRequest":
            text = limited_text(info.get("description"))
            events.append(ReconnectRequested(limited_text(info.get("tcUrl")), text))
        elif code == "NetStream.Publish.Start" and self.state is State.PUBLISH_ASKED:
            self.state = State.PUBLISHING
            events.append(Started())
        elif code == "NetStream.Play.Start" and self.state is State.PLAY_ASKED:
            self.state = State.PLAYING
            events.append(Started())
        elif code in _ENDS and self.state is State.PLAYING:
            self.state = State.IDLE
            events.append(StreamEnded(code))

    def _refused(self, info: dict[str, Value], events: list[Event]) -> None:
        self.state = State.CLOSED
        code, text = limited_text(info.get("code")), limited_text(info.get("description"))
        events.append(Refused(code, text))


def _properties(command: Command, position: int) -> dict[str, Value]:
    value = command.arguments[position] if position < len(command.arguments) else None
    return dict(value) if isinstance(value, dict) else {}
