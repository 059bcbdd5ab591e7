"""What viewers see when the network between datacenters is cut, or bad."""

import asyncio
import bisect
import hashlib
import io
import itertools
import re
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import aiohttp
import av
import pytest

from tests.harness import viewers
from tests.harness.ledger import difference
from tests.harness.media import clip, packets, push
from tests.harness.netns import Space, internet
from tests.harness.nodes import Node, site, start

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

CBR = ("-b:v", "1900k", "-minrate", "1900k", "-maxrate", "1900k", "-bufsize", "300k",
       "-x264-params", "nal-hrd=cbr:force-cfr=1")  # fmt: skip
"""With 96 kbit/s of audio, 2 Mbit/s that never are less."""

ROUND_TRIP = 0.08
JOINING = 75
"""Frames at the start, while the edges find the stream and join it."""


class Outage(NamedTuple):
    """When a datacenter is cut off, in seconds from the start of the push, and how."""

    at: float
    seconds: float
    way: str = "both"


OUTAGES = {
    "near": (),
    "two": (Outage(6, 2), Outage(13, 3, "to far"), Outage(21, 3, "to home")),
    "eight": (Outage(6, 8),),
    "twenty": (Outage(6, 20),),
    "lossy": (),
}


@dataclass
class Far:
    """A datacenter with an edge, and what viewers there got."""

    name: str
    space: Space
    edge: Node
    outages: tuple["Outage", ...] = ()
    healed: list[float] = field(default_factory=list)
    """When each of the outages was over."""
    flv: viewers.Watched = field(default_factory=viewers.Watched)
    segments: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Segment -> when it was fetched, and its hash."""
    metrics: str = ""

    def silences(self) -> list[tuple[float, float]]:
        """Return for each outage how long viewers got nothing, and how much of it after its end."""
        times = [at for at, _ in self.flv.arrived]
        found = []
        for healed in self.healed:
            next_ = bisect.bisect(times, healed)
            found.append((times[next_] - times[next_ - 1], times[next_] - healed))
        return found

    @property
    def patience(self) -> float:
        """Seconds of buffer that its viewers need at least."""
        return max((outage.seconds for outage in self.outages), default=0.0)

    def total(self, name: str) -> float:
        pattern = rf"^headwater_{name}_total(?:{{[^}}]*}})? (\S+)$"
        return sum(float(one) for one in re.findall(pattern, self.metrics, re.M))


async def play_segments(http: aiohttp.ClientSession, far: Far) -> None:
    """Fetch every segment of the video as an old player does, which knows no parts."""
    url = f"{far.edge.url}/cmaf/live"
    async with http.get(f"{url}/index.m3u8") as response:
        assert response.status == 200
    while True:
        async with http.get(f"{url}/1.m3u8") as response:
            assert response.status == 200
            text = await response.text()
        for name in re.findall(r"^\S+/s\d+\.m4s$", text, re.M):
            if name not in far.segments:
                async with http.get(f"{url}/{name}") as response:
                    assert response.status == 200, (far.name, name, response.status)
                    sha = hashlib.sha256(await response.read()).hexdigest()
                far.segments[name] = time.monotonic(), sha
        if "#EXT-X-ENDLIST" in text:
            return
        await asyncio.sleep(0.3)


async def watch(far: Far) -> None:
    """Watch a stream in every way until it ends, and read the edge's metrics then."""
    async with far.space.http(timeout=aiohttp.ClientTimeout(total=120)) as http:
        flv = viewers.progressive(http, f"{far.edge.url}/live.flv", far.flv)
        await asyncio.gather(flv, play_segments(http, far))
        async with http.get(f"http://{far.edge.endpoints['admin']}/metrics") as response:
            far.metrics = await response.text()


async def cut(home: Space, far: Far, began: float) -> None:
    """Cut a datacenter off, once after the other."""
    for at, seconds, way in far.outages:
        await asyncio.sleep(began + at - time.monotonic())
        here, there = (far.space, home) if way == "to home" else (home, far.space)
        here.cut(there, one_way=way != "both")
        await asyncio.sleep(seconds)
        here.heal(there)
        far.healed.append(time.monotonic())


async def ask_balancer(http: aiohttp.ClientSession, balancer: Node) -> dict[str, bool]:
    """Return the edges, and whether the balancer would send anybody there."""
    async with http.get(f"{balancer.url}/api/v1/nodes") as response:
        return {node["node"]: not node["refused"] for node in await response.json()}


async def balance(home: Space, balancer: Node, far: Far, began: float) -> tuple[float, float]:
    """Return how long a balancer took to leave an edge out that is cut off, and to use it again."""
    took = []
    async with home.http() as http:
        for wanted, since in ((False, began + far.outages[0].at), (True, 0.0)):
            await asyncio.sleep(since - time.monotonic())
            async with asyncio.timeout(60):
                while (await ask_balancer(http, balancer)).get(far.name) is not wanted:
                    await asyncio.sleep(0.05)
                    since = since or (far.healed[0] if far.healed else 0.0)
            took.append(time.monotonic() - (since or far.healed[0]))
    return took[0], took[1]


