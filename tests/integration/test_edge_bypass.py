"""The short way of requests over real sockets, on both event loops."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.runtime import listen
from common.runtime.http import retire
from edge.published import Waiting
from tests.unit.edge.cuts import EPOCH, CutStream
from tests.unit.edge.lines import Node, get, until

SEGMENT = get(f"/cmaf/live/1/{EPOCH}.1/s1.m4s")
PLAYLIST = get("/cmaf/live/1.m3u8")
NEXT = get("/cmaf/live/1.m3u8?_HLS_msn=2&_HLS_part=6")


class Viewer:
    """A client that sends requests as they are given and reads one answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def fetch(self, request: bytes) -> bytes:
        self.writer.write(request)
        return await self.answer()

    async def answer(self) -> bytes:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head + await asyncio.wait_for(self.reader.readexactly(length), 10)


class Edge:
    """A served node and how to come in."""

    def __init__(
        self, node: Node, address: tuple[str, int], stack: contextlib.AsyncExitStack
    ) -> None:
        self.node = node
        self.address = address
        self._stack = stack

    async def viewer(self) -> Viewer:
        """Return a viewer whose session has begun."""
        viewer = Viewer(*await asyncio.open_connection(*self.address, limit=2**22))
        self._stack.callback(viewer.writer.close)
        assert b"#EXTM3U" in await viewer.fetch(PLAYLIST)
        return viewer


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    listener = listen.bind("127.0.0.1:0")
    stream = CutStream(size=20_000)  # a segment of a megabyte
    node = await Node(tmp_path, stream).start(5, listener)
    async with contextlib.AsyncExitStack() as stack:
        yield Edge(node, listener.getsockname(), stack)
    await node.close()


async def test_a_megabyte_arrives_whole_at_a_viewer_that_is_slow_to_begin(edge: Edge) -> None:
    viewers = [await edge.viewer() for _ in range(3)]
    for viewer in viewers:
        viewer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        viewer.writer.write(SEGMENT)
    await until(lambda: edge.node.bypass.answered >= 3)
    whole = set()
    for viewer in viewers:
        viewer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        whole.add((await viewer.answer()).partition(b"\r\n\r\n")[2])
    (body,) = whole
    assert len(body) > 1_000_000
    assert all(b"1:%d:" % number in body for number in range(50, 100)), "every frame of it"


async def test_hundreds_who_wait_get_the_same_playlist_and_wait_again(edge: Edge) -> None:
    viewers = [await edge.viewer() for _ in range(300)]
    edge.node.bypass.answered = 0
    for msn in (2, 3):
        request = NEXT.replace(b"msn=2", b"msn=%d" % msn)
        for viewer in viewers:
            viewer.writer.write(request)
        (group,) = [f for f in await waiting(edge, len(viewers)) if f]
        assert group == len(viewers)
        edge.node.run(2)
        texts = {(await viewer.answer()).partition(b"\r\n\r\n")[2] for viewer in viewers}
        assert len(texts) == 1
    assert edge.node.bypass.answered == 600


async def waiting(edge: Edge, count: int) -> list[int]:
    """Return the sizes of the groups that wait, once so many are parked in all."""

    def sizes() -> list[int]:
        found = edge.node.bypass._plain.values()
        return [len(one.members) for one in found if isinstance(one, Waiting)]

    await until(lambda: sum(sizes()) >= count)
    return sizes()


async def test_a_server_that_retires_lets_those_who_wait_go_with_their_answer(
    edge: Edge,
) -> None:
    waits, comes = [await edge.viewer() for _ in range(2)]
    waits.writer.write(NEXT)
    await waiting(edge, 1)
    retiring = asyncio.create_task(retire(edge.node.runner, 20))
    await until(lambda: not edge.node.runner.sites)
    assert b"\r\nConnection: close\r\n" in await comes.fetch(SEGMENT)
    assert not retiring.done()
    edge.node.run(2)
    assert b"\r\nConnection: close\r\n" in await waits.answer()
    for viewer in (waits, comes):
        assert await viewer.reader.read() == b""
    await asyncio.wait_for(retiring, 5)


async def test_a_server_that_stops_does_not_wait_for_those_who_wait(edge: Edge) -> None:
    viewer = await edge.viewer()
    viewer.writer.write(NEXT)
    await waiting(edge, 1)
    await asyncio.wait_for(edge.node.runner.cleanup(), 2)
    assert await viewer.reader.read() == b""
    assert edge.node.waiting == 0
