"""An upgrade of every node of a running cluster, under load, and what its viewers see of it."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from common.runtime import ready
from tests.e2e.test_browser import HARNESS
from tests.e2e.test_moving import SLOWEST, STALL
from tests.harness.cluster import descendants
from tests.harness.load import Load, under
from tests.harness.media import clip, push
from tests.harness.nodes import Node, Site, site, start

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

RATE = 1000.0
RESTART_TIMEOUT = 60.0
GROWTH = 16.0
"""Megabytes that a process may have more after ten restarts: what it has answered with lately."""

FAMILY = 3
"""Processes of an edge besides the supervisor: the nursery, the worker and one viewer process."""

EDGES = ("edge1", "edge2")
TOLD = ("wall", "advanced", "dry", "waited", "moves", "longest", "stuck", "stats")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """An origin that is published to, a relay, two edges and a balancer."""
    source = clip(tmp_path / "clip.flv", 240, size="320x180")
    with site(tmp_path) as made:
        made.add("origin", "origin", stream={"window": '"150s"'})
        made.add("relay", "relay")
        for name in EDGES:
            made.add("edge", name, {"viewers": "1", "retire": '"10s"'})
        made.add("balancer", "balancer")
        start(*made.nodes.values())
        publisher = push(source, made.ingest(made.nodes["origin"]))
        try:
            async with aiohttp.ClientSession() as http:
                for name in EDGES:
                    await segments(http, made.nodes[name], least=2)
            yield made
        finally:
            publisher.kill()
            publisher.wait()


async def segments(http: aiohttp.ClientSession, edge: Node, least: int = 1) -> dict[str, str]:
    """Return the SHA-256 of every finished segment that an edge lists, once there are enough."""
    base = f"{edge.url}/cmaf/live/"
    async with asyncio.timeout(60):
        while True:
            async with http.get(f"{base}1.m3u8") as answer:
                listed = re.findall(r"^\S+/s\d+\.m4s$", await answer.text(), re.M)
            if len(listed) >= least:
                break
            await asyncio.sleep(0.1)
    found = {}
    for name in listed:
        async with http.get(base + name) as answer:
            assert answer.status == 200, name
            found[name] = hashlib.sha256(await answer.read()).hexdigest()
    return found


async def restart(node: Node) -> float:
    """Restart a node in place; return the seconds until it is ready again."""
    before = ready.read(node.folder / "run", node.name)
    assert before is not None
    began = time.monotonic()
    os.kill(node.pid, signal.SIGHUP)
    while True:
        now = ready.read(node.folder / "run", node.name)
        if now is not None and now.generation > before.generation:
            assert now.pid == before.pid
            return time.monotonic() - began
        assert now is None or now.refused == before.refused, now
        assert time.monotonic() - began < RESTART_TIMEOUT, node.log.read_text()[-3000:]
        await asyncio.sleep(0.02)


async def settled(node: Node, processes: int) -> None:
    """Wait until no process of an earlier image is left."""
    async with asyncio.timeout(60):
        while len(descendants(node.pid)) != processes:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)


class Held(NamedTuple):
    """What a process holds."""

    descriptors: int
    """Without those of pages, which come and go with the window."""

    pages: int
    """Descriptors of pages."""

    threads: int
    megabytes: float
    """Of memory that is its own: pages are of the stream."""


def held(node: Node) -> dict[str, Held]:
    """Return what the processes of a node hold, by what they run."""
    found = {}
    for pid in [node.pid, *descendants(node.pid)]:
        proc = Path(f"/proc/{pid}")
        command = (proc / "cmdline").read_bytes().split(b"\0")
        own = re.search(r"Pss_Anon: +(\d+)", (proc / "smaps_rollup").read_text())
        assert own is not None
        threads = len(os.listdir(proc / "task"))
        found[command[2].decode()] = Held(*_descriptors(proc), threads, int(own[1]) / 1024)
    return found


def more(before: dict[str, Held], now: dict[str, Held]) -> bool:
    """Return whether a process holds more descriptors than before, and two to spare."""
    return any(one.descriptors > before[name].descriptors + 2 for name, one in now.items())


def _descriptors(proc: Path) -> tuple[int, int]:
    """Return how many descriptors of others, and of pages, a process has."""
    links = []
    for one in (proc / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(one).removesuffix(" (deleted)"))
    pages = sum(link.endswith(".page") for link in links)
    return len(links) - pages, pages


async def total(http: aiohttp.ClientSession, edge: Node, name: str) -> float:
    async with http.get(f"http://{edge.endpoints['admin']}/metrics") as answer:
        text = await answer.text()
    return sum(float(one) for one in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))


def gaps(edge: Node) -> list[float]:
    """Return the seconds for which no worker of an edge wrote, restart by restart."""
    return [float(one) for one in re.findall(r"worker changed seconds=(\S+)", edge.log.read_text())]


@pytest.mark.long
async def test_no_request_fails_while_every_node_restarts(running: Site) -> None:
    edges = [running.nodes[name] for name in EDGES]
    balancer = running.nodes["balancer"]
    async with aiohttp.ClientSession() as http:
        before = await segments(http, edges[0])
        shared = len(os.listdir(running.pages))
        load = Load([edge.url for edge in edges], balancer.url, rate=RATE)
        took = {}
        async with under(load):
            await asyncio.sleep(1)
            for name in (*EDGES, "relay", "balancer"):
                took[name] = round(await restart(running.nodes[name]), 2)
                await asyncio.sleep(1)
        after = [await segments(http, edge) for edge in edges]
        lost = [await total(http, edge, "headwater_records_lost_total") for edge in edges]
    slowest = {kind: round(seconds, 2) for kind, seconds in load.slowest.items()}
    print(
        json.dumps(
            {
                "asked": load.asked,
                "rate": round(load.reached),
                "slowest": slowest,
                "again": load.again,
            }
        )
    )
    print(json.dumps({"restarts": took, "no writer": [gaps(edge) for edge in edges]}))
    assert not load.failures, (len(load.failures), load.asked.total(), load.failures[:10])
    assert lost == [0, 0]
    for listed in after:
        same = listed.keys() & before.keys()
        assert same, "the window is gone"
        assert {name: listed[name] for name in same} == {name: before[name] for name in same}
    assert after[0].keys() & after[1].keys()
    assert len(os.listdir(running.pages)) == shared
    for edge in edges:
        await settled(edge, FAMILY)
        assert max(gaps(edge)) < 0.3
    await settled(balancer, 0)


@pytest.mark.long
async def test_ten_restarts_of_one_edge_fail_nothing_and_leave_nothing(running: Site) -> None:
    edge = running.nodes["edge1"]
    await restart(edge)  # what is allocated once is allocated now
    await settled(edge, FAMILY)
    async with aiohttp.ClientSession() as http:
        hashes = await segments(http, edge)  # from now on the stream's pages are open
    before, shared = held(edge), sorted(os.listdir(running.pages / "edge1"))
    load = Load([edge.url], running.nodes["balancer"].url, rate=RATE)
    async with under(load):
        took = [round(await restart(edge), 2) for _ in range(10)]
    async with aiohttp.ClientSession() as http:
        after = await segments(http, edge)
    figures = {"asked": load.asked, "rate": round(load.reached), "restarts": took}
    kept = hashes.keys() & after.keys()
    told = {"again": load.again, "segments": len(kept), "no writer": gaps(edge)}
    print(json.dumps({**figures, **told}))
    assert kept
    assert {name: after[name] for name in kept} == {name: hashes[name] for name in kept}
    assert not load.failures, (len(load.failures), load.asked.total(), load.failures[:10])
    await settled(edge, FAMILY)
    assert sorted(os.listdir(running.pages / "edge1")) == shared
    async with asyncio.timeout(30):
        while more(before, held(edge)):  # noqa: ASYNC110 - connections of another process end
            await asyncio.sleep(0.1)
    after_all = held(edge)
    print(json.dumps({"before": before, "after": after_all}))
    files = len([*(running.pages / "edge1").rglob("*.page")])
    for name, now in after_all.items():
        assert now.pages <= files + 2, (files, before, after_all)
        assert now.threads <= before[name].threads, (before, after_all)
        assert now.megabytes < before[name].megabytes + GROWTH, (before, after_all)


@pytest.mark.parametrize("protocol", ["ws", "hls"])
async def test_the_player_page_sees_no_stall_when_its_edge_restarts(
    running: Site, tmp_path: Path, protocol: str
) -> None:
    edge = running.nodes["edge1"]
    url = f"{edge.url}/live.html?proto={protocol}"
    enough = tmp_path / "enough"
    script = [str(HARNESS / "play.mjs"), url, "90", str(tmp_path / "seen.png"), str(enough)]
    browser = await asyncio.create_subprocess_exec(
        "node", *script, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    task = asyncio.create_task(browser.communicate())
    while not await watched(edge):
        assert not task.done(), task.result()
        await asyncio.sleep(0.1)
    await asyncio.sleep(4)
    took = await restart(edge)
    await asyncio.sleep(6)  # a third of the time that old processes have; the page is moved by then
    enough.touch()
    out, error = await task
    assert browser.returncode == 0, error[-3000:]
    seen = json.loads(out.decode().strip().splitlines()[-1])
    print(json.dumps({key: seen[key] for key in TOLD}), took)
    assert seen["protocol"] == protocol
    assert seen["dry"] < STALL, seen
    assert seen["advanced"] >= SLOWEST * seen["wall"] - STALL / 1000, seen
    if protocol == "ws":
        assert seen["stats"]["moves"] == 1, seen
    assert not seen["badResponses"], seen


async def watched(edge: Node) -> bool:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{edge.endpoints['admin']}/api/v1/sessions") as answer,
    ):
        return bool((await answer.json())["sessions"])
