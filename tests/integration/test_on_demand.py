"""What a viewer waits for is fetched before the rest of the past: a real edge, one origin here."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from common.bus.broadcast import Broadcast
from common.runtime.embedded import EmbeddedRegistry
from common.track.limits import Limits
from common.track.store import StreamReader, StreamWriter
from tests.harness.nodes import Node, site
from tests.unit.edge.cuts import EPOCH, VIDEO, CutStream

pytestmark = pytest.mark.e2e

SLOW = 3_200_000
"""Bits a second of an edge that fills its window with a quarter of it: 100 kB a second."""


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[tuple[Node, Path]]:
    stream = CutStream(size=8000).run(60)
    writer = StreamWriter.open(tmp_path / "origin", "live", EPOCH, Limits())
    writer.set_catalog(stream.catalog)
    for entry in stream.entries:
        writer.append(*entry)
    broadcast = Broadcast("127.0.0.1:0", "127.0.0.1:0")
    broadcast.attach(writer)
    broadcast.catalog(stream.catalog)
    registry = EmbeddedRegistry(tmp_path / "registry")
    await registry.acquire("live", "origin", broadcast.endpoints(), EPOCH)
    try:
        with site(tmp_path) as nodes:
            node = nodes.add("edge", "edge", {"bandwidth": f"{SLOW}.0"})
            await asyncio.to_thread(node.start)
            yield node, nodes.pages / "edge"
    finally:
        broadcast.close()
        writer.close()


async def test_an_edge_that_joins_a_long_window_serves_its_oldest_segment_at_once(
    edge: tuple[Node, Path],
) -> None:
    node, pages = edge
    async with aiohttp.ClientSession() as client:
        async with client.get(f"{node.url}/cmaf/live/{VIDEO.id}.m3u8") as response:
            assert response.status == 200
            listed = [one for one in (await response.text()).splitlines() if one[:1] != "#"]
        assert len(listed) > 20
        began = time.monotonic()
        async with client.get(f"{node.url}/cmaf/live/{listed[0]}") as response:
            assert response.status == 200
            assert len(await response.read()) > 50 * 8000
        took = time.monotonic() - began
    assert took < 0.3
    reader = StreamReader.open(pages, "live", EPOCH)
    assert len(reader.track(VIDEO.id).runs()) == 2, "the rest has come already: this shows nothing"
    reader.close()
