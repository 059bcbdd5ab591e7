"""Publishers of exact rates.

``python -m bench.publishers HOST:PORT NAME,FPS,KBITS[,SECONDS]...``

Each pushes H.264 and AAC over RTMP in real time: pictures that nobody could decode, with
real setup bytes. Each picture ends with a mark, the monotonic nanoseconds at which it was written,
so that whoever reads it at the other end knows how old it is. Runs until ended; a publisher with
SECONDS says goodbye after that time. ``NAME`` may carry a query (``KEY+cam1?slot=low``).

All that are called together cut their GOPs at the same timestamps, as an encoder of several
renditions does.
"""

import asyncio
import contextlib
import os
import struct
import sys
import time

from common.formats.flv_tags import audio_head, audio_sequence, video_head, video_sequence
from common.formats.rtmp import ClientConnection, Connected, Refused, Started
from common.media.codec import Codec

MARK = b"TSMARK01"
GOP = 2.0
"""Seconds."""

AVCC = {
    25: "0164001fffe100176764001facb402802dd0800000030080000019478c195001000468ef0fcbfdf8f800",
    30: "0164001fffe100176764001facb402802dd080000003008000001e478c195001000468ef0fcbfdf8f800",
}
"""What x264 says of 1280 x 720 pictures, by frames a second."""

ASC = bytes.fromhex("1190")
"""AAC-LC, 48 kHz, stereo."""

AUDIO_BITS = 128_000
AUDIO_SECONDS = 1024 / 48_000


def picture(key: bool, size: int, noise: bytes) -> bytes:
    """Return the body of a video message of ``size`` coded bytes, marked with the time now."""
    head = video_head(Codec.H264, key, 0)
    slice_header = b"\x65\x88" if key else b"\x41\x9a"
    fill = noise[: size - 4 - len(slice_header) - 16]
    mark = MARK + struct.pack("<Q", time.monotonic_ns())
    return b"".join((head, struct.pack(">I", size - 4), slice_header, fill, mark))


class Publisher:
    """One publisher."""

    def __init__(self, host: str, port: int, name: str, fps: float, kbits: int) -> None:
        self._host, self._port, self._name = host, port, name
        self._fps = fps
        self._size = max(64, round(kbits * 1000 / 8 / fps))
        self._noise = os.urandom(self._size).replace(b"TS", b"ts")
        self._connection = ClientConnection("live", f"rtmp://{host}:{port}/live")

    async def run(self, phase: float, seconds: float = float("inf")) -> None:
        """Connect and publish; ``phase``: seconds that it is behind the others by the clock."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            await self._begin(reader, writer)
            listening = asyncio.create_task(self._listen(reader))
            try:
                await self._send(writer, phase, seconds)
                if listening.done():
                    listening.result()  # closed before the goodbye: that is an error
            finally:
                listening.cancel()
            self._connection.stop()
            writer.writelines(self._connection.data_to_send())
            with contextlib.suppress(ConnectionError):  # the origin closes at its first word
                await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):  # the origin may be quicker to close it
                await writer.wait_closed()

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self._connection
        while True:
            writer.writelines(connection.data_to_send())
            for event in connection.feed(await reader.read(65536)):
                match event:
                    case Connected():
                        connection.publish(self._name)
                    case Started():
                        return
                    case Refused():
                        raise RuntimeError(f"{self._name} was refused: {event}")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65536):
            self._connection.feed(data)
        raise ConnectionError(f"the origin has closed the connection of {self._name}")

    async def _send(self, writer: asyncio.StreamWriter, phase: float, seconds: float) -> None:
        connection, fps = self._connection, self._fps
        connection.send_video(0, video_sequence(Codec.H264, bytes.fromhex(AVCC[round(fps)])))
        connection.send_audio(0, audio_sequence(Codec.AAC, ASC))
        sound = (
            audio_head(Codec.AAC, 48_000, 2) + self._noise[: int(AUDIO_BITS / 8 * AUDIO_SECONDS)]
        )
        loop = asyncio.get_running_loop()
        began = loop.time() + phase
        frame = beat = 0
        while True:
            video_at, audio_at = frame / fps, beat * AUDIO_SECONDS
            due = min(video_at, audio_at)
            if due >= seconds:
                return
            await asyncio.sleep(max(0.0, began + due - loop.time()))
            if audio_at <= video_at:
                connection.send_audio(round(audio_at * 1000), sound)
                beat += 1
            else:
                key = frame % round(GOP * fps) == 0
                body = picture(key, self._size, self._noise)
                connection.send_video(round(video_at * 1000), body)
                frame += 1
            writer.writelines(connection.data_to_send())


async def main(target: str, *wanted: str) -> None:
    """Run publishers until one fails or all are done; they come one after the other."""
    host, _, port = target.rpartition(":")
    async with asyncio.TaskGroup() as group:
        for number, words in enumerate(wanted):
            name, fps, kbits, *seconds = words.split(",")
            publisher = Publisher(host, int(port), name, float(fps), int(kbits))
            phase = (number * 0.618 % 1) / float(fps)
            group.create_task(publisher.run(phase, float(seconds[0]) if seconds else float("inf")))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
