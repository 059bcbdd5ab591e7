"""RTMP publish: ``rtmp://host/STREAM/KEY``, from OBS, ffmpeg, GStreamer and hardware encoders.

The application names the stream (``live``, ``live+alice``), the stream name is its key, and
``?slot=NAME`` picks a slot. Nothing here waits for anybody: while an encoder's request is decided
its socket is not read, after that every frame goes straight to the publisher.
"""

import asyncio
import contextlib
from typing import ClassVar, cast
from urllib.parse import parse_qs

from common.errors import (
    AccessDenied,
    HeadwaterError,
    NodeUnavailable,
    ProtocolError,
    StreamBusy,
    StreamNotFound,
    TrackUnsupported,
)
from common.formats.rtmp import (
    Audio,
    Data,
    Event,
    PlayRequested,
    PublishRequested,
    ServerConnection,
    State,
    StreamEnded,
    Video,
)
from common.runtime import listen
from common.runtime.loader import Settings
from common.runtime.logs import Limited, Log
from common.runtime.units import Duration
from origin.flv_feed import FlvFeed
from origin.forward import VIA, Forward, Target
from origin.input import Input
from origin.publisher import Publisher

log = Log("origin.rtmp")

CHECK_SECONDS = 0.5
"""Between two looks at a connection's deadlines."""

LINGER_SECONDS = 2.0
"""How long a refused encoder has to read why and to close."""

STOP_SECONDS = 0.3
"""The same when the node stops."""

MAX_UNSENT = 256 * 1024
"""Bytes of answers that wait for an encoder that does not read them. With more it is cut."""

MAX_QUERY_FIELDS = 32
"""Fields in the query of a stream name. With more the publisher is refused."""

_CODES: tuple[tuple[type[HeadwaterError], str], ...] = (
    (AccessDenied, "NetStream.Publish.Denied"),
    (StreamBusy, "NetStream.Publish.BadName"),
    (StreamNotFound, "NetStream.Publish.NotFound"),
    (TrackUnsupported, "NetStream.Publish.Unsupported"),
    (NodeUnavailable, "NetStream.Publish.Unavailable"),
)
_FAILED = "NetStream.Publish.Failed"


class RtmpSettings(Settings, frozen=True):
    """``[origin.inputs.rtmp]``."""

    listen: str = "[::]:1935"
    """Address for encoders; ``origin.rtmp`` unless set here."""

    handshake: Duration = Duration(5)
    """Longest time a connection may take to say what RTMP begins with. Then it is shut."""

    publish: Duration = Duration(10)
    """Longest time from then on, or from the end of a stream, to the request to publish. Then the
    connection is shut."""

    silence: Duration = Duration(30)
    """How long a publisher may send nothing. Then it is disconnected."""

    connections: int = 1000
    """Connections at a time. Further ones are shut at once."""

    connections_per_address: int = 64
    """Connections at a time from one address. Further ones are shut at once."""


class RtmpInput(Input):
    """Takes streams from encoders that publish over RTMP and Enhanced RTMP."""

    description: ClassVar[str] = "RTMP publish"
    endpoint: ClassVar[str] = "rtmp"
    schema: ClassVar[type[RtmpSettings]] = RtmpSettings
    settings: RtmpSettings

    async def run(self) -> None:
        """Accept encoders until cancelled.

        Raises:
            ListenError: If the address cannot be listened on.
        """
        self._connections: set[Connection] = set()
        self._refusals = Limited(log)
        listener = listen.bind(self.settings.listen, setting="origin.rtmp")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self), sock=listener)
        try:
            self.context.announce(self.endpoint, f"rtmp://{listen.authority(listener)}")
            await loop.create_future()
        finally:
            server.close()
            await asyncio.gather(*(c.stop() for c in tuple(self._connections)))

    def admit(self, connection: "Connection") -> bool:
        """Count a connection in; False if there are too many."""
        same = sum(other.address == connection.address for other in self._connections)
        if (
            len(self._connections) >= self.settings.connections
            or same >= self.settings.connections_per_address
        ):
            self._refusals.warning("connection refused", extra={"peer": connection.peer})
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: "Connection") -> None:
        """Count a connection out."""
        self._connections.discard(connection)


