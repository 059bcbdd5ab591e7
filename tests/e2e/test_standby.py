"""Two origins for one stream: what viewers see when the one that publishes is killed or stopped."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from common.runtime import ready
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import Owner
from tests.e2e.test_equal import objects, resumed, same
from tests.harness import viewers
from tests.harness.ledger import difference
from tests.harness.load import Load, under
from tests.harness.media import clip, packets, push
from tests.harness.nodes import Node, Site, site, start

pytestmark = pytest.mark.e2e

AUDIO_TICK = 0.005


@dataclass
class Pair:
    """Two origins, two edges, and who watches."""

    made: Site
    http: aiohttp.ClientSession
    origins: list[Node]
    edges: list[Node]
    encoders: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    watching: dict[str, asyncio.Task[Any]] = field(default_factory=dict)

    def watch(self) -> None:
        for number, edge in enumerate(self.edges):
            flv = viewers.progressive(self.http, f"{edge.url}/live.flv")
            self.watching[f"flv {number}"] = asyncio.create_task(flv)
            ws = viewers.websocket(self.http, f"{edge.url}/live.mp4")
            self.watching[f"ws {number}"] = asyncio.create_task(ws)
            hls = viewers.ll_hls(self.http, f"{edge.url}/cmaf/live/index.m3u8")
            self.watching[f"hls {number}"] = asyncio.create_task(hls)

    async def owner(self) -> Owner | None:
        return await EmbeddedRegistry(self.made.folder / "registry").owner("live")

    async def until_owned_by(self, node: Node, seconds: float = 30) -> float:
        """Wait until a node owns the stream; return how long that took."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while True:
                owner = await self.owner()
                if owner is not None and owner.node == node.name:
                    break
                await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def until_aligned(self, node: Node) -> None:
        """Wait until a node follows frame by frame."""
        async with asyncio.timeout(30):
            while True:
                if await self.metric(node, "headwater_stream_following") == 2:
                    break
                await asyncio.sleep(0.05)

    async def until_followed(self, node: Node) -> None:
        """Wait until a node knows that another one would go on with its stream."""
        async with asyncio.timeout(30):
            while True:
                async with self.http.get(f"{node.url}/api/v1/streams/live") as response:
                    if (await response.json()).get("followed"):
                        return
                await asyncio.sleep(0.05)

    async def metric(self, node: Node, name: str, at: str = "http") -> float:
        async with self.http.get(f"http://{node.endpoints[at]}/metrics") as response:
            text = await response.text()
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M)
        return sum(map(float, found))

    async def push_both(self, source: Path) -> None:
        """Push to both origins, first to the one that is to own the stream."""
        self.encoders.append(push(source, self.made.ingest(self.origins[0])))
        await self.until_owned_by(self.origins[0])
        self.encoders.append(push(source, self.made.ingest(self.origins[1])))

    async def got(self) -> dict[str, bytes]:
        """Return what every viewer got, once the stream has ended."""
        results = await asyncio.gather(*self.watching.values())
        found: dict[str, bytes] = {}
        for name, result in zip(self.watching, results, strict=True):
            if isinstance(result, viewers.Watched):
                found[name] = bytes(result.data)
                continue
            for uri, track in result.items():
                assert not track.failures, (name, uri, track.failures[:5])
                assert not any("DISCONTINUITY\n" in text for text in track.playlists), name
                found[f"{name} {uri.rpartition('/')[2]}"] = track.stream()
        return found


@contextlib.asynccontextmanager
async def pair(folder: Path, settings: dict[str, str] | None = None) -> AsyncIterator[Pair]:
    stream = {"window": '"60s"', "reconnect": '"4s"'}
    with site(folder) as made:
        origins = [
            made.add("origin", f"origin{n}", settings or {}, stream=stream) for n in range(2)
        ]
        edges = [made.add("edge", f"edge{n}", stream=stream, seed=n + 1) for n in range(2)]
        start(*origins, *edges)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
            running = Pair(made, http, origins, edges)
            try:
                yield running
            finally:
                for task in running.watching.values():
                    task.cancel()
                for encoder in running.encoders:
                    encoder.kill()
                    encoder.wait()


