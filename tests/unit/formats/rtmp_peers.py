"""Both ends of RTMP for the tests: ours against ours, and foreign ones that say anything."""

from common.formats import amf
from common.formats.rtmp import (
    ClientConnection,
    Event,
    ServerConnection,
)
from common.formats.rtmp_chunk import ChunkReader, ChunkWriter, Message, MessageType

COMMAND = MessageType.COMMAND


class Pair:
    """A client and a server, and the wire between them."""

    def __init__(self, app: str = "live") -> None:
        self.client = ClientConnection(app, f"rtmp://origin/{app}")
        self.server = ServerConnection()

    def settle(self) -> tuple[list[Event], list[Event]]:
        """Carry bytes both ways until nobody has more to say; return (server, client) events."""
        at_server: list[Event] = []
        at_client: list[Event] = []
        while True:
            up = b"".join(self.client.data_to_send())
            down = b"".join(self.server.data_to_send())
            if not up and not down:
                return at_server, at_client
            at_server += self.server.feed(up)
            at_client += self.client.feed(down)


class Encoder:
    """A foreign encoder: says what it is told, whatever the order."""

    def __init__(self) -> None:
        self.server = ServerConnection()
        self._writer = ChunkWriter()
        self._reader = ChunkReader()
        self.server.feed(b"\x03" + bytes(1536))
        answer = b"".join(self.server.data_to_send())
        assert len(answer) == 1 + 2 * 1536
        assert answer[0] == 3
        self.server.feed(answer[1:1537])

    def send(self, kind: int, body: bytes, stream: int = 0, time: int = 0) -> list[Event]:
        return self.server.feed(self._writer.message(3, Message(kind, time, stream, body)))

    def call(self, *values: amf.Value, stream: int = 0) -> list[Event]:
        return self.send(COMMAND, amf.encode(*values), stream)

    def heard(self) -> list[Message]:
        return self._reader.feed(b"".join(self.server.data_to_send()))

    def answers(self) -> list[list[amf.Value]]:
        return [amf.decode(m.body) for m in self.heard() if m.type == COMMAND]

    def connect(self, **more: amf.Value) -> list[Event]:
        return self.call("connect", 1, {"app": "live", "tcUrl": "rtmp://o/live", **more})

    def publish(self, name: str = "KEY") -> list[Event]:
        self.connect()
        self.call("createStream", 4, None)
        self.heard()
        return self.call("publish", 5, None, name, "live", stream=1)

    def publishing(self) -> "Encoder":
        self.publish()
        self.server.accept()
        self.heard()
        return self


class Server:
    """A foreign server: answers a client as it is told."""

    def __init__(self) -> None:
        self.client = ClientConnection("live", "rtmp://s/live")
        self._writer = ChunkWriter()
        self.client.feed(b"\x03" + bytes(1536) + bytes(1536))
        self.client.data_to_send()

    def say(self, *values: amf.Value, stream: int = 0) -> list[Event]:
        message = Message(COMMAND, 0, stream, amf.encode(*values))
        return self.client.feed(self._writer.message(3, message))
