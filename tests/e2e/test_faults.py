"""What breaks between the encoder and the viewer, and what the viewer sees of it."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import Owner
from tests.harness import viewers
from tests.harness.cutting import Forwarder
from tests.harness.ledger import difference
from tests.harness.media import clip, packets, push
from tests.harness.nodes import Node, Site, site, start

pytestmark = pytest.mark.e2e


class MirroredRegistry:
    """The registry that an edge sees: that of the origin, with the bus behind two forwarders."""

    def __init__(self, source: Path, target: Path, origin: Node) -> None:
        self._source = EmbeddedRegistry(source)
        self._target = target
        self._files = EmbeddedRegistry(target)
        self.wires = {
            name: Forwarder(_address(origin.endpoints[name])[1]) for name in ("bus", "control")
        }
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.heal()
        self._task = asyncio.create_task(self._copy())

    async def _copy(self) -> None:
        while True:
            for path in sorted((self._target.parent / "registry").glob("*/*.json")):
                content = path.read_text()
                for owner in await self._source.owners():
                    content = self._rewrite(content, owner)
                for node in await self._source.nodes("origin"):
                    content = self._rewrite(content, node)  # type: ignore[arg-type]
                copy = self._target / path.parent.name / path.name
                new = copy.with_suffix(".copy")
                new.write_text(content)
                new.replace(copy)
            await asyncio.sleep(0.1)

    def _rewrite(self, content: str, owner: Owner) -> str:
        for name, wire in self.wires.items():
            address = owner.endpoints.get(name, "")
            if address:
                host = address.removeprefix("tcp://").rpartition(":")[0]
                changed = address.replace(f"{host}:{_address(address)[1]}", f"{host}:{wire.port}")
                content = content.replace(address, changed)
        return content

    async def cut(self) -> None:
        for wire in self.wires.values():
            await wire.cut()

    async def heal(self) -> None:
        for wire in self.wires.values():
            await wire.start()

    async def close(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for wire in self.wires.values():
            await wire.close()


def _address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


@contextlib.asynccontextmanager
async def mirrored(made: Site, origin: Node, target: Path) -> AsyncIterator[MirroredRegistry]:
    registry = MirroredRegistry(made.folder / "registry", target, origin)
    await registry.start()
    try:
        yield registry
    finally:
        await registry.close()


@pytest.mark.parametrize("seconds", [0.5, 3.0])
async def test_a_cut_between_origin_and_edge_loses_no_frame(tmp_path: Path, seconds: float) -> None:
    source = clip(tmp_path / "clip.flv", 14)
    with site(tmp_path) as made:
        origin = made.add("origin", "origin", stream={"reconnect": '"1s"'})
        edge = made.add("edge", "edge", registry=tmp_path / "seen")
        origin.start()
        async with mirrored(made, origin, tmp_path / "seen") as registry:
            edge.start()
            async with aiohttp.ClientSession() as http:
                watching = {
                    "flv": asyncio.create_task(viewers.progressive(http, f"{edge.url}/live.flv")),
                    "ws": asyncio.create_task(viewers.websocket(http, f"{edge.url}/live.mp4")),
                }
                await asyncio.sleep(0.3)
                publisher = push(source, made.ingest(origin))
                await asyncio.sleep(5)
                await registry.cut()
                await asyncio.sleep(seconds)
                await registry.heal()
                got = dict(zip(watching, await asyncio.gather(*watching.values()), strict=True))
                publisher.wait()
                metrics = await _text(http, f"http://{edge.endpoints['admin']}/metrics")
        for name, watched in got.items():
            data = bytes(watched.data)
            assert not difference(packets(source, "video"), packets(data, "video")), name
            assert len(packets(data, "video")) == 14 * 25, name
            assert not difference(packets(source, "audio"), packets(data, "audio"), tick=0.0025)
    assert _total(metrics, "headwater_records_lost_total") == 0
    assert _total(metrics, "headwater_records_repaired_total") > 0


async def test_an_origin_that_dies_comes_back_and_viewers_go_on(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", 40)
    with site(tmp_path) as made:
        origin, edge = made.add("origin", "origin"), made.add("edge", "edge")
        start(origin, edge)
        publisher = push(source, made.ingest(origin))
        statuses: list[int] = []
        try:
            async with aiohttp.ClientSession() as http:
                url = f"{edge.url}/cmaf/live/index.m3u8"
                await _text(http, url)
                playlist = await _follow(http, edge, 6, statuses)
                origin.kill()
                publisher.wait()
                origin.start()
                ready = time.monotonic()
                publisher = push(source, made.ingest(origin))
                while "#EXT-X-DISCONTINUITY\n" not in playlist:
                    assert time.monotonic() - ready < 30, playlist
                    playlist = await _follow(http, edge, 0.2, statuses)
                back = time.monotonic() - ready
                await _follow(http, edge, 6, statuses)
                sequence = re.findall(r"MEDIA-SEQUENCE:(\d+)", playlist)
        finally:
            publisher.kill()
            publisher.wait()
    assert sequence
    assert set(statuses) == {200}, statuses
    print(f"viewers saw the new frames {back:.2f} s after the origin was there again")
    assert back < 5, f"viewers saw the new frames after {back:.1f} s"


@pytest.mark.alone
@pytest.mark.parametrize("module", ["edge.viewer", "edge.worker"])
async def test_a_killed_process_of_an_edge_is_back_within_a_second(
    tmp_path: Path, module: str
) -> None:
    source = clip(tmp_path / "clip.flv", 30)
    with site(tmp_path) as made:
        origin, edge = made.add("origin", "origin"), made.add("edge", "edge")
        start(origin, edge)
        publisher = push(source, made.ingest(origin))
        try:
            async with aiohttp.ClientSession() as http:
                before = await _follow(http, edge, 9, [])
                oldest = re.findall(r"^\S+/s\d+\.m4s$", before, re.M)[0]
                os.kill(edge.child(module), signal.SIGKILL)
                killed = time.monotonic()
                playlist = await _until_newer(http, edge, before)
                took = time.monotonic() - killed
                async with http.get(f"{edge.url}/cmaf/live/{oldest}") as response:
                    assert response.status == 200, "the window is gone"
        finally:
            publisher.kill()
            publisher.wait()
    assert oldest in playlist
    assert took < 1.0, f"back after {took:.2f} s"


async def _until_newer(http: aiohttp.ClientSession, edge: Node, before: str) -> str:
    """Return the first playlist with a part that ``before`` does not list."""
    known = set(re.findall(r"p\d+\.m4s", before))
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{edge.url}/cmaf/live/1.m3u8") as response:
                    text = await response.text()
                    listed = re.findall(r"#EXT-X-PART:[^\n]*?(p\d+\.m4s)", text)
                    if response.status == 200 and set(listed) - known:
                        return text
            await asyncio.sleep(0.01)


async def _follow(
    http: aiohttp.ClientSession, edge: Node, seconds: float, statuses: list[int]
) -> str:
    """Poll the video playlist and every segment it lists, as an old player does."""
    deadline = time.monotonic() + seconds
    text = ""
    while True:
        async with http.get(f"{edge.url}/cmaf/live/1.m3u8") as response:
            statuses.append(response.status)
            text = await response.text() if response.status == 200 else text
        for name in re.findall(r"^\S+/s\d+\.m4s$", text, re.M):
            async with http.get(f"{edge.url}/cmaf/live/{name}") as response:
                statuses.append(response.status)
                await response.read()
        if time.monotonic() > deadline:
            return text
        await asyncio.sleep(0.3)


async def _text(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(url) as response:
        body = await response.text()
        assert response.status == 200, (url, response.status, body)
        return body


def _total(metrics: str, name: str) -> float:
    return sum(float(one) for one in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", metrics, re.M))


def test_metrics_of_every_node_pass_promtool(tmp_path: Path) -> None:
    import urllib.request

    promtool = shutil.which("promtool")
    assert promtool is not None
    with site(tmp_path) as made:
        nodes = [made.add(role, role) for role in ("origin", "edge", "balancer")]
        start(*nodes)
        for node in nodes:
            port = "admin" if node.role == "edge" else "http"
            base = f"http://{node.endpoints[port]}"
            for path in ("/healthz", "/readyz"):
                with urllib.request.urlopen(base + path) as response:
                    assert response.status == 200
            with urllib.request.urlopen(f"{base}/metrics") as response:
                text = response.read()
            judged = subprocess.run(
                [promtool, "check", "metrics"], input=text, capture_output=True, check=False
            )
            assert judged.returncode == 0, (node.role, judged.stderr.decode(), judged.stdout)
            assert b"headwater_" in text
