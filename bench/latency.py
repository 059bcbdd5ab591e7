"""Added latency of origin, bus and edge: from a publisher's socket to a viewer's, by payload.

    python -m bench.latency [SECONDS] [VIEWERS]

A publisher of our own sends a 25 fps clip over RTMP and notes when each frame went into its socket.
One FLV and one WebSocket viewer note when the last byte of each frame came out of theirs; VIEWERS
more FLV viewers only read. Frames are told apart by their last bytes, so nothing that re-bases
timestamps can falsify the figure.
"""

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from common.formats.flv import FlvDemuxer, Tag, TagType, parse_video
from common.formats.flv_tags import TagKind
from common.formats.rtmp import ClientConnection, Connected, Started
from tests.harness.media import clip
from tests.harness.nodes import Node, Site, site, start

TAIL = 32
FRAME = 0.040
SETTLE = 3.0
"""Seconds at the start that do not count: the join and its burst."""

Sent = dict[bytes, float]
Seen = dict[bytes, float]


class Publisher:
    """Sends the tags of a clip in real time and notes when."""

    def __init__(self, url: str, tags: list[Tag]) -> None:
        self.sent: Sent = {}
        self._tags = tags
        address, self._app, self._key = url.removeprefix("rtmp://").split("/")
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._connection = ClientConnection("live", url.rpartition("/")[0])

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        connection = self._connection
        started = False
        while not started:
            writer.writelines(connection.data_to_send())
            for event in connection.feed(await reader.read(65536)):
                if isinstance(event, Connected):
                    connection.publish(self._key)
                started = started or isinstance(event, Started)
        began = time.monotonic()
        for tag in self._tags:
            await asyncio.sleep(max(0.0, began + tag.timestamp_ms / 1000 - time.monotonic()))
            if tag.kind is TagType.VIDEO:
                connection.send_video(tag.timestamp_ms, tag.body)
                if (parsed := parse_video(tag.body)) and parsed.kind is TagKind.FRAME:
                    self.sent[tag.body[-TAIL:]] = time.monotonic()
            elif tag.kind is TagType.AUDIO:
                connection.send_audio(tag.timestamp_ms, tag.body)
            writer.writelines(connection.data_to_send())
        writer.close()
        await writer.wait_closed()


async def flv_viewer(node: Node, seen: Seen) -> None:
    """Note when the last byte of each video tag arrives."""
    host, _, port = node.endpoints["http"].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 22)
    writer.write(b"GET /live.flv HTTP/1.0\r\nHost: bench\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    demuxer = FlvDemuxer()
    try:
        while data := await reader.read(1 << 20):
            now = time.monotonic()
            for tag in demuxer.feed(data):
                if tag.kind is TagType.VIDEO:
                    seen.setdefault(tag.body[-TAIL:], now)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ws_viewer(http: aiohttp.ClientSession, node: Node, sent: Sent, seen: Seen) -> None:
    """Note when each message with a frame in it has arrived."""
    async with http.ws_connect(f"ws://{node.endpoints['http']}/live.mp4") as socket:
        await socket.send_json({"type": "request_codec_data", "supported_codecs": ["H264", "AAC"]})
        await socket.send_json({"type": "play"})
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                continue
            now = time.monotonic()
            for tail in [tail for tail in sent if tail not in seen]:
                if tail in message.data:
                    seen[tail] = now


def row(name: str, sent: Sent, seen: Seen, after: float) -> dict[str, float | str | int]:
    delays = sorted(seen[tail] - sent[tail] for tail in seen if tail in sent and sent[tail] > after)
    missing = sum(1 for tail, when in sent.items() if when > after and tail not in seen)
    at = [delays[min(len(delays) - 1, int(len(delays) * share))] * 1000 for share in (0.95, 0.99)]
    p50 = statistics.median(delays) * 1000
    return {
        "viewer": name,
        "frames": len(delays),
        "missing": missing,
        "p50_ms": round(p50, 2),
        "p95_ms": round(at[0], 2),
        "p99_ms": round(at[1], 2),
        "p50_frames": round(p50 / 1000 / FRAME, 2),
    }


async def measure(made: Site, seconds: int, others: int) -> list[dict[str, float | str | int]]:
    origin = made.add("origin", "origin", stream={"reconnect": '"1s"'})
    edge = made.add("edge", "edge")
    start(origin, edge)
    tags = FlvDemuxer().feed(clip(made.folder / "clip.flv", seconds).read_bytes())
    publisher = Publisher(made.ingest(origin), tags)
    flv: Seen = {}
    websocket: Seen = {}
    async with aiohttp.ClientSession() as http:
        tasks = [
            asyncio.create_task(flv_viewer(edge, flv)),
            asyncio.create_task(ws_viewer(http, edge, publisher.sent, websocket)),
            *(asyncio.create_task(flv_viewer(edge, {})) for _ in range(others)),
        ]
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await publisher.run()
        await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    after = began + SETTLE
    return [row("flv", publisher.sent, flv, after), row("ws", publisher.sent, websocket, after)]


def run(seconds: int = 20, others: int = 0) -> list[dict[str, float | str | int]]:
    """Measure once and return a row per viewer."""
    with tempfile.TemporaryDirectory() as folder, site(Path(folder)) as made:
        return asyncio.run(measure(made, seconds, others))


if __name__ == "__main__":
    arguments = [int(one) for one in sys.argv[1:3]]
    for line in run(*arguments):
        print(json.dumps(line))
