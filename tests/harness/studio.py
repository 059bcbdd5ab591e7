"""Encoders on real sockets, in front of a running RTMP input, and pictures for them to send."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from fractions import Fraction

import av

from common.formats.flv_tags import video_head
from common.formats.rtmp import ClientConnection, Event, Refused, State
from common.media.codec import Codec
from common.media.h264 import avcc_from_nals
from common.media.nal import split_annexb, to_length_prefixed
from origin.inputs.rtmp import RtmpSettings
from tests.harness import ingest
from tests.harness.ingest import SOON, Origin, Site


class Encoder:
    """A client on a real socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.rtmp = ClientConnection("live", "rtmp://origin/live")

    async def flush(self) -> None:
        for data in self.rtmp.data_to_send():
            self._writer.write(data)
        await self._writer.drain()

    async def hear(self) -> list[Event]:
        """Return the next events; none once the origin has closed."""
        async with asyncio.timeout(SOON):
            while True:
                await self.flush()
                data = await self._reader.read(65536)
                if not data:
                    return []
                if events := self.rtmp.feed(data):
                    return events

    async def request(self, name: str, *more: bytes) -> None:
        """Ask to publish; send ``more`` along with the request, without waiting."""
        await self.hear()
        self.rtmp.publish(name)
        async with asyncio.timeout(SOON):
            while "publish" not in self.rtmp._asked.values():
                await self.flush()
                self.rtmp.feed(await self._reader.read(65536))
        await self.send(b"".join([*self.rtmp.data_to_send(), *more]))

    async def publish(self, name: str = "KEY") -> "Encoder":
        await self.request(name)
        await self.hear()
        assert self.rtmp.state is State.PUBLISHING
        return self

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def flood(self, data: bytes) -> None:
        async with asyncio.timeout(SOON):
            while True:
                await self.send(data)

    async def refused(self) -> Refused:
        """Return the refusal; after it the origin closes."""
        [event] = await self.hear()
        assert isinstance(event, Refused)
        assert await self.hear() == []
        return event

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Studio:
    """A running input and the encoders that connect to it; they leave before it stops."""

    def __init__(self, site: Site) -> None:
        self.origin = site.origin
        self.stream = site.stream
        self.input = site.input
        self.stop = site.stop
        self._target = site.target
        self._encoders: list[Encoder] = []

    async def encoder(self, buffer: int = 0) -> Encoder:
        """Return a new encoder; ``buffer`` is how little its socket receives unread."""
        client = socket.create_connection(self._target)
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        encoder = Encoder(*await asyncio.open_connection(sock=client, limit=buffer or 2**16))
        self._encoders.append(encoder)
        return encoder

    async def close(self) -> None:
        for encoder in self._encoders:
            await encoder.close()


@contextlib.asynccontextmanager
async def running(
    origin: Origin | None = None, settings: RtmpSettings | None = None
) -> AsyncIterator[Studio]:
    async with ingest.running(origin, settings) as site:
        studio = Studio(site)
        try:
            yield studio
        finally:
            await studio.close()


def h264() -> tuple[bytes, list[bytes]]:
    """Return avcC and coded pictures, the first and the fourth of them keyframes."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 64, 64, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.gop_size, encoder.flags = 3, encoder.flags | av.codec.context.Flags.global_header
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency"}
    packets = []
    for number in range(6):
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([number * 20]) * plane.buffer_size)
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    extradata = encoder.extradata
    assert extradata is not None
    avcc = avcc_from_nals(split_annexb(extradata))
    assert avcc is not None
    return avcc, [to_length_prefixed(bytes(packet)) for packet in packets]


AVCC, PICTURES = h264()


def picture(number: int, keyframe: bool = False, cts: int = 0) -> bytes:
    return video_head(Codec.H264, keyframe, cts) + PICTURES[number]