def frame_times(watched: viewers.Watched) -> list[float]:
    """Return when each picture of an FLV file had arrived whole."""
    times = []
    arrived = iter(watched.arrived)
    at, size = next(arrived)
    with av.open(io.BytesIO(bytes(watched.data)), "r") as source:
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is None or packet.pos is None:
                continue
            while size < packet.pos + packet.size:
                at, size = next(arrived)
            times.append(at)
    return times


async def test_datacenters_that_are_cut_off_miss_nothing_and_one_behind_a_bad_line_is_in_time(
    tmp_path: Path,
) -> None:
    source = clip(tmp_path / "clip.flv", 34, *CBR)
    with internet(5) as spaces, site(tmp_path) as made:
        home = spaces[0]
        origin = made.add("origin", "origin", stream={"reconnect": '"1s"'}, space=home)
        balancer = made.add("balancer", "balancer", space=home)
        found = [
            Far(name, space, made.add("edge", name, space=space), outages)
            for space, (name, outages) in zip(spaces, OUTAGES.items(), strict=True)
        ]
        near, *cut_off, lossy = found
        for one, other in itertools.combinations(spaces[1:], 2):
            one.cut(other)  # they have no way to each other but through the first
        for far in cut_off:
            home.line(far.space, delay=0.02, rate=50e6)
        home.line(lossy.space, delay=ROUND_TRIP / 2, loss=0.02, rate=20e6)
        for space in (home, lossy.space):
            space.congestion("bbr")
        start(origin, balancer, *(far.edge for far in found))
        tasks = [asyncio.create_task(watch(far)) for far in found]
        await asyncio.sleep(1.5)
        began = time.monotonic()
        publisher = push(source, made.ingest(origin), home)
        try:
            cuts = [asyncio.create_task(cut(home, far, began)) for far in found]
            balanced = asyncio.create_task(balance(home, balancer, cut_off[2], began))
            await asyncio.gather(*tasks, *cuts)
            left_out, used_again = await balanced
        finally:
            publisher.kill()
            publisher.wait()
            report(found)
    print(f"balancer: left out after {left_out:.2f} s, used again after {used_again:.2f} s")
    check_frames(found, source)
    for far in cut_off:
        for outage, (_, back) in zip(far.outages, far.silences(), strict=True):
            assert back < 1.0, f"{far.name}, {outage}: next frame {back:.2f} s after the heal"
        assert far.total("records_repaired") > 0
    assert cut_off[-1].silences()[0][0] > 19, "it was not cut off"
    behind = delays(near, lossy)
    assert behind[-len(behind) // 100] < 3 * ROUND_TRIP + 1, behind[-20:]
    assert left_out < 2
    assert used_again < 3


def delays(near: Far, far: Far) -> list[float]:
    """Return how much later than near viewers those there got each picture, sorted."""
    pairs = zip(frame_times(near.flv), frame_times(far.flv), strict=True)
    return sorted(late - early for early, late in list(pairs)[JOINING:])


def check_frames(found: list[Far], source: Path) -> None:
    """See that everybody got every frame, and the same bytes."""
    near = found[0]
    for far in found:
        data = bytes(far.flv.data)
        assert not difference(packets(source, "video"), packets(data, "video")), far.name
        assert len(packets(data, "video")) == 34 * 25, far.name
        assert not difference(packets(source, "audio"), packets(data, "audio"), tick=0.0025)
        assert far.total("records_lost") == 0, far.name
        theirs = {name: sha for name, (_, sha) in far.segments.items()}
        assert theirs == {name: sha for name, (_, sha) in near.segments.items()}, far.name
        behind = [at - near.segments[name][0] for name, (at, _) in far.segments.items()]
        assert max(behind) < far.patience + 3, (far.name, behind)


def report(found: list[Far]) -> None:
    """Print the figures of a run."""
    for far in found:
        if not far.flv.arrived or not far.metrics:
            continue
        counts = {
            name: int(far.total(f"records_{name}")) for name in ("lost", "repaired", "backfilled")
        }
        print(f"{far.name}: {counts}, reconnects {far.total('bus_reconnects'):.0f}")
        for outage, (silence, back) in zip(far.outages, far.silences(), strict=False):
            print(f"  {outage}: silence {silence:.2f} s, back {back:.2f} s after the heal")
        behind = delays(found[0], far)
        print(
            f"  later than near: p50 {statistics.median(behind):.3f} s,"
            f" p99 {behind[-len(behind) // 100]:.3f} s, longest {behind[-1]:.3f} s"
        )
