"""A publisher that came to the wrong origin, on its way to the right one.

Messages are sent on over RTMP as they came, byte for byte. Whether the owner takes them is the
owner's decision: a place that is free, or whose publisher is silent, can be had.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast
from urllib.parse import quote

from common.errors import AccessDenied, FormatError, HeadwaterError, NodeUnavailable, StreamBusy
from common.formats.amf import Value
from common.formats.flv import TagKind, parse_audio, parse_video
from common.formats.rtmp import ClientConnection, Connected, PublishRequested, Refused, Started
from common.runtime import metrics
from common.runtime.logs import Log
from common.runtime.registry import Owner

ASK_SECONDS = 2.0
"""How long the owner may take to let a publisher in."""

MAX_UNSENT = 16 * 1024 * 1024
"""Bytes that may wait for the owner that a publisher is passed on to. With more it is given up, and
the publisher with it."""

VIA = "via"
"""Field of the query that names the origin which forwards: nobody forwards it again."""

log = Log("origin.forward")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a publisher is to go."""

    @classmethod
    def of(cls, owner: Owner, node: str, event: PublishRequested) -> "Target":
        """Return where the publisher that asked with ``event`` at ``node`` finds the owner.

        Raises:
            NodeUnavailable: If the owner takes nothing over RTMP.
        """
        host = owner.endpoints.get("bus", "").partition("://")[2].rpartition(":")[0]
        port = owner.endpoints.get("rtmp", "").rpartition(":")[2]
        if not host or not port.isdecimal():
            raise NodeUnavailable(f"{owner.node} takes nothing over RTMP")
        query = f"{event.query}&{VIA}={quote(node)}".lstrip("&")
        return cls(host.strip("[]"), int(port), event.app, f"{event.name}?{query}")

    host: str
    port: int
    app: str
    name: str
    """The stream's key, as the encoder gave it, and its query."""


class Forward(asyncio.Protocol):
    """The connection to the owner, for one publisher."""

    _transport: asyncio.Transport

    def __init__(self, target: Target, stream: str) -> None:
        self.stream = stream
        self.on_lost: Callable[[str], None] | None = None
        """Called with the reason when the owner ends it; never after :meth:`close`."""
        url = f"rtmp://{target.host}:{target.port}/{target.app}"
        self._rtmp = ClientConnection(target.app, url)
        self._name = target.name
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._headers: dict[str, tuple[int, bytes]] = {}
        self._closed = False

    @classmethod
    async def open(cls, target: Target, stream: str) -> Self:
        """Connect to the owner and ask it to take the publisher.

        Raises:
            StreamBusy: If somebody publishes there.
            AccessDenied: If the owner does not accept the key.
            NodeUnavailable: If it cannot be reached, or takes too long.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ASK_SECONDS):
                _, forward = await loop.create_connection(
                    lambda: cls(target, stream), target.host, target.port
                )
                try:
                    await forward._answer
                except BaseException:
                    forward.close()
                    raise
        except (TimeoutError, OSError) as error:
            raise NodeUnavailable(f"the origin of {stream} does not answer: {error}") from error
        metrics.FORWARDED.labels(stream).inc()
        log.info("publisher forwarded", extra={"stream": stream, "peer": target.host})
        return forward

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take in what the owner says."""
        try:
            for event in self._rtmp.feed(data):
                if isinstance(event, Connected):
                    self._rtmp.publish(self._name)
                elif isinstance(event, Started) and not self._answer.done():
                    self._answer.set_result(None)
                elif isinstance(event, Refused):
                    self._lost(_refusal(event.code)(event.text))
        except HeadwaterError as error:
            self._lost(error)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """The owner has gone."""
        self._lost(NodeUnavailable(str(error) if error else "the owner closed the connection"))

    def _lost(self, error: HeadwaterError) -> None:
        if self._closed:
            return
        self.close()
        if not self._answer.done():
            self._answer.set_exception(error)
        elif self.on_lost is not None:
            log.warning("owner lost", extra={"stream": self.stream, "error": str(error)})
            self.on_lost(str(error))

    # What the encoder sends.

    def video(self, timestamp: int, body: bytes) -> None:
        """Send a video body on."""
        if self._takes():
            self._note("video", timestamp, body)
            self._rtmp.send_video(timestamp, body)
            self._flush()

    def audio(self, timestamp: int, body: bytes) -> None:
        """Send an audio body on."""
        if self._takes():
            self._note("audio", timestamp, body)
            self._rtmp.send_audio(timestamp, body)
            self._flush()

    def data(self, timestamp: int, name: str, values: tuple[Value, ...]) -> None:
        """Send script data on."""
        if self._takes():
            self._rtmp.send_data(timestamp, "@setDataFrame", name, *values)
            self._flush()

    def _takes(self) -> bool:
        if not self._closed and self._transport.get_write_buffer_size() > MAX_UNSENT:
            self._lost(NodeUnavailable("the owner does not take what is sent to it"))
        return not self._closed

    def _note(self, kind: str, timestamp: int, body: bytes) -> None:
        """Remember the sequence header: who takes the stream up after us needs it."""
        try:
            tag = parse_video(body) if kind == "video" else parse_audio(body)
        except FormatError:
            return  # the owner will say what it thinks of it
        if tag is not None and tag.kind is TagKind.SEQUENCE:
            self._headers[kind] = (timestamp, body)

    def headers(self) -> dict[str, tuple[int, bytes]]:
        """Return the newest sequence headers by kind (``video``, ``audio``), with timestamps."""
        return dict(self._headers)

    def close(self, ended: bool = False) -> None:
        """End it; ``ended`` if the encoder said goodbye."""
        if self._closed:
            return
        self._closed = True
        if ended:
            self._rtmp.stop()
            self._flush()
        self._transport.close()

    def _flush(self) -> None:
        out = self._rtmp.data_to_send()
        if out and not self._transport.is_closing():
            self._transport.writelines(out)


def _refusal(code: str) -> type[HeadwaterError]:
    kinds: dict[str, type[HeadwaterError]] = {
        "NetStream.Publish.Denied": AccessDenied,
        "NetStream.Publish.BadName": StreamBusy,
    }
    return kinds.get(code, NodeUnavailable)
