"""Running viewers are moved: off an edge that drains, and away from one that dies."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.test_browser import node, play
from tests.harness import hlsjs, pushed
from tests.harness.cluster import alive, descendants
from tests.harness.hlsjs import PLAIN, REDUNDANT, STEERED, Player
from tests.harness.nodes import Node, Site, site, start

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

SEGMENT = 2.0
SEGMENTS = 6
STALL = 150.0
"""Milliseconds without anything to show that a person may notice."""

SLOWEST = 0.95
"""How fast the page plays while it wants more in its buffer (edge/player/rate.js)."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An origin with a test picture, three edges, a balancer."""
    stream = {"source": '"videogen://"', "part": '"2s"'}
    with site(tmp_path_factory.mktemp("moving")) as found:
        nodes = [found.add("origin", "origin", stream=stream), found.add("balancer", "balancer")]
        nodes += [found.add("edge", f"edge{n}", {"viewers": "1"}) for n in (1, 2, 3)]
        start(*nodes)
        yield found


async def headwater(made: Site, *arguments: str) -> "subprocess.CompletedProcess[str]":
    where = ["--set", f"node.registry={made.folder / 'registry'}"]
    command = [str(Path(sys.executable).with_name("headwater")), *arguments, *where]

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return await asyncio.to_thread(run)


async def ready(http: aiohttp.ClientSession, edge: Node) -> bool:
    async with http.get(f"http://{edge.endpoints['admin']}/readyz") as response:
        return response.status == 200


async def draining(http: aiohttp.ClientSession, edge: Node) -> None:
    async with asyncio.timeout(60):
        while await ready(http, edge):  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.05)


async def sessions(http: aiohttp.ClientSession, edge: Node) -> int:
    async with http.get(f"http://{edge.endpoints['admin']}/api/v1/node") as response:
        return int((await response.json())["sessions"])


async def opened(http: aiohttp.ClientSession, edge: Node) -> float:
    """Return how many sessions an edge has ever opened."""
    async with http.get(f"http://{edge.endpoints['admin']}/metrics") as response:
        text = await response.text()
    found = re.findall(r"^headwater_sessions_opened_total{[^}]*} (\S+)$", text, re.M)
    return sum(map(float, found))


async def known(http: aiohttp.ClientSession, edge: Node) -> None:
    """Wait until an edge tells players of the balancer and of two siblings, of sound, and of as
    many segments as they want in their buffers: a stream that has just begun is not tried here."""
    async with asyncio.timeout(60):
        while True:
            async with http.get(f"{edge.url}/cmaf/live/index.m3u8") as response:
                text = await response.text()
            async with http.get(f"{edge.url}/cmaf/live/1.m3u8") as response:
                segments = (await response.text()).count("#EXTINF")
            told = "CONTENT-STEERING" in text and text.count("#EXT-X-STREAM-INF") == 3
            if told and "AUDIO=" in text and segments >= SEGMENTS:
                return
            await asyncio.sleep(0.1)


