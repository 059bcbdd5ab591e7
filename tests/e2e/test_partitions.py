"""What viewers see when the network between datacenters is cut, or bad."""

import asyncio
import hashlib
import io
import itertools
import re
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import av
import pytest

from tests.harness import viewers
from tests.harness.ledger import difference
from tests.harness.media import clip, packets, push
from tests.harness.netns import Space, internet
from tests.harness.nodes import Node, site

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

CBR = ("-b:v", "1900k", "-minrate", "1900k", "-maxrate", "1900k", "-bufsize", "300k",
       "-x264-params", "nal-hrd=cbr:force-cfr=1")  # fmt: skip
"""With 96 kbit/s of audio, 2 Mbit/s that never are less."""

CUT_AT = 6.0
"""Seconds from the start of the push to the cuts."""

ROUND_TRIP = 0.08


@dataclass
class Far:
    """A datacenter with an edge, and what viewers there got."""

    name: str
    space: Space
    edge: Node
    outage: float = 0.0
    healed: float = 0.0
    flv: viewers.Watched = field(default_factory=viewers.Watched)
    segments: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Segment -> when it was fetched, and its hash."""
    metrics: str = ""

    def silence(self) -> tuple[float, float]:
        """Return the longest time without a byte, and when it ended."""
        times = [at for at, _ in self.flv.arrived]
        return max((after - before, after) for before, after in itertools.pairwise(times))

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


async def cut(origin: Space, far: Far, began: float) -> None:
    """Cut a datacenter off for as long as it says."""
    if not far.outage:
        return
    await asyncio.sleep(began + CUT_AT - time.monotonic())
    origin.cut(far.space)
    await asyncio.sleep(far.outage)
    origin.heal(far.space)
    far.healed = time.monotonic()


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
        origin.start()
        found = []
        for name, space, outage in zip(
            ("near", "two", "eight", "twenty", "lossy"),
            spaces,
            (0.0, 2.0, 8.0, 20.0, 0.0),
            strict=True,
        ):
            found.append(Far(name, space, made.add("edge", name, space=space), outage))
        near, *cut_off, lossy = found
        for far in cut_off:
            home.line(far.space, delay=0.02, rate=50e6)
        home.line(lossy.space, delay=ROUND_TRIP / 2, loss=0.02, rate=20e6)
        for space in (home, lossy.space):
            space.congestion("bbr")
        for far in found:
            far.edge.start()
        tasks = [asyncio.create_task(watch(far)) for far in found]
        await asyncio.sleep(1.5)
        began = time.monotonic()
        publisher = push(source, made.ingest(origin), home)
        try:
            cuts = [asyncio.create_task(cut(home, far, began)) for far in found]
            await asyncio.gather(*tasks, *cuts)
        finally:
            publisher.kill()
            publisher.wait()
            report(found)
    check_frames(found, source)
    for far in cut_off:
        longest, ended = far.silence()
        back = ended - far.healed
        assert back < 1.0, f"{far.name}: viewers saw the next frame {back:.2f} s after the heal"
        assert longest > far.outage - 1.0, "it was not cut off"
        assert far.total("records_repaired") > 0
    behind = delays(near, lossy)
    assert behind[-len(behind) // 100] < 3 * ROUND_TRIP + 1, behind[-20:]


def delays(near: Far, far: Far) -> list[float]:
    """Return how much later than near viewers those behind the line got each picture, sorted."""
    pairs = zip(frame_times(near.flv), frame_times(far.flv), strict=True)
    return sorted(late - early for early, late in pairs)


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
        assert max(behind) < far.outage + 3, (far.name, behind)


def report(found: list[Far]) -> None:
    """Print the figures of a run."""
    near = found[0]
    for far in found:
        if not far.flv.arrived or not far.metrics:
            continue
        longest, ended = far.silence()
        lost, repaired = far.total("records_lost"), far.total("records_repaired")
        backfilled = far.total("records_backfilled")
        behind = delays(near, far)
        print(
            f"{far.name}: longest silence {longest:.2f} s, its end {ended - far.healed:.2f} s after"
            f" the heal; lost {lost:.0f}, repaired {repaired:.0f}, backfilled {backfilled:.0f};"
            f" later than near p50 {statistics.median(behind):.3f} s,"
            f" p99 {behind[-len(behind) // 100]:.3f} s, max {behind[-1]:.3f} s"
        )
