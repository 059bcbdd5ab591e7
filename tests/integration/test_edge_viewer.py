"""A whole viewer process in this one: real sockets, real pages, a supervisor played by the test."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from common.formats.flv import FlvDemuxer, TagType
from common.formats.mp4_read import read_fragments, read_init
from common.runtime import listen, wake
from common.runtime.config import Duration, NodeSettings
from common.runtime.control import Channel, pair
from edge.around import Around, Peer
from edge.config import Config, EdgeSettings
from edge.overload import WORTH
from edge.viewer import ViewerProcess
from tests.unit.edge.live import OTHER_INIT, LiveStream


@dataclass
class Edge:
    """The viewer process and what a test needs of it."""

    url: str
    root: Path
    wake_fd: int
    supervisor: Channel
    process: ViewerProcess
    streams: dict[str, int]
    client: aiohttp.ClientSession
    wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def ring(self) -> None:
        wake.ring(self.wake_fd)

    def announce(self, stream: str, state: str = "live", epoch: int = 7) -> None:
        self.streams[stream] = epoch
        self.supervisor.send({"t": "state", "stream": stream, "state": state, "epoch": epoch})


async def _play_supervisor(edge: Edge) -> None:
    async for message in edge.supervisor:
        if message["t"] == "want":
            for stream in message["streams"]:
                edge.wanted.set()
                if stream in edge.streams:
                    edge.announce(stream, epoch=edge.streams[stream])


@contextlib.asynccontextmanager
async def running(root: Path, **settings: Any) -> AsyncIterator[Edge]:
    listener = listen.bind("127.0.0.1:0")
    ours, theirs = pair()
    fd = wake.create()
    config = Config(
        node=NodeSettings(name="edge-t", pages=str(root)),
        edge=EdgeSettings(**{"wait": Duration(0.2), **settings}),
    )
    process = ViewerProcess(config, Channel(theirs), fd, [listener])
    channel = Channel(ours)
    async with aiohttp.ClientSession() as client:
        url = f"http://{listen.authority(listener)}"
        edge = Edge(url, root, fd, channel, process, {}, client)
        served = asyncio.create_task(process.run())
        assert (await anext(channel))["t"] == "ready"
        supervisor = asyncio.create_task(_play_supervisor(edge))
        try:
            yield edge
        finally:
            channel.send({"t": "stop"})
            await served
            supervisor.cancel()
            channel.close()


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running(tmp_path) as found:
        yield found


def live(edge: Edge, frames: int = 45) -> LiveStream:
    stream = LiveStream(edge.root)
    stream.frames(frames)
    edge.streams["live"] = 7
    return stream


def video_payloads(data: bytes) -> list[bytes]:
    movie = read_init(data)
    runs = [run for run in read_fragments(data, movie) if run.track == 1]
    return [sample.data for run in runs for sample in run.samples]


async def test_a_progressive_mp4_has_every_frame_from_the_keyframe_to_the_end(edge: Edge) -> None:
    stream = live(edge)
    async with edge.client.get(f"{edge.url}/live.mp4") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "video/mp4"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        reading = asyncio.create_task(response.read())
        for _ in range(20):
            stream.frames(1)
            edge.ring()
            await asyncio.sleep(0)
        stream.publish(live=False)
        edge.ring()
        data = await reading
    assert video_payloads(data) == stream.payloads[1][40:]


async def test_a_flv_viewer_gets_the_same_frames(edge: Edge) -> None:
    stream = live(edge)
    async with edge.client.get(f"{edge.url}/live.flv") as response:
        reading = asyncio.create_task(response.read())
        stream.frames(7)
        stream.publish(live=False)
        edge.ring()
        tags = FlvDemuxer().feed(await reading)
    pictures = [tag.body[5:] for tag in tags if tag.kind is TagType.VIDEO]
    assert pictures[1:] == stream.payloads[1][40:]  # the first one is the sequence header
    sounds = [tag.body[2:] for tag in tags if tag.kind is TagType.AUDIO][1:]
    assert sounds == stream.payloads[2][-len(sounds) :]


async def test_new_setup_bytes_reach_a_flv_viewer_as_a_sequence_header(edge: Edge) -> None:
    stream = live(edge)
    async with edge.client.get(f"{edge.url}/live.flv") as response:
        reading = asyncio.create_task(response.read())
        stream.new_init(OTHER_INIT)
        stream.video(key=True)
        stream.publish(live=False)
        edge.ring()
        tags = FlvDemuxer().feed(await reading)
    bodies = [tag.body for tag in tags if tag.kind is TagType.VIDEO]
    assert bodies[-2] == b"\x17\0\0\0\0" + OTHER_INIT
    assert bodies[-1][5:] == stream.payloads[1][-1]


async def test_http_1_0_is_answered_without_chunks(edge: Edge) -> None:
    stream = live(edge)
    reader, writer = await asyncio.open_connection(*edge.url[7:].split(":"))
    writer.write(b"GET /live.flv HTTP/1.0\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    stream.publish(live=False)
    edge.ring()
    assert (await reader.read()).startswith(b"FLV\x01")
    writer.close()


async def test_a_range_from_zero_is_answered_with_everything(edge: Edge) -> None:
    live(edge)
    headers = {"Range": "bytes=0-1"}
    async with edge.client.get(f"{edge.url}/live.mp4", headers=headers) as response:
        assert response.status == 200
    async with edge.client.head(f"{edge.url}/live.mp4") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "video/mp4"


async def test_a_viewer_who_leaves_is_forgotten(edge: Edge) -> None:
    stream = live(edge)
    response = await edge.client.get(f"{edge.url}/live.mp4")
    await response.content.read(10)
    assert len(edge.process.sessions) == 1
    response.close()
    async with asyncio.timeout(2):
        while len(edge.process.sessions):
            stream.frames(1)
            edge.ring()
            await asyncio.sleep(0)
    assert edge.process.hub.viewers() == 0


async def test_a_stream_that_is_not_live_is_404_after_the_wait_and_says_when_to_retry(
    edge: Edge,
) -> None:
    async with edge.client.get(f"{edge.url}/nobody.mp4") as response:
        assert response.status == 404
        assert response.headers["Retry-After"]
        assert response.content_type == "application/problem+json"
    assert edge.process.mirrors.wanted() == []


async def test_a_viewer_who_is_early_gets_the_stream_from_its_first_frame(tmp_path: Path) -> None:
    async with running(tmp_path, wait=Duration(5)) as edge:
        request = asyncio.create_task(edge.client.get(f"{edge.url}/live.mp4"))
        await asyncio.wait_for(edge.wanted.wait(), 5)
        stream = LiveStream(tmp_path)
        edge.announce("live")
        stream.frames(12)
        edge.ring()
        response = await request
        stream.frames(3)
        stream.publish(live=False)
        edge.ring()
        assert video_payloads(await response.read()) == stream.payloads[1]


@pytest.mark.parametrize("name", ["..%2f..%2fetc", "LIVE", "a%00b", "a+", "%2e%2e"])
async def test_names_that_are_none_are_refused(edge: Edge, name: str) -> None:
    async with edge.client.get(f"{edge.url}/{name}.mp4") as response:
        assert response.status in (400, 404)


class Socket:
    """A WebSocket viewer."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.told: list[dict[str, Any]] = []
        self.media = b""

    async def until(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while True:
                message = await self.socket.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.media += message.data
                elif message.type is aiohttp.WSMsgType.TEXT:
                    self.told.append(json.loads(message.data))
                    if self.told[-1]["type"] == kind:
                        return self.told[-1]
                else:
                    raise AssertionError(f"closed before {kind}: {message}")


@contextlib.asynccontextmanager
async def websocket(edge: Edge, query: str = "") -> AsyncIterator[Socket]:
    async with edge.client.ws_connect(f"{edge.url}/live.mp4{query}") as socket:
        yield Socket(socket)


async def test_a_websocket_viewer_asks_plays_and_gets_init_then_every_frame(edge: Edge) -> None:
    stream = live(edge)
    async with websocket(edge) as viewer:
        request = {"type": "request_codec_data", "supported_codecs": ["H264", "AAC"]}
        await viewer.socket.send_json(request)
        data = await viewer.until("codec_data")
        assert data["codecs"] == ["avc1.42C00D", "mp4a.40.2"]
        assert data["tracks"] == [1, 2]
        await viewer.socket.send_json({"type": "play"})
        await viewer.until("on_time")
        stream.frames(10)
        stream.publish(live=False)
        edge.ring()
        await viewer.until("on_stop")
    assert video_payloads(viewer.media) == stream.payloads[1][40:]


async def test_a_websocket_viewer_can_start_by_query(edge: Edge) -> None:
    stream = live(edge)
    async with websocket(edge, "?autoplay=1") as viewer:
        told = await viewer.until("on_time")
        record = stream.sent[1][40]
        offset = record.capture_us // 1000 - record.dts // 90
        assert told["data"]["unixoffset"] == offset
        await viewer.socket.send_json({"type": "set_speed", "play_rate": 2})
        assert (await viewer.until("set_speed"))["data"]["play_rate_curr"] == 1
        await viewer.socket.send_json({"type": "hold"})
        await viewer.socket.send_json({"type": "seek", "seek_time": "live"})
        await viewer.until("seek")
        await viewer.socket.send_str("{not json")
        assert (await viewer.until("error"))["message"] == "not understood"


async def test_a_websocket_viewer_that_decodes_only_audio_gets_only_audio(edge: Edge) -> None:
    live(edge)
    async with websocket(edge) as viewer:
        request = {"type": "request_codec_data", "supported_codecs": ["mp4a.40.2"]}
        await viewer.socket.send_json(request)
        assert (await viewer.until("codec_data"))["tracks"] == [2]


async def test_a_websocket_viewer_of_nothing_is_told_and_closed(edge: Edge) -> None:
    async with edge.client.ws_connect(f"{edge.url}/nobody.mp4?autoplay=1") as socket:
        assert (await socket.receive_json())["type"] == "error"
        message = await socket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert message.data == 4404


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_are_those_of_rfc_6455(size: int) -> None:
    from edge.outputs.websocket import frame

    data = frame(b"x" * size)
    length, start = data[1], 2
    if length == 126:
        length, start = struct.unpack(">H", data[2:4])[0], 4
    elif length == 127:
        length, start = struct.unpack(">Q", data[2:10])[0], 10
    assert data[0] == 0x82
    assert length == size
    assert len(data) == start + size


async def test_the_info_document_lists_tracks_and_sources(edge: Edge) -> None:
    live(edge)
    async with edge.client.get(f"{edge.url}/json_live.js") as response:
        tree = json.loads(await response.text())
    assert tree["type"] == "live"
    assert tree["meta"]["tracks"]
    track = next(t for t in tree["meta"]["tracks"].values() if t["type"] == "video")
    assert track["codecstring"] == "avc1.42C00D"
    assert track["bps"] > 0
    kinds = {source["type"]: source for source in tree["source"]}
    host = edge.url.removeprefix("http://")
    assert kinds["ws/video/mp4"]["url"] == f"ws://{host}/live.mp4"
    assert kinds["html5/video/mp4"]["relurl"] == "live.mp4"
    async with edge.client.get(f"{edge.url}/json_live.js?callback=mist.cb") as response:
        assert (await response.text()).startswith("mist.cb({")
    async with edge.client.get(f"{edge.url}/json_live.js?callback=alert(1)") as response:
        assert response.status == 400
    async with edge.client.get(f"{edge.url}/json_nobody.js") as response:
        assert "error" in json.loads(await response.text())


async def test_the_supervisor_can_ask_for_the_sessions(edge: Edge) -> None:
    live(edge)
    response = await edge.client.get(f"{edge.url}/live.flv", headers={"User-Agent": "tester"})
    listed = edge.process.sessions.listed()
    assert [(s["protocol"], s["agent"], s["stream"]) for s in listed] == [("flv", "tester", "live")]
    response.close()


async def test_a_drain_moves_a_websocket_viewer_and_ends_the_rest_at_a_keyframe(edge: Edge) -> None:
    stream = live(edge)
    around = Around("edge-t", "", (Peer("other", "http://other.test:8080"),), True, 2.0)
    ws = edge.url.replace("http", "ws")
    async with (
        edge.client.ws_connect(f"{ws}/live.mp4?autoplay=1&audio=0") as socket,
        edge.client.get(f"{edge.url}/live.mp4?audio=0") as response,
    ):
        edge.supervisor.send(around.told(2.0))  # of them 0.5 s for a keyframe
        while True:
            message = await socket.receive(timeout=5)
            if message.type is aiohttp.WSMsgType.TEXT and '"move"' in message.data:
                break
        url = "ws://other.test:8080/live.mp4?autoplay=1&audio=0"
        assert json.loads(message.data) == {"type": "move", "data": {"url": url}}
        async with asyncio.timeout(5):
            while not socket.closed:
                stream.frames(1)
                edge.ring()
                with contextlib.suppress(TimeoutError):
                    await socket.receive(timeout=0.01)
        assert socket.close_code == 1012
        frames = video_payloads(await response.read())
        assert len(frames) % 10 == 0, "from a keyframe to the one before the next"
        refused = await edge.client.get(f"{edge.url}/live.mp4", allow_redirects=False)
        assert refused.headers["Location"] == "http://other.test:8080/live.mp4?not=edge-t"
        edge.supervisor.send(Around("edge-t").told(0.0))
        async with asyncio.timeout(5):
            while edge.process.mover.draining:  # noqa: ASYNC110 - a message changes it
                await asyncio.sleep(0.001)
        async with edge.client.get(f"{edge.url}/live.mp4") as again:
            assert again.status == 200


async def test_a_player_is_told_where_else_it_could_be(edge: Edge) -> None:
    around = Around("edge-t", "http://b", (Peer("other", "http://other.test:8080"),))
    edge.supervisor.send(around.told(0.0))
    async with asyncio.timeout(5):
        while not edge.process.mover.around.peers:  # noqa: ASYNC110 - a message changes it
            await asyncio.sleep(0.001)
    async with edge.client.get(f"{edge.url}/api/v1/edge?stream=live") as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert await response.json() == {
            "node": "edge-t",
            "alternatives": ["http://other.test:8080"],
            "balancer": "http://b",
            "draining": False,
        }


async def test_a_viewer_for_whom_most_waits_is_cut_and_another_misses_nothing(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, slow=Duration(60), stall=Duration(60)) as edge:
        stream = live(edge)
        host, _, port = edge.url.removeprefix("http://").rpartition(":")
        with contextlib.closing(socket.create_connection((host, int(port)))) as slow:
            slow.sendall(b"GET /live.mp4 HTTP/1.1\r\nHost: x\r\n\r\n")
            data = await beside(edge, stream)
        assert video_payloads(data) == stream.payloads[1][40:]


async def beside(edge: Edge, stream: LiveStream) -> bytes:
    """Return what a viewer gets while another one, who reads nothing, is cut."""
    async with edge.client.get(f"{edge.url}/live.mp4") as response:
        reading = asyncio.create_task(response.read())
        async with asyncio.timeout(10):
            while edge.process.hub.viewers() < 2:  # noqa: ASYNC110 - they come in
                await asyncio.sleep(0.01)
            while waiting(edge) < 2 * WORTH:  # what nobody reads piles up
                stream.video(size=100_000)
                edge.ring()
                await asyncio.sleep(0.005)
            edge.supervisor.send({"t": "cut"})
            while edge.process.hub.viewers() > 1:  # noqa: ASYNC110 - until it is cut
                await asyncio.sleep(0.01)
        stream.frames(5)
        stream.publish(live=False)
        edge.ring()
        return await reading


def waiting(edge: Edge) -> int:
    """Return the bytes that wait for the viewer for whom most does."""
    return max(one.transport.get_write_buffer_size() for one in edge.process.hub.members())


async def test_newcomers_are_told_when_to_come_again_while_memory_is_short(edge: Edge) -> None:
    live(edge)

    async def answers(refuse: bool) -> int:
        edge.supervisor.send({"t": "overload", "refuse": refuse})
        async with asyncio.timeout(5):
            while edge.process.mover.refusing != refuse:  # noqa: ASYNC110 - until it has heard
                await asyncio.sleep(0.01)
        async with edge.client.get(f"{edge.url}/live.mp4") as response:
            assert (response.status == 503) == ("Retry-After" in response.headers)
            return response.status

    async with edge.client.get(f"{edge.url}/live.mp4") as watching:
        assert await answers(refuse=True) == 503
        assert edge.process.hub.viewers() == 1, "who is here goes on"
        assert await answers(refuse=False) == 200
        assert watching.status == 200