async def page_plays(http: aiohttp.ClientSession, edge: Node) -> None:
    """Wait until a browser watches at an edge."""
    async with asyncio.timeout(90):
        while True:
            async with http.get(f"http://{edge.endpoints['admin']}/api/v1/sessions") as response:
                found = (await response.json())["sessions"]
            if [one for one in found if "Chrome" in one["agent"] and one["bytes"] > 0]:
                return
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def crowd(*jobs: Any) -> Any:
    """Run all jobs for the time of a block."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield tasks
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_the_player_changes_between_edges_at_a_keyframe_and_knows_where_to_go() -> None:
    seen = node("seam.mjs")
    for kind in ("level", "ahead", "behind"):
        assert seen[kind]["shown"] == [*range(60)], kind
        assert seen[kind]["changed"] < 35, kind
        assert seen[kind]["header"] == [{"codecs": "avc1.42C01E,mp4a.40.2"}, {"data": "init"}]
    dead = seen["dead"]["shown"]
    assert dead == [*range(27), *range(20, 60)], "it begins at the newest keyframe"
    chosen = seen["chosen"]["moved"]
    assert chosen == ["http://e3", "http://e4", "http://e1", "https://e9:8443"]


def arriving(jobs: list[Any]) -> list[Any]:
    """Begin them one after the other: a join storm is not what is tried here."""

    async def later(number: int, job: Any) -> None:
        try:
            await asyncio.sleep(number * 0.015)
            begun = asyncio.ensure_future(job)
        except asyncio.CancelledError:
            job.close()
            raise
        await begun

    return [later(number, job) for number, job in enumerate(jobs)]


async def test_a_drain_moves_five_hundred_viewers_in_time_and_fails_no_request(
    made: Site, tmp_path: Path
) -> None:
    first, balancer = made.nodes["edge1"], made.nodes["balancer"]
    master = f"{first.url}/cmaf/live/index.m3u8"
    players = [Player(master, f"steered-{n}") for n in range(100)]
    players += [Player(master, f"redundant-{n}", REDUNDANT) for n in range(20)]
    codes: Counter[str] = Counter()
    async with aiohttp.ClientSession() as http:
        await known(http, first)
        others = audience(first, balancer, codes)
        everybody = [*(player.run() for player in players), *others]
        async with crowd(hlsjs.clock(players), *arriving(everybody)) as tasks:
            page = asyncio.create_task(
                asyncio.to_thread(play, f"{first.url}/live.html?proto=ws", 20, tmp_path / "ws.png")
            )
            await came(http, first, 501, tasks)
            await page_plays(http, first)
            for player in players:
                player.stalled = player.longest = 0.0
                player.failed.clear()
            drain = asyncio.create_task(
                headwater(made, "drain", "edge1", "--timeout", "30s", "--wait")
            )
            await draining(http, first)
            began = time.monotonic()
            await asyncio.sleep(1.0)
            joined = await opened(http, first)
            async with http.get(master, allow_redirects=False) as response:
                assert response.status == 307
                assert response.headers["Location"].startswith(balancer.url)
            done = await drain
            took = time.monotonic() - began
            assert await opened(http, first) == joined, "somebody new got in"
            assert not await ready(http, first)
            seen = await page
            await headwater(made, "undrain", "edge1")
        await open_again(http, master)
    print(done.stdout, f"{took:.1f} s")
    assert done.returncode == 0, done
    assert took < 32, "the time of the drain, and that of two reports"
    check_drained(players, codes)
    check_page(seen, {made.nodes["edge2"].url, made.nodes["edge3"].url})


def check_drained(players: list[Player], codes: Counter[str]) -> None:
    failed = [one for player in players for one in player.failed]
    longest = max(player.longest for player in players)
    stalls = {
        kind: round(max(one.longest for one in players if one.kind == kind), 2)
        for kind in (STEERED, REDUNDANT)
    }
    figures = {
        "requests": sum(player.requests for player in players),
        "failed": len(failed),
        "codes": dict(codes),
        "edges": dict(Counter(player.edge for player in players)),
        "longest stalls": stalls,
    }
    print(json.dumps(figures))
    assert not failed, failed[:5]
    assert set(codes) <= {"moved", "ended"}, codes
    assert codes["moved"] >= 190
    assert longest < SEGMENT
    assert all(player.gaps == 0 for player in players)


def check_page(seen: dict[str, Any], edges: set[str]) -> None:
    told = ("dry", "waited", "moves", "stuck", "longest", "edge", "stats", "p50", "wall", "frames")
    print({key: seen[key] for key in told})
    assert seen["stats"]["moves"] == 1, seen
    assert seen["stats"]["reconnects"] == 0, seen
    assert seen["stats"]["state"] == "playing", seen
    assert seen["frames"] >= 0.9 * 25 * seen["wall"], seen
    assert not seen["consoleErrors"], seen
    assert seen["edge"] in edges, seen


async def test_a_page_alone_is_moved_by_a_drain_without_a_stall(made: Site, tmp_path: Path) -> None:
    first, enough = made.nodes["edge1"], tmp_path / "enough"
    async with aiohttp.ClientSession() as http:
        await known(http, first)
        url = f"{first.url}/live.html?proto=ws"
        page = asyncio.create_task(asyncio.to_thread(play, url, 60, tmp_path / "ws.png", enough))
        await page_plays(http, first)
        await asyncio.sleep(2)  # it plays for a while before
        done = await headwater(made, "drain", "edge1", "--timeout", "9s", "--wait")
        await asyncio.sleep(2)  # and after
        enough.touch()
        seen = await page
        await headwater(made, "undrain", "edge1")
        await open_again(http, f"{first.url}/cmaf/live/index.m3u8")
    assert done.returncode == 0, done
    check_page(seen, {made.nodes["edge2"].url, made.nodes["edge3"].url})
    check_seamless(seen)


def check_seamless(seen: dict[str, Any]) -> None:
    """Check that the player had something to show all the time, while it moved too."""
    assert len(seen["moves"]) == 1, seen
    assert seen["dry"] < STALL, seen
    assert seen["advanced"] >= SLOWEST * seen["wall"] - STALL / 1000, seen


def audience(edge: Node, balancer: Node, codes: Counter[str]) -> list[Any]:
    """Return 190 viewers on WebSockets and 190 progressive ones."""
    address = edge.url.replace("http", "ws", 1)
    jobs: list[Any] = [
        pushed.websocket(f"{address}/live.mp4?autoplay=1", codes) for _ in range(190)
    ]
    for kind in ("mp4", "flv"):
        urls = (f"{edge.url}/live.{kind}", f"{balancer.url}/live.{kind}")
        jobs += [pushed.progressive(*urls, codes) for _ in range(95)]
    return jobs


async def came(
    http: aiohttp.ClientSession, edge: Node, count: int, tasks: list[asyncio.Task[Any]]
) -> None:
    """Wait until an edge has so many viewers."""
    async with asyncio.timeout(90):
        while await sessions(http, edge) < count:
            assert not [task for task in tasks if task.done()]
            await asyncio.sleep(0.2)


async def open_again(http: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(30):
        while True:
            async with http.get(url, allow_redirects=False) as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.05)


async def test_an_edge_that_is_killed_costs_no_viewer_more_than_a_segment(
    made: Site, tmp_path: Path
) -> None:
    victim, balancer = made.nodes["edge2"], made.nodes["balancer"]
    master = f"{victim.url}/cmaf/live/index.m3u8"
    players = [Player(master, f"steered-{n}") for n in range(140)]
    players += [Player(master, f"redundant-{n}", REDUNDANT) for n in range(40)]
    players += [Player(master, f"plain-{n}", PLAIN) for n in range(20)]
    async with aiohttp.ClientSession() as http:
        await known(http, victim)
        async with http.get(master) as response:
            (tmp_path / "master.m3u8").write_text(await response.text())
        assert node("lint_hls.mjs", str(tmp_path / "master.m3u8"))["findings"] == []
        everybody = arriving([player.run() for player in players])
        async with crowd(hlsjs.clock(players), *everybody) as tasks:
            page = asyncio.create_task(
                asyncio.to_thread(play, f"{victim.url}/live.html?proto=hls", 20, tmp_path / "h.png")
            )
            await came(http, victim, 201, tasks)
            await page_plays(http, victim)
            await started(players)
            for player in players:
                player.url = player.url.replace(victim.url, balancer.url)
                player.stalled = player.longest = 0.0
                player.failed.clear()
            kill(victim)
            for player in players:
                player.lost_at = asyncio.get_running_loop().time()
            seen = await page
            before = [player.playhead or 0.0 for player in players]
            await asyncio.sleep(2)
            for player, position in zip(players, before, strict=True):
                assert (player.playhead or 0.0) > position + 1, f"{player.name} plays no more"
    by_kind = {
        kind: {
            "longest": round(max(one.longest for one in players if one.kind == kind), 2),
            "gaps": sum(one.gaps for one in players if one.kind == kind),
            "back": round(max(one.back or 99.0 for one in players if one.kind == kind), 2),
            "moves": max(one.moves for one in players if one.kind == kind),
            "edges": sorted(Counter(p.edge for p in players if p.kind == kind).values()),
        }
        for kind in (STEERED, REDUNDANT, PLAIN)
    }
    page_seen = {key: seen[key] for key in ("stuck", "waits", "longest", "stats", "advanced")}
    print(json.dumps({**by_kind, "page": page_seen}))
    assert all(player.edge != victim.endpoints["http"] for player in players)
    assert all(player.gaps == 0 for player in players)
    assert max(player.longest for player in players) < SEGMENT, by_kind
    steered = Counter(player.edge for player in players if player.kind == STEERED)
    assert min(steered.values()) >= 35, "they did not spread"
    assert seen["longest"] < SEGMENT * 1000, seen
    assert seen["advanced"] >= seen["wall"] - SEGMENT, seen


async def started(players: list[Player]) -> None:
    """Wait until all play, and those who ask the balancer have its answer."""
    async with asyncio.timeout(60):
        for one in players:
            while not one.playhead or (one.kind == STEERED and not one.priority):  # noqa: ASYNC110 - other tasks play
                await asyncio.sleep(0.1)


def kill(edge: Node) -> None:
    """Kill an edge and all of its processes at once."""
    family = [edge.pid, *descendants(edge.pid)]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):  # children die with the first of them
            os.kill(pid, signal.SIGKILL)
    assert edge.process is not None
    edge.process.wait()
    deadline = time.monotonic() + 30
    while [pid for pid in family if alive(pid)]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
