"""The output over real HTTP, with pages that a test writes and wakes that it gives."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import MagicMock

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from common.runtime.config import Duration
from edge import http
from edge.config import EdgeSettings
from edge.mirrors import Mirrors
from edge.moving import Mover
from edge.output import ViewerContext
from edge.outputs import cmaf
from edge.outputs.cmaf import Cmaf
from edge.range import ranged
from edge.sessions import Sessions
from tests.unit.edge.cuts import AUDIO, EPOCH, VIDEO, CutStream, Pages

BASE = f"/cmaf/live/1/{EPOCH}.1/"


class Edge:
    """An edge with this output alone."""

    def __init__(self, root: Path, stream: CutStream, wait: float) -> None:
        self.stream = stream
        self.pages = Pages(root, stream)
        self.sessions = Sessions()
        self.mirrors = Mirrors(root, wait=wait)
        settings = EdgeSettings(wait=Duration(wait))
        self.mover = Mover(self.sessions, MagicMock(), time.monotonic)
        context = ViewerContext(self.mirrors, self.sessions, MagicMock(), self.mover, settings)
        self.output = Cmaf(context)
        self.server = TestServer(http.application({"cmaf": self.output}, self.sessions))
        self.client: aiohttp.ClientSession

    def wake(self) -> None:
        """Write what the segmenter has cut, and tell as the stream worker would."""
        self.pages.write()
        self.mirrors.state("live", "live", EPOCH)
        self.mirrors.advance()

    def run(self, seconds: float) -> None:
        self.stream.run(seconds)
        self.wake()

    def get(self, path: str, **headers: str) -> aiohttp.client._RequestContextManager:
        plain = {"Accept-Encoding": "identity"}
        return self.client.get(self.server.make_url(path), headers=plain | headers)

    async def text(self, path: str) -> str:
        async with self.get(path) as response:
            assert response.status == 200, await response.text()
            return await response.text()

    async def status(self, path: str) -> int:
        async with self.get(path) as response:
            return response.status

    async def parked(self, path: str) -> "asyncio.Task[str]":
        """Begin a request and return once it waits."""
        count = self.waiting() + 1
        task = asyncio.create_task(self.text(path))
        await self.until_waiting(count)
        return task

    async def parked_status(self, path: str) -> "asyncio.Task[int]":
        """As :meth:`parked`, for the status alone."""
        count = self.waiting() + 1
        task = asyncio.create_task(self.status(path))
        await self.until_waiting(count)
        return task

    async def until_waiting(self, count: int) -> None:
        for _ in range(100_000):
            if self.waiting() >= count:
                return
            await asyncio.sleep(0)
        raise AssertionError("no request waits")

    def waiting(self) -> int:
        streams = [one for _, one in self.output._streams.values()]
        return sum(parked.count for one in streams for parked in one._parked.values())


Maker = Callable[..., contextlib.AbstractAsyncContextManager[Edge]]


@pytest.fixture
def edge(tmp_path: Path) -> Maker:
    @contextlib.asynccontextmanager
    async def make(
        seconds: float = 5, *, wait: float = 5, stream: CutStream | None = None
    ) -> AsyncIterator[Edge]:
        made = Edge(tmp_path, stream or CutStream(), wait)
        await made.server.start_server()
        async with aiohttp.ClientSession(auto_decompress=False) as made.client:
            made.mirrors.wanted()
            made.mirrors._used["live"] = 0
            if seconds:
                made.run(seconds)
            try:
                yield made
            finally:
                await made.output.close()
                await made.server.close()
                made.mirrors.close()

    return make


async def test_a_player_finds_its_way_from_the_first_playlist_to_every_frame(edge: Maker) -> None:
    async with edge(5) as one:
        index = await one.text("/cmaf/live/index.m3u8")
        assert index.endswith("\n1.m3u8\n")
        body = await one.text("/cmaf/live/1.m3u8")
        uris = [line for line in body.splitlines() if not line.startswith("#")]
        assert uris == [f"1/{EPOCH}.1/s0.m4s", f"1/{EPOCH}.1/s1.m4s"]
        async with one.get(f"/cmaf/live/{uris[0]}") as response:
            data = await response.read()
            assert response.headers["Content-Type"] == "video/mp4"
            assert response.headers["Cache-Control"].endswith("immutable")
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert response.headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        parts = []
        for number in range(10):
            async with one.get(f"{BASE}p{number}.m4s") as response:
                parts.append(await response.read())
        assert b"".join(parts) == data
        async with one.get(f"/cmaf/live/2/{EPOCH}.1/init-0.mp4") as response:
            assert response.headers["Content-Type"] == "audio/mp4"


async def test_blocking_reloads_wait_and_all_get_the_same_text(edge: Maker) -> None:
    async with edge(4.3) as one:
        waiting = [await one.parked("/cmaf/live/1.m3u8?_HLS_msn=2&_HLS_part=1") for _ in range(3)]
        ((_, stream),) = one.output._streams.values()
        assert len(stream._parked) == 1
        assert not any(task.done() for task in waiting)
        one.run(0.2)
        texts = await asyncio.gather(*waiting)
        assert len(set(texts)) == 1
        assert "p21.m4s" in texts[0]
        assert not stream._parked


async def test_the_hinted_part_is_waited_for(edge: Maker) -> None:
    async with edge(4.3) as one:
        body = await one.text("/cmaf/live/1.m3u8")
        assert f'PRELOAD-HINT:TYPE=PART,URI="1/{EPOCH}.1/p21.m4s"' in body
        task = asyncio.create_task(one.status(f"{BASE}p21.m4s"))
        await one.until_waiting(1)
        one.run(0.2)
        assert await task == 200


async def test_a_delta_update_leaves_old_segments_out(edge: Maker) -> None:
    async with edge(21) as one:
        body = await one.text("/cmaf/live/1.m3u8?_HLS_skip=YES")
        assert "#EXT-X-SKIP:SKIPPED-SEGMENTS=" in body


@pytest.mark.parametrize(
    "query", ["_HLS_part=1", "_HLS_msn=x", "_HLS_msn=9", "_HLS_msn=2&_HLS_part=99"]
)
async def test_a_senseless_reload_is_refused_at_once(edge: Maker, query: str) -> None:
    async with edge(4.3) as one:
        assert await one.status(f"/cmaf/live/1.m3u8?{query}") == 400


async def test_a_reload_of_a_stream_that_stands_still_is_answered_in_the_end(
    edge: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmaf, "BLOCK_TARGETS", 0.01)
    async with edge(4.3) as one:
        async with one.get("/cmaf/live/1.m3u8?_HLS_msn=2") as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
        assert one.waiting() == 0
        ((_, stream),) = one.output._streams.values()
        assert not stream._parked


async def test_a_viewer_who_is_early_waits_for_the_first_part(edge: Maker) -> None:
    async with edge(0) as one:
        one.pages.write(0)
        one.mirrors.state("live", "live", EPOCH)
        index = await one.parked("/cmaf/live/index.m3u8")
        media = await one.parked("/cmaf/live/1.m3u8")
        one.run(1)
        assert not index.done()
        one.run(2)
        assert "1.m3u8" in await index
        assert "p0.m4s" in await media


@pytest.mark.parametrize("path", ["live/index.m3u8", "live/1.m3u8", "gone/index.m3u8"])
async def test_a_stream_without_anything_to_play_is_not_found(
    edge: Maker, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(cmaf, "CATCH_UP", 0.01)
    async with edge(0.1, wait=0.01) as one, one.get(f"/cmaf/{path}") as response:
        assert response.status == 404
        assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    "path",
    [
        f"/cmaf/live/1/{EPOCH - 1}.1/s0.m4s",
        f"/cmaf/live/1/{EPOCH}.2/s0.m4s",
        f"{BASE}s99.m4s",
        f"{BASE}s1795848699.m4s",  # a number of this size is ordinary: Consul's begin with the time
        f"{BASE}p999.m4s",
        f"{BASE}init-1.mp4",
        f"/cmaf/live/9/{EPOCH}.1/s0.m4s",
        "/cmaf/live/9.m3u8",
    ],
)
async def test_what_does_not_exist_is_404_at_once(edge: Maker, path: str) -> None:
    async with edge(5) as one:
        assert await one.status(path) == 404
        assert one.waiting() == 0


async def test_the_end_of_a_stream_releases_who_waits(edge: Maker) -> None:
    async with edge(4.3) as one:
        reload = await one.parked("/cmaf/live/1.m3u8?_HLS_msn=3")
        part = asyncio.create_task(one.status(f"{BASE}p24.m4s"))
        await one.until_waiting(2)
        one.stream.finish()
        one.wake()
        assert "#EXT-X-ENDLIST" in await reload
        assert await part == 404
        assert await one.status(f"{BASE}s2.m4s") == 200


async def test_a_request_for_an_object_not_here_yet_waits_for_backfill(edge: Maker) -> None:
    stream = CutStream().run(9)
    async with edge(0, stream=stream) as one:
        writer = one.pages.writer
        writer.set_catalog(stream.catalog)
        older: dict[int, list[tuple[object, bytes]]] = {VIDEO.id: [], AUDIO.id: []}
        for number, record, data in stream.entries:
            if number == 0 or record.segment >= 4:
                writer.append(number, record, data)
            else:
                older[number].append((record, data))
        one.mirrors.state("live", "live", EPOCH)
        missing: list[tuple[str, int, int]] = []
        one.mirrors.on_missing = lambda *what: missing.append(what)
        waiting = asyncio.create_task(one.status(f"{BASE}s1.m4s"))
        listed = await one.parked("/cmaf/live/1.m3u8")
        await one.until_waiting(2)
        part = await one.parked_status(f"{BASE}p11.m4s")
        assert missing == [("live", 1, 1)], "one question for the segment and its parts"
        ((_, served),) = one.output._streams.values()
        served._fetched.clear()
        served._scan()
        assert missing == [("live", 1, 1)] * 2
        for number, run in older.items():
            writer.insert(number, run)  # type: ignore[arg-type]
        assert (await waiting, await part) == (200, 200)
        assert f"1/{EPOCH}.1/p20.m4s" in await listed


async def test_frames_that_the_origin_took_back_are_not_served_any_more(edge: Maker) -> None:
    async with edge(4.3) as one:
        async with one.get(f"{BASE}s0.m4s") as response:
            first = await response.read()
        waiting = asyncio.create_task(one.status(f"{BASE}s2.m4s"))
        await one.until_waiting(1)
        one.pages.writer.remove()
        one.stream = CutStream(size=90).run(5)
        one.pages = Pages(one.pages.root, one.stream)
        one.wake()
        async with one.get(f"{BASE}s0.m4s") as response:
            assert response.status == 200
            assert len(await response.read()) > len(first)
        assert "s1.m4s" in await one.text("/cmaf/live/1.m3u8")
        assert await waiting == 404


async def test_who_waits_for_a_stream_that_is_given_up_hears_of_it(edge: Maker) -> None:
    async with edge(4.3) as one:
        waiting = asyncio.create_task(one.status(f"{BASE}p24.m4s"))
        await one.until_waiting(1)
        one.mirrors._forget("live")
        assert await waiting == 404
        one.mirrors._used["live"] = 0
        one.run(0.2)
        assert await one.status(f"{BASE}p21.m4s") == 200
        assert len(one.output._streams) == 1


async def test_a_playlist_is_compressed_for_who_asks(edge: Maker) -> None:
    async with edge(5) as one:
        async with one.get("/cmaf/live/1.m3u8", **{"Accept-Encoding": "br, gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert (await response.read())[:2] == b"\x1f\x8b"
            assert response.headers["Vary"] == "Accept-Encoding"
        for refused in ("identity", "gzip;q=0"):
            async with one.get("/cmaf/live/1.m3u8", **{"Accept-Encoding": refused}) as response:
                assert "Content-Encoding" not in response.headers
                assert response.headers["Content-Type"] == "application/vnd.apple.mpegurl"


async def test_head_range_and_etag_are_answered(edge: Maker) -> None:
    async with edge(5) as one:
        url = one.server.make_url(f"{BASE}s0.m4s")
        async with one.client.get(url) as response:
            whole, etag = await response.read(), response.headers["ETag"]
        async with one.client.head(url) as response:
            assert response.headers["Content-Length"] == str(len(whole))
            assert await response.read() == b""
        async with one.get(f"{BASE}s0.m4s", Range="bytes=2-5") as response:
            assert response.status == 206
            assert response.headers["Content-Range"] == f"bytes 2-5/{len(whole)}"
            assert await response.read() == whole[2:6]
        async with one.get(f"{BASE}s0.m4s", **{"If-None-Match": etag}) as response:
            assert response.status == 304
        async with one.client.options(url) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    ("headers", "status", "body"),
    [
        ({}, 200, b"abcdef"),
        ({"Range": "bytes=1-"}, 206, b"bcdef"),
        ({"Range": "bytes=-2"}, 206, b"ef"),
        ({"Range": "bytes=4-99"}, 206, b"ef"),
        ({"Range": "bytes=6-"}, 416, b""),
        ({"Range": "bytes=-0"}, 416, b""),
        ({"Range": "bytes=3-2"}, 200, b"abcdef"),
        ({"Range": "bytes=-"}, 200, b"abcdef"),
        ({"Range": "bytes=0-1,3-4"}, 200, b"abcdef"),
        ({"Range": "frames=1-2"}, 200, b"abcdef"),
        ({"Range": "bytes=0-1", "If-Range": '"t"'}, 206, b"ab"),
        ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200, b"abcdef"),
        ({"If-None-Match": 'W/"x", W/"t"'}, 304, b""),
        ({"If-None-Match": "*"}, 304, b""),
        ({"If-None-Match": '"x"'}, 200, b"abcdef"),
    ],
)
def test_ranges_and_conditions(headers: dict[str, str], status: int, body: bytes) -> None:
    assert ranged(b"abcdef", '"t"', headers)[:2] == (status, body)


async def test_an_older_epoch_is_served_while_its_pages_are_here(
    edge: Maker, tmp_path: Path
) -> None:
    async with edge(5) as one:
        async with one.get(f"{BASE}s0.m4s") as response:
            before = await response.read()
        newer = CutStream().run(3)
        newer.epoch = EPOCH + 1
        Pages(tmp_path, newer).write()
        one.mirrors.state("live", "live", EPOCH + 1)
        body = await one.text("/cmaf/live/1.m3u8")
        assert f"1/{EPOCH + 1}.1/" in body
        assert f"1/{EPOCH}.1/" not in body
        async with one.get(f"{BASE}s0.m4s") as response:
            assert await response.read() == before
        assert await one.status(f"{BASE}p25.m4s") == 404
        assert one.waiting() == 0


async def test_viewers_and_their_bytes_are_counted(edge: Maker) -> None:
    async with edge(5) as one:
        seen: list[tuple[str, float]] = []
        one.sessions.observe = lambda protocol, seconds, count: seen.extend(
            [(protocol, seconds)] * count
        )
        await one.text("/cmaf/live/1.m3u8")
        assert await one.status(f"{BASE}p24.m4s") == 200
        assert await one.status(f"{BASE}p3.m4s") == 200
        (session,) = one.sessions
        assert session.protocol == "hls"
        assert session.bytes == one.sessions.bytes["hls"] > 1000
        assert [protocol for protocol, _ in seen] == ["hls"]
