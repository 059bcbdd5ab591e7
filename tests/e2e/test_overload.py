"""An edge whose memory fills: what it gives up, in order; who keeps up misses no frame."""

import asyncio
import contextlib
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.harness import viewers
from tests.harness.cluster import descendants
from tests.harness.ledger import difference, first_key, missing_at_start
from tests.harness.media import Packet, clip, packets, push
from tests.harness.nodes import Node, Site, site

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.long]

MEGABYTE = 2**20
SECONDS = 48
"""Length of the stream: more than is always kept of its past."""

CALM = 33.0
"""Seconds of it after which the viewers come who read nothing."""

RATE = "8M"
"""Bits a second: so that memory fills in seconds."""

MOST = 300 * MEGABYTE
"""What the edge may take: some 110 MB for its processes, the rest for pages and viewers."""

STUCK = 24
"""Viewers who read nothing: together 24 MB/s, less between two looks of the edge than lies between
the last stage and its end."""

PATIENCE = 20.0


class Watch:
    """What the edge took, and which stages were on, from the first look on."""

    def __init__(self, edge: Node) -> None:
        self.edge = edge
        self.most = 0
        self.stages: dict[str, float] = {}
        """When each stage was first seen."""

        self.said: dict[str, float] = {}
        """The newest value of each metric."""

    async def run(self, http: aiohttp.ClientSession) -> None:
        began = time.monotonic()
        while True:
            await self.look(http)
            self.most = max(self.most, self.taken())
            for name, on in self.said.items():
                if name.startswith("headwater_overload{") and on:
                    stage = name.split('"')[1]
                    self.stages.setdefault(stage, time.monotonic() - began)
            await asyncio.sleep(0.1)

    async def look(self, http: aiohttp.ClientSession) -> None:
        async with http.get(f"http://{self.edge.endpoints['admin']}/metrics") as answer:
            text = await answer.text()
        found = re.findall(r"^(headwater_\S+) (\S+)$", text, re.MULTILINE)
        self.said = {name: float(value) for name, value in found}

    def taken(self) -> int:
        """Return the bytes of memory of all processes, and of the pages."""
        pids = [self.edge.pid, *descendants(self.edge.pid)]
        return sum(map(private, pids)) + int(self.total("headwater_page_bytes"))

    def total(self, name: str) -> float:
        return sum(value for key, value in self.said.items() if key.partition("{")[0] == name)


def private(pid: int) -> int:
    """Return the bytes of a process's memory, of what it shares with others its part."""
    with contextlib.suppress(OSError):  # it has just ended
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(re.findall(r"Pss_Anon:\s+(\d+)", rollup)[0]) * 1024
    return 0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Site, Node, Node]]:
    with site(tmp_path) as made:
        origin = made.add("origin", "origin")
        patient = {"stall": '"60s"', "slow": '"60s"', "uvloop": "false", "viewers": "1"}
        edge = made.add("edge", "edge", {**patient, "memory_max": str(MOST)})
        origin.start()
        edge.start()
        yield made, origin, edge


@contextlib.asynccontextmanager
async def stuck(address: str) -> AsyncIterator[None]:
    """Have viewers who ask for the stream and never read."""
    loop, held = asyncio.get_running_loop(), []
    host, _, port = address.rpartition(":")
    try:
        for _ in range(STUCK):
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.setblocking(False)
            held.append(one)
            await loop.sock_connect(one, (host, int(port)))
            await loop.sock_sendall(one, b"GET /live.mp4 HTTP/1.1\r\nHost: x\r\n\r\n")
        yield
    finally:
        for one in held:
            one.close()


async def refused(http: aiohttp.ClientSession, url: str) -> str:
    """Come anew until that is refused; return what the answer says of when to come again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with http.get(url) as answer:
                if answer.status == 503:
                    return answer.headers["Retry-After"]
            await asyncio.sleep(0.1)


async def test_slow_viewers_are_cut_and_others_miss_nothing_as_memory_fills(
    nodes: tuple[Site, Node, Node], tmp_path: Path
) -> None:
    made, origin, edge = nodes
    rate = ("-b:v", RATE, "-minrate", RATE, "-maxrate", RATE, "-bufsize", RATE)
    source = clip(tmp_path / "clip.flv", SECONDS, *rate, "-x264-params", "nal-hrd=cbr:filler=1")
    video, audio = packets(source, "video"), packets(source, "audio")
    base = f"http://{edge.endpoints['http']}"
    watch, fast = Watch(edge), [viewers.Watched() for _ in range(3)]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECONDS + 60)) as http:
        watching = asyncio.create_task(watch.run(http))
        viewing = [
            *(
                asyncio.create_task(viewers.progressive(http, f"{base}/live.mp4", one))
                for one in fast
            ),
            asyncio.create_task(viewers.ll_hls(http, f"{base}/cmaf/live/index.m3u8")),
        ]
        process = push(source, made.ingest(origin))
        try:
            async with asyncio.timeout(PATIENCE):
                while not all(one.arrived for one in fast):  # noqa: ASYNC110 - they only keep
                    await asyncio.sleep(0.05)
            await asyncio.sleep(CALM)  # so that the stream has a past
            async with stuck(edge.endpoints["http"]):
                again = await refused(http, f"{base}/live.flv")
                await asyncio.gather(*viewing)
            await watch.look(http)
        finally:
            watching.cancel()
            process.kill()
            process.wait()
    cut = watch.said['headwater_viewers_cut_total{protocol="mp4",reason="overload"}']
    dropped = watch.total("headwater_history_dropped_bytes_total")
    sys.stdout.write(
        f"at most {watch.most / MEGABYTE:.0f} of {MOST / MEGABYTE:.0f} MB, {cut:.0f} of {STUCK} "
        f"who read nothing were cut, {dropped / MEGABYTE:.1f} MB of history dropped, newcomers to "
        f"come again after {again} s; stages first seen after "
        + ", ".join(f"{name} {when:.1f} s" for name, when in watch.stages.items())
        + "\n"
    )
    for one in fast:
        assert check(bytes(one.data), video, audio) == []
    assert list(watch.stages) == ["refuse", "history", "cut"]
    assert watch.most <= MOST
    assert dropped > 0
    assert 0 < cut <= STUCK
    assert watch.said.get('headwater_viewers_cut_total{protocol="http",reason="overload"}', 0) == 0


def check(data: bytes, video: list[Packet], audio: list[Packet]) -> list[str]:
    """Return what a viewer missed from its first keyframe on."""
    wrong = []
    for kind, pushed in (("video", video[first_key(video) :]), ("audio", audio)):
        got = packets(data, kind)
        wrong.append(difference(pushed, got, tick=0.005))
        if kind == "video" and missing_at_start(pushed, got):
            wrong.append(f"{missing_at_start(pushed, got)} missing at the start")
    return [what for what in wrong if what]
