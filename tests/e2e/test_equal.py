"""Every edge is the same edge: equal bytes, also from one that joined late."""

import asyncio
import hashlib
import re
from pathlib import Path

import aiohttp
import pytest

from tests.harness.media import clip, push
from tests.harness.nodes import Node, Site, site, start

pytestmark = pytest.mark.e2e

ZONES = ["UTC", "Asia/Tokyo", "America/St_Johns"]


def cluster(made: Site, edges: int) -> tuple[Node, list[Node]]:
    stream = {"window": '"60s"', "reconnect": '"20s"'}
    origin = made.add("origin", "origin", stream=stream)
    made_edges = [
        made.add("edge", f"edge{n}", seed=n + 1, zone=ZONES[n % len(ZONES)]) for n in range(edges)
    ]
    return origin, made_edges


async def text(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(url) as response:
        body = await response.text()
        assert response.status == 200, (url, response.status, body)
        return body


async def objects(http: aiohttp.ClientSession, edge: Node) -> dict[str, str]:
    """Return the SHA-256 of everything the playlists of an edge list now."""
    base = f"{edge.url}/cmaf/live"
    master = await text(http, f"{base}/index.m3u8")
    playlists = set(re.findall(r"(\d+\.m3u8)", master))
    assert len(playlists) == 2, master
    names: set[str] = set()
    for playlist in playlists:
        body = await text(http, f"{base}/{playlist}")
        listed = re.findall(r'(?:MAP|PART):[^\n]*URI="([^"]+)"', body)
        listed += re.findall(r"^[^#\s]\S*", body, re.M)
        names |= set(listed)
    found = {}
    for name in sorted(names):
        async with http.get(f"{base}/{name}") as response:
            body_bytes = await response.read()
            if response.status == 200:
                found[name] = hashlib.sha256(body_bytes).hexdigest()
            else:
                found[name] = f"status {response.status}"
    return found


def same(first: dict[str, str], second: dict[str, str]) -> int:
    """Check that what both list is equal and served; return how much that is."""
    both = set(first) & set(second)
    bad = {name: (first[name], second[name]) for name in both if first[name] != second[name]}
    bad |= {name: (first[name], "") for name in both if first[name].startswith("status")}
    assert not bad
    return len(both)


async def test_three_edges_serve_equal_bytes_also_after_an_origin_restart(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", 70)
    with site(tmp_path) as made:
        origin, edges = cluster(made, 4)
        start(origin, *edges[:2])
        publisher = push(source, made.ingest(origin))
        try:
            async with aiohttp.ClientSession() as http:
                await asyncio.gather(*(objects(http, edge) for edge in edges[:2]))
                await asyncio.sleep(20)  # the third edge is to join a stream with a past
                edges[2].start()
                found = [await objects(http, edge) for edge in edges[:3]]
                assert same(found[0], found[1]) >= 20
                assert same(found[0], found[2]) >= 20
                heads = await equal_heads(http, edges[:3])
                assert len(set(heads)) == 1, "equal heads, different playlists"

                before = found[0]
                origin.kill()
                publisher.wait()
                origin.start()
                publisher = push(source, made.ingest(origin))
                await resumed(http, edges[0])
                edges[3].start()
                after = [await objects(http, edge) for edge in (edges[0], edges[3])]
                assert same(after[0], after[1]) >= 20
                old = {name for name in before if "/s" in name} & set(after[1])
                assert len(old) >= 5, "the edge that joined later lost what was before"
                assert {after[1][name] for name in old} == {before[name] for name in old}
        finally:
            publisher.kill()
            publisher.wait()


async def equal_heads(http: aiohttp.ClientSession, edges: list[Node]) -> list[str]:
    """Return the media playlists of edges once all of them end with the same part.

    An edge that has just had two parts at once answers with the second one listed too.
    """
    async with asyncio.timeout(60):
        while True:
            heads = await asyncio.gather(*(at_head(http, edge) for edge in edges))
            if len({re.findall(r'PART:[^\n]*URI="([^"]+)"', head)[-1] for head in heads}) == 1:
                return heads


async def at_head(http: aiohttp.ClientSession, edge: Node) -> str:
    """Return the media playlists of an edge as they are when a segment two ahead has begun."""
    base = f"{edge.url}/cmaf/live"
    playlist = await text(http, f"{base}/1.m3u8")
    first = int(re.findall(r"MEDIA-SEQUENCE:(\d+)", playlist)[0])
    number = first + playlist.count("#EXTINF:") + 1
    return await text(http, f"{base}/1.m3u8?_HLS_msn={number}&_HLS_part=0")


async def resumed(http: aiohttp.ClientSession, edge: Node) -> None:
    """Wait until an edge lists a discontinuity with a segment after it."""
    async with asyncio.timeout(60):
        while True:
            playlist = await text(http, f"{edge.url}/cmaf/live/1.m3u8")
            _, found, rest = playlist.partition("#EXT-X-DISCONTINUITY\n")
            if found and "#EXTINF:" in rest:
                return
            await asyncio.sleep(0.2)


async def test_a_ten_second_gop_plays(tmp_path: Path) -> None:
    source = clip(
        tmp_path / "long.flv", 30, "-g", "250", "-keyint_min", "250", "-sc_threshold", "0"
    )
    with site(tmp_path) as made:
        origin, (edge,) = cluster(made, 1)
        start(origin, edge)
        publisher = push(source, made.ingest(origin))
        try:
            async with aiohttp.ClientSession() as http:
                await objects(http, edge)
                await asyncio.sleep(14)  # past the second keyframe
                playlist = await text(http, f"{edge.url}/cmaf/live/1.m3u8")
                found = await objects(http, edge)
                master = await text(http, f"{edge.url}/cmaf/live/index.m3u8")
        finally:
            publisher.kill()
            publisher.wait()
    assert "INDEPENDENT-SEGMENTS" not in master + playlist
    target = int(re.findall(r"TARGETDURATION:(\d+)", playlist)[0])
    durations = [float(one) for one in re.findall(r"#EXTINF:([\d.]+)", playlist)]
    assert target == 6
    assert durations
    assert all(round(one) <= target for one in durations)
    assert not [name for name, digest in found.items() if digest.startswith("status")]
