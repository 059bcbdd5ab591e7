"""What a person sees in Chromium, and what foreign parsers say of our playlists and boxes."""

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.harness import viewers
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.e2e

HARNESS = Path(__file__).parents[1] / "harness"


def node(script: str, *arguments: str, timeout: float = 120) -> dict[str, Any]:
    """Run a script of the harness under Node and return the JSON it prints."""
    done = subprocess.run(
        ["node", str(HARNESS / script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def play(url: str, seconds: int, shot: Path, end: Path | None = None) -> dict[str, Any]:
    """Play a page for some seconds, or until there is a file ``end``."""
    ends = () if end is None else (str(end),)
    return node("play.mjs", url, str(seconds), str(shot), *ends, timeout=seconds + 90)


@pytest.mark.alone
def test_chromium_plays_low_latency_hls_through_the_balancer(
    cluster: Cluster, tmp_path: Path
) -> None:
    seen = play(f"{cluster.balancer}/test.html?proto=hls", 60, tmp_path / "hls.png")
    print(json.dumps(seen))
    assert seen["stuck"] == 0, seen
    assert seen["advanced"] >= 0.95 * seen["wall"], seen
    assert seen["frames"] >= 0.9 * 25 * seen["wall"], seen
    assert not seen["badResponses"], seen
    assert not seen["consoleErrors"], seen
    assert seen["samples"] > 500, seen
    assert seen["p50"] < 1500, seen


@pytest.mark.alone
def test_chromium_plays_over_websocket_with_less_than_a_quarter_second(
    cluster: Cluster, tmp_path: Path
) -> None:
    for edge in cluster.edges:
        seen = play(f"{edge}/test.html?proto=ws", 20, tmp_path / "ws.png")
        print(json.dumps(seen))
        assert seen["protocol"] == "ws", seen
        assert seen["stuck"] == 0, seen
        assert seen["advanced"] >= 0.9 * seen["wall"], seen
        assert not seen["consoleErrors"], seen
        assert seen["samples"] > 200, seen
        assert seen["p50"] < 250, seen


async def test_foreign_parsers_find_nothing_wrong(cluster: Cluster, tmp_path: Path) -> None:
    base = f"{cluster.edges[0]}/cmaf/test"
    async with aiohttp.ClientSession() as http:
        task = asyncio.create_task(viewers.ll_hls(http, f"{base}/index.m3u8"))
        async with http.get(f"{base}/index.m3u8") as response:
            master = await response.text()
        await asyncio.sleep(15)
        async with http.get(f"{base}/1.m3u8?_HLS_skip=YES") as response:
            assert response.status == 200
            delta = await response.text()
        files = {"master.m3u8": master}
        for name in sorted(set(re.findall(r"\d+\.m3u8", master))):
            async with http.get(f"{base}/{name}") as response:
                files[name] = await response.text()
        clips = {}
        for name in sorted(set(re.findall(r"\d+\.m3u8", master))):
            text = files[name]
            init = re.findall(r'MAP:URI="([^"]+)"', text)[-1]
            segments = re.findall(r"^\S+/s\d+\.m4s$", text, re.M)[-3:]
            blobs = []
            for piece in [init, *segments]:
                async with http.get(f"{base}/{piece}") as response:
                    assert response.status == 200
                    blobs.append(await response.read())
            clips[name.replace("m3u8", "mp4")] = b"".join(blobs)
        task.cancel()
    assert delta.startswith("#EXTM3U")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    for name, blob in clips.items():
        (tmp_path / name).write_bytes(blob)
    linted = node("lint_hls.mjs", *(str(tmp_path / name) for name in files))
    assert linted["findings"] == []
    boxes = node("lint_mp4.mjs", *(str(tmp_path / name) for name in clips))
    assert boxes["errors"] == []
    for one in boxes["files"]:
        (track,) = one["tracks"]
        probed = probe(Path(one["path"]))
        assert track["samples"] == probed > 0
        assert track["codec"].lower() in master.lower(), (track, master)


def probe(path: Path) -> int:
    """Return how many frames ffprobe decodes; it must have nothing to say on standard error."""
    done = subprocess.run(
        [
            *("ffprobe", "-v", "warning", "-count_frames", "-show_entries"),
            *("stream=nb_read_frames", "-of", "csv=p=0", str(path)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr, done.stderr
    return int(done.stdout.strip().rstrip(","))
