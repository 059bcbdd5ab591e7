"""Every frame that is pushed reaches every kind of viewer on both edges exactly once."""

import asyncio
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.harness import viewers
from tests.harness.cluster import Cluster
from tests.harness.ledger import difference, first_key
from tests.harness.media import Packet, clip, clip_by_pyav, packets, push, push_enhanced

pytestmark = pytest.mark.e2e

AUDIO_TICK = 0.005
"""Seconds. RTMP rounds audio to milliseconds and encoders round on top; what viewers get is exact
to the sample, so single frames move by less than a quarter of a frame."""

Publish = Callable[[Path, str], "subprocess.Popen[bytes]"]


async def watch(cluster: Cluster, name: str, publish: Publish, source: Path) -> dict[str, bytes]:
    """Push ``source`` to viewers who wait already; return what each of them got."""
    stream = f"live+{name}"
    ingest = cluster.ingest.replace("/live/", f"/{stream}/")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=150)) as http:
        tasks: dict[str, asyncio.Task[object]] = {}
        for number, edge in enumerate(cluster.edges):
            for suffix in ("mp4", "flv"):
                coro = viewers.progressive(http, f"{edge}/{stream}.{suffix}")
                tasks[f"{suffix} {number}"] = asyncio.create_task(coro)
            tasks[f"ws {number}"] = asyncio.create_task(
                viewers.websocket(http, f"{edge}/{stream}.mp4")
            )
            tasks[f"hls {number}"] = asyncio.create_task(
                viewers.ll_hls(http, f"{edge}/cmaf/{stream}/index.m3u8")
            )
        await asyncio.sleep(0.5)  # the viewers are there before the publisher
        process = publish(source, ingest)
        try:
            results = await asyncio.gather(*tasks.values())
        finally:
            process.kill()
            process.wait()
    got: dict[str, bytes] = {}
    for name, result in zip(tasks, results, strict=True):
        if isinstance(result, viewers.Watched):
            got[name] = bytes(result.data)
            continue
        assert isinstance(result, dict)
        for uri, track in result.items():
            assert not track.failures, (name, uri, track.failures[:5])
            got[f"{name} {uri.rpartition('/')[2]}"] = track.stream()
    return got


def check(
    got: dict[str, bytes], video: list[Packet], audio: list[Packet], tick: float = AUDIO_TICK
) -> None:
    """Compare what everybody got with what was pushed; ``tick`` is the jitter of its audio."""
    wrong = {}
    seen = {"video": 0, "audio": 0}
    start = first_key(video)
    for name, data in got.items():
        kinds = streams_in(data)
        assert kinds, f"{name}: no tracks in {len(data)} bytes"
        for kind in kinds:
            pushed = video[start:] if kind == "video" else audio
            have = packets(data, kind)
            exact = 0.0012 if kind == "video" else tick
            wrong[f"{name} {kind}"] = difference(pushed, have, tick=exact)
            late = len(pushed) - len(have)
            limit = 0 if kind == "video" else late_audio(video[start], audio)
            if late > limit:
                wrong[f"{name} {kind}"] += f" {late} frames missing at the start"
            seen[kind] += 1
    assert not {name: what for name, what in wrong.items() if what}
    assert seen["video"] == seen["audio"] == 8, seen


def late_audio(key: Packet, audio: list[Packet]) -> int:
    """Return how many audio frames end before the first picture."""
    return sum(1 for packet in audio if packet.pts < key.pts) + 1


def streams_in(data: bytes) -> list[str]:
    import io

    import av

    with av.open(io.BytesIO(data), "r") as source:
        return [stream.type for stream in source.streams if stream.type in ("video", "audio")]


async def test_a_minute_of_h264_and_aac_pushed_by_ffmpeg(cluster: Cluster, tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", 60)
    got = await watch(cluster, "minute", push, source)
    check(got, packets(source, "video"), packets(source, "audio"))
    both = {name.split()[0]: [] for name in got}  # type: dict[str, list[str]]
    for name, data in got.items():
        if name.startswith("hls"):
            both["hls"].append(hashlib.sha256(data).hexdigest())
    assert len(both["hls"]) == 4
    assert len(set(both["hls"])) == 2, "the two edges served different bytes"


async def test_a_clip_with_b_frames(cluster: Cluster, tmp_path: Path) -> None:
    options = ("-bf", "3", "-preset", "veryfast", "-x264-params", "b-adapt=0:bframes=3")
    source = clip(tmp_path / "bframes.flv", 12, *options)
    video = packets(source, "video")
    assert any(one.pts != one.dts for one in video), "the clip has no B-frames"
    check(await watch(cluster, "bframes", push, source), video, packets(source, "audio"))


@pytest.mark.parametrize(("video", "audio"), [("libx265", "aac"), ("libsvtav1", "libopus")])
async def test_enhanced_rtmp_pushed_by_pyav(
    cluster: Cluster, tmp_path: Path, video: str, audio: str
) -> None:
    source = clip_by_pyav(tmp_path / "clip.mkv", video, audio, 12)
    wire = tmp_path / "wire.flv"
    flv = push_enhanced(source, str(wire))  # the same muxer writes what goes over the wire
    assert flv.wait() == 0
    got = await watch(cluster, video, push_enhanced, source)
    check(got, packets(wire, "video"), packets(wire, "audio"))


async def test_a_live_gstreamer_pipeline(cluster: Cluster, tmp_path: Path) -> None:
    wire = tmp_path / "wire.flv"

    def pipeline(_: Path, url: str) -> "subprocess.Popen[bytes]":
        text = (
            "flvmux name=mux streamable=true ! tee name=t "
            f"t. ! queue ! rtmp2sink location={url} "
            f"t. ! queue ! filesink location={wire} "
            "videotestsrc is-live=true num-buffers=300 ! video/x-raw,width=320,height=180,"
            "framerate=25/1 ! videoconvert ! x264enc tune=zerolatency speed-preset=ultrafast "
            "key-int-max=50 ! h264parse ! queue ! mux. "
            "audiotestsrc is-live=true samplesperbuffer=1024 num-buffers=560 ! "
            "audio/x-raw,rate=48000,channels=2 ! audioconvert ! avenc_aac ! aacparse ! queue ! mux."
        )
        return subprocess.Popen(["gst-launch-1.0", "-q", "-e", *text.split()])

    got = await watch(cluster, "gst", pipeline, wire)
    # flvmux stamps two audio frames in a row a few milliseconds apart, the next 40 ms later.
    audio = packets(wire, "audio")
    check(got, packets(wire, "video"), audio, tick=AUDIO_TICK + unevenness(audio))


def unevenness(audio: list[Packet]) -> float:
    """Return how far apart the muxer's stamps are from those that the samples would give."""
    off = [packet.pts - number * 1024 / 48_000 for number, packet in enumerate(audio)]
    return max(off) - min(off)