def check(got: dict[str, bytes], source: Path, tracks: Sequence[str] = ("video", "audio")) -> None:
    """Check that everybody got every frame once and in order."""
    wrong = {}
    for name, data in got.items():
        kinds = ["video"] if name.endswith("1.m3u8") else ["audio"]
        for kind in kinds if "m3u8" in name else tracks:
            pushed, have = packets(source, kind), packets(data, kind)
            tick = 0.0012 if kind == "video" else AUDIO_TICK
            wrong[f"{name} {kind}"] = difference(pushed, have, tick=tick)
            if len(pushed) - len(have) > (0 if kind == "video" else 2):
                wrong[f"{name} {kind}"] += f" {len(have)} of {len(pushed)} frames"
    assert not {name: what for name, what in wrong.items() if what}


async def test_a_leader_that_is_killed_costs_no_frame_with_dual_ingest(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", 24)
    async with pair(tmp_path) as running:
        running.watch()
        await asyncio.sleep(0.3)
        await running.push_both(source)
        first, second = running.origins
        await running.until_aligned(second)
        await asyncio.sleep(5.3)
        before = await objects(running.http, running.edges[0])
        first.kill()
        took = await running.until_owned_by(second)
        print(f"taken over after {took:.3f} s")
        late = running.made.add("edge", "late", seed=9)
        await asyncio.to_thread(late.start)  # the viewers go on reading meanwhile
        await asyncio.sleep(3)
        every = [await objects(running.http, edge) for edge in (*running.edges, late)]
        assert same(every[0], every[1]) >= 20
        assert same(every[0], every[2]) >= 20
        assert same(before, every[2]) >= 5, "the late edge has not what was before"
        lost = [
            await running.metric(edge, "headwater_records_lost_total", "admin")
            for edge in running.edges
        ]
        assert lost == [0, 0]
        assert await running.metric(second, "headwater_takeovers_total") == 1
        check(await running.got(), source)


async def test_a_frozen_leader_steps_down_and_a_stopped_one_hands_over(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", 26)
    async with pair(tmp_path) as running:
        running.watch()
        await asyncio.sleep(0.3)
        await running.push_both(source)
        first, second = running.origins
        await running.until_aligned(second)
        await asyncio.sleep(3)
        os.kill(first.pid, signal.SIGSTOP)
        try:
            took = await running.until_owned_by(second)
            await asyncio.sleep(max(0.0, 5 - took))
        finally:
            os.kill(first.pid, signal.SIGCONT)
        print(f"frozen: taken over after {took:.3f} s")
        assert took < 3
        # It wakes with five seconds of frames in its sockets, and publishes none of them.
        await running.until_aligned(first)
        assert await running.metric(first, "headwater_step_downs_total") == 1
        assert await running.metric(first, "headwater_takeovers_total") == 0
        async with running.http.get(f"{first.url}/api/v1/streams/live") as response:
            said = await response.json()
        assert (said["role"], said["owner"]) == ("follower", second.name)
        assert await running.metric(second, "headwater_step_downs_total") == 0

        await running.until_followed(second)
        assert second.process is not None
        second.process.send_signal(signal.SIGTERM)
        took = await running.until_owned_by(first)
        print(f"stopped: taken over after {took:.3f} s")
        await asyncio.sleep(2)
        every = [await objects(running.http, edge) for edge in running.edges]
        assert same(every[0], every[1]) >= 20
        check(await running.got(), source)


async def test_an_origin_with_a_follower_restarts_under_load_and_no_viewer_sees_it(
    tmp_path: Path,
) -> None:
    source = clip(tmp_path / "clip.flv", 24)
    async with pair(tmp_path) as running:
        running.watch()
        await asyncio.sleep(0.3)
        await running.push_both(source)
        first, second = running.origins
        await running.until_aligned(second)
        await running.until_followed(first)
        await asyncio.sleep(3)
        before = ready.read(first.folder / "run", first.name)
        assert before is not None
        load = Load([edge.url for edge in running.edges], rate=1000.0)
        async with under(load), asyncio.timeout(30):
            await asyncio.sleep(1)
            os.kill(first.pid, signal.SIGHUP)
            took = await running.until_owned_by(second, 20)
            while (now := ready.read(first.folder / "run", first.name)) is None or (  # noqa: ASYNC110
                now.generation == before.generation
            ):
                await asyncio.sleep(0.05)
            await asyncio.sleep(1)
        print(
            f"handed over after {took:.3f} s; {load.asked.total()} requests, {load.reached:.0f}/s"
        )
        assert not load.failures, (len(load.failures), load.asked.total(), load.failures[:10])
        assert now.pid == before.pid
        assert await running.metric(second, "headwater_takeovers_total") == 1
        lost = [
            await running.metric(edge, "headwater_records_lost_total", "admin")
            for edge in running.edges
        ]
        assert lost == [0, 0]
        every = [await objects(running.http, edge) for edge in running.edges]
        assert same(every[0], every[1]) >= 20
        check(await running.got(), source)


async def test_an_encoder_that_loses_its_origin_goes_on_at_a_mirror(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", 40)
    async with pair(tmp_path, {"mirror": "true"}) as running:
        first, second = running.origins
        running.encoders.append(push(source, running.made.ingest(first)))
        await running.until_owned_by(first)
        edge = running.edges[0]
        await objects(running.http, edge)
        await asyncio.sleep(8)
        assert await running.metric(second, "headwater_stream_following") == 1
        before = await objects(running.http, edge)
        old = await running.owner()
        first.kill()
        killed = time.monotonic()
        running.encoders.append(push(source, running.made.ingest(second)))
        await running.until_owned_by(second)
        await resumed(running.http, edge)
        print(f"goes on after {time.monotonic() - killed:.3f} s, with the next segment closed")
        new = await running.owner()
        assert old is not None
        assert new is not None
        assert (new.epoch, new.term > old.term) == (old.epoch, True)
        late = running.made.add("edge", "late", seed=9)
        await asyncio.to_thread(late.start)
        await asyncio.sleep(1.5)
        after = [await objects(running.http, node) for node in (*running.edges, late)]
        assert same(after[0], after[1]) >= 10
        assert same(after[0], after[2]) >= 10
        kept = {name for name in before if "/s" in name} & set(after[2])
        assert len(kept) >= 2, "the window is gone"
        assert {after[2][name] for name in kept} == {before[name] for name in kept}


async def test_a_publisher_at_the_wrong_origin_is_passed_on(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", 8)
    async with pair(tmp_path) as running:
        first, second = running.origins
        # The stream belongs to the first origin, which waits for its publisher.
        early = push(source, running.made.ingest(first))
        running.encoders.append(early)
        await running.until_owned_by(first)
        await objects(running.http, running.edges[0])
        early.kill()
        early.wait()
        flv = viewers.progressive(running.http, f"{running.edges[0].url}/live.flv")
        ws = viewers.websocket(running.http, f"{running.edges[1].url}/live.mp4")
        watching = [asyncio.create_task(flv), asyncio.create_task(ws)]
        await asyncio.sleep(0.5)
        running.encoders.append(push(source, running.made.ingest(second)))
        got = await asyncio.gather(*watching)
        owner = await running.owner()
        assert owner is not None
        assert owner.node == first.name
        assert await running.metric(second, "headwater_publishers_forwarded_total") == 1
        whole = packets(source, "video")
        for watched in got:
            have = [one.payload for one in packets(bytes(watched.data), "video")]
            assert have[-len(whole) :] == [one.payload for one in whole]
