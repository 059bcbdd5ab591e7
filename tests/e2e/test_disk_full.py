"""The disk of the page folders fills, at an origin and at an edge: no viewer misses a frame."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.harness import viewers
from tests.harness.ledger import difference, first_key, missing_at_start
from tests.harness.media import clip, packets, push
from tests.harness.nodes import Site, site

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SECONDS = 24
RATE = "16M"
ROOM = 24
"""Megabytes of each page folder; the stream takes 48, and each node would keep all of it."""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Site]:
    """An origin and an edge whose page folders are small disks. Needs root."""
    with site(tmp_path) as made:
        folders = [made.pages / name for name in ("origin", "edge")]
        try:
            for folder in folders:
                folder.mkdir()
                size = f"size={ROOM}m,mode=700"
                subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)
            made.add("origin", "origin").start()
            made.add("edge", "edge", {"viewers": "1"}).start()
            yield made
        finally:
            for node in made.nodes.values():
                node.kill()
            for folder in folders:
                subprocess.run(["umount", "--lazy", folder], check=False)


async def test_streams_go_on_while_the_disk_of_the_pages_is_full(
    small: Site, tmp_path: Path
) -> None:
    rate = ("-b:v", RATE, "-minrate", RATE, "-maxrate", RATE, "-bufsize", RATE)
    source = clip(tmp_path / "clip.flv", SECONDS, *rate, "-x264-params", "nal-hrd=cbr:filler=1")
    origin, edge = small.nodes["origin"], small.nodes["edge"]
    fullest = dict.fromkeys(("origin", "edge"), 0.0)
    timeout = aiohttp.ClientTimeout(SECONDS + 60)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        got = viewers.Watched()
        url = f"http://{edge.endpoints['http']}/live.mp4"
        viewing = asyncio.create_task(viewers.progressive(http, url, got))
        process = push(source, small.ingest(origin))
        try:
            while not viewing.done():
                for name in fullest:
                    disk = shutil.disk_usage(small.pages / name)
                    fullest[name] = max(fullest[name], disk.used / disk.total)
                await asyncio.wait([viewing], timeout=0.1)
        finally:
            process.kill()
            process.wait()
    sys.stdout.write(f"fullest {fullest}, {source.stat().st_size} B of stream\n")
    assert min(fullest.values()) > 0.9, "the disks did not fill"
    for kind in ("video", "audio"):
        pushed, seen = packets(source, kind), packets(bytes(got.data), kind)
        if kind == "video":
            pushed = pushed[first_key(pushed) :]
            assert missing_at_start(pushed, seen) == 0
        assert difference(pushed, seen, tick=0.005) == ""