class Connection(asyncio.Protocol):
    """One encoder's socket: bytes to the protocol, its events to a publisher."""

    address = ""
    """The peer's address; empty before the connection is made."""

    peer = ""
    """The peer's address and port."""

    _transport: asyncio.Transport

    def __init__(self, owner: RtmpInput) -> None:
        self._owner = owner
        self._settings = owner.settings
        self._loop = asyncio.get_running_loop()
        self._rtmp = ServerConnection()
        self._feed: FlvFeed | Forward | None = None
        self._request: asyncio.Task[Publisher | Forward] | None = None
        self._asked: PublishRequested | None = None
        self._headers: dict[str, tuple[int, bytes]] = {}
        self._lost = False
        self._held: list[Event] = []
        self._since = self._heard = self._loop.time()
        self._leaving: float | None = None
        self._reason = ""
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._gone = self._loop.create_future()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: nothing is said before the encoder speaks."""
        self._transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername") or ("", 0)
        self.address = name[0]
        self.peer = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        if not self._owner.admit(self):
            self._transport.abort()
            return
        self._check()

    def data_received(self, data: bytes) -> None:
        """Take in bytes."""
        self._heard = self._loop.time()
        self._bytes += len(data)
        if self._leaving is not None:
            return
        try:
            events = self._rtmp.feed(data)
        except ProtocolError as error:
            self._flush()
            self._leave(str(error))
            return
        self._flush()
        self._take(events)

    def connection_lost(self, error: Exception | None) -> None:
        """End: the publisher may come back."""
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._reason = self._reason or (str(error) if error else "closed by the encoder")
            self._close_feed(self._reason)
            extra = {"peer": self.peer, "reason": self._reason, "bytes": self._bytes}
            log.info("connection closed", extra=extra)
        if self._request is None:
            self._finish()

    # Events.

    def _take(self, events: list[Event]) -> None:
        for position, event in enumerate(events):
            if self._leaving is not None:
                return
            if self._request is not None:
                self._held += events[position:]
                return
            try:
                self._act(event)
            except HeadwaterError as error:
                self._refuse(error)

    def _act(self, event: Event) -> None:
        match event:
            case Video():
                if self._feed is not None:
                    self._feed.video(event.timestamp, event.body)
            case Audio():
                if self._feed is not None:
                    self._feed.audio(event.timestamp, event.body)
            case Data():
                if self._feed is not None:
                    self._feed.data(event.timestamp, event.name, event.values)
            case PublishRequested():
                self._asked = event
                self._inquire(event)
            case PlayRequested():
                text = "this is an origin; play the stream from an edge"
                self._reject("NetStream.Play.StreamNotFound", text)
            case StreamEnded():
                self._since = self._loop.time()
                self._close_feed(event.reason, ended=True)
            case _:
                pass

    def _inquire(self, event: PublishRequested) -> None:
        self._transport.pause_reading()
        self._request = self._loop.create_task(self._ask(event))
        self._request.add_done_callback(self._answered)

    async def _ask(self, event: PublishRequested) -> Publisher | Forward:
        try:
            fields = parse_qs(event.query, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError as error:
            raise ProtocolError("too many fields in the query") from error
        slot, via = fields.get("slot", ["main"])[0], VIA in fields
        streams = self._owner.streams
        owner = None if via else await streams.elsewhere(event.app, event.name)
        if owner is not None:
            # Whose place there is taken, or who cannot be reached, is followed instead.
            with contextlib.suppress(StreamBusy, NodeUnavailable, AccessDenied):
                target = Target.of(owner, self._owner.context.node, event)
                return await Forward.open(target, owner.stream)
        return await streams.publish(
            event.app, event.name, slot=slot, peer=self.peer, protocol="rtmp", forwarded=via
        )

    def _answered(self, request: asyncio.Task[Publisher | Forward]) -> None:
        """Tell the encoder what came of its request."""
        self._request = None
        if self._lost:
            self._finish()
        if request.cancelled():
            return
        error = request.exception()
        if isinstance(error, HeadwaterError):
            self._refuse(error)
        elif error is not None:
            self._transport.abort()
            raise error
        else:
            self._begin(request.result())

    def _begin(self, publisher: Publisher | Forward) -> None:
        gave_up = any(isinstance(event, StreamEnded) for event in self._held)
        if isinstance(publisher, Forward):
            self._pass_on(publisher, gave_up)
        elif self._lost or self._leaving is not None or gave_up:
            publisher.close("the encoder left while it was let in")
        elif publisher.closed:
            self._dismissed(publisher.closed)
        else:
            publisher.on_close = self._dismissed
            self._feed = FlvFeed(publisher, log.bind(stream=publisher.stream, peer=self.peer))
            for kind, header in self._headers.items():
                (self._feed.video if kind == "video" else self._feed.audio)(*header)
            self._accept()
        self._transport.resume_reading()
        held, self._held = self._held, []
        self._take(held)

    def _accept(self) -> None:
        if self._rtmp.state is State.PUBLISH_ASKED:
            self._rtmp.accept()
            self._flush()

    def _pass_on(self, forward: Forward, gave_up: bool) -> None:
        """Let the owner have what the encoder sends."""
        if self._lost or self._leaving is not None or gave_up:
            forward.close()
            return
        forward.on_lost = self._returned
        self._feed = forward
        for kind, header in self._headers.items():
            (forward.video if kind == "video" else forward.audio)(*header)
        self._accept()

    def _returned(self, reason: str) -> None:
        """The owner does not take the stream any more: ask again what is to be done with it."""
        if isinstance(self._feed, Forward):
            self._headers = self._feed.headers()
        self._feed = None
        if self._asked is not None and self._leaving is None and not self._lost:
            self._inquire(self._asked)

    def _dismissed(self, reason: str) -> None:
        """The origin has ended the visit: somebody took over, or the node stops."""
        self._reject("NetStream.Publish.BadName", reason)

    # Endings.

    def _refuse(self, error: HeadwaterError) -> None:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), _FAILED)
        self._reject(code, str(error))

    def _reject(self, code: str, text: str) -> None:
        """Tell the encoder why, then part."""
        if self._leaving is not None or self._lost:
            return
        self._rtmp.reject(code, text)
        self._leave(text)

    def _leave(self, reason: str) -> None:
        """Send what is unsent, then close; the encoder has a moment to read it.

        Closing at once would be a reset: the encoder is still sending, and a reset also wipes out
        what it has not read yet.
        """
        self._leaving = self._loop.time()
        self._reason = reason
        self._held.clear()
        self._close_feed(reason)
        if self._transport.is_closing():
            return
        self._flush()
        self._transport.resume_reading()
        self._transport.write_eof()

    def _close_feed(self, reason: str, ended: bool = False) -> None:
        feed = self._feed
        if feed is None:
            return
        self._feed = None
        if isinstance(feed, Forward):
            feed.close(ended)
            return
        feed.publisher.on_close = None
        feed.publisher.close(reason, ended)

    def _flush(self) -> None:
        out = self._rtmp.data_to_send()
        if out and not self._transport.is_closing():
            self._transport.writelines(out)

    def _check(self) -> None:
        """Look at the deadlines, now and then again."""
        now = self._loop.time()
        settings, state = self._settings, self._rtmp.state
        if self._leaving is not None:
            if now - self._leaving > LINGER_SECONDS:
                self._transport.abort()
        elif self._transport.get_write_buffer_size() > MAX_UNSENT:
            self._reason = "does not read our answers"
            self._transport.abort()
        elif state is State.HANDSHAKE:
            if now - self._since > settings.handshake:
                self._leave(f"no handshake within {settings.handshake}")
        elif state in (State.NEW, State.IDLE):
            if now - self._since > settings.publish:
                self._leave(f"nothing published within {settings.publish}")
        elif state is State.PUBLISHING and now - self._heard > settings.silence:
            self._reject("NetStream.Publish.Idle", f"silent for {settings.silence}")
        self._timer = self._loop.call_later(CHECK_SECONDS, self._check)

    async def stop(self) -> None:
        """Send the encoder away because the node stops; return when its socket is closed."""
        if self._request is not None:
            self._request.cancel()
        if self._leaving is None and self._rtmp.can_reconnect:
            self._rtmp.request_reconnect("this server is stopping")
        if self._leaving is None:
            self._leave("the origin is stopping")
        await asyncio.wait((self._gone,), timeout=STOP_SECONDS)
        self._transport.abort()
        await self._gone

    def _finish(self) -> None:
        self._owner.forget(self)
        if not self._gone.done():
            self._gone.set_result(None)
