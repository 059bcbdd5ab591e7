"""What a frame costs inside a node: into a page, to a viewer process, and over the bus.

The page is on tmpfs and the processes are two, as in an edge; the times are taken from the frame's
own bytes, so the writer's part of the work is in them.
"""

import asyncio
import multiprocessing
import os
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import bus
from bench.figures import Row, median
from bench.machine import SERVER_CORE, favour
from bench.pages import COUNT, VIDEO, record_of, write_all
from common.runtime import wake
from common.track.board import Board
from common.track.catalog import Catalog
from common.track.limits import Limits
from common.track.store import StreamReader, StreamWriter
from edge.child import fast_loop

FRAME = 16_700
PACE = 0.004
"""Seconds between two frames: several streams of 30 a second."""


def _append_us(root: Path) -> float:
    payload = os.urandom(FRAME)
    records = [record_of(seq, 0) for seq in range(COUNT)]
    start = time.process_time_ns()
    write_all(root, records, payload, 20_000_000).remove()
    return (time.process_time_ns() - start) / COUNT / 1000


def _write_us(root: Path) -> float:
    """Return what it takes to put the same bytes into a file that has its memory already."""
    payload = os.urandom(FRAME)
    places = [number * FRAME for number in range(600)] * (COUNT // 600)
    with (root / "plain").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 600 * FRAME)
        start = time.process_time_ns()
        for place in places:
            os.pwrite(file.fileno(), payload, place)
        took = time.process_time_ns() - start
    return took / len(places) / 1000


def _view(root: Path, fd: int, pipe: Any) -> None:
    """Be a viewer process that looks at every frame; send the delays in the end."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {SERVER_CORE})
    favour(os.getpid())
    made = fast_loop()
    with asyncio.Runner(loop_factory=made) as runner:
        pipe.send(runner.run(_follow(root, fd, pipe)))


async def _follow(root: Path, fd: int, pipe: Any) -> list[float]:
    reader = StreamReader.open(root, "bench", 1)
    track = reader.track(VIDEO.id)
    delays: list[float] = []
    seen = track.head
    done = asyncio.Event()

    def look() -> None:
        nonlocal seen
        head = track.head
        now = time.monotonic_ns()
        for seq in range(seen, head):
            (sent,) = struct.unpack("<Q", bytes(track.payload(seq)[-8:]))
            delays.append((now - sent) / 1e6)
            if not sent:
                done.set()
        seen = head

    rung = wake.Wake(fd, look)
    pipe.send("ready")
    await done.wait()
    rung.close()
    return delays[:-1]


def _page_to_viewer_ms(root: Path, frames: int) -> list[float]:
    """Return the delays of frames from before they are written until a viewer process has them."""
    board = Board.create(root)
    writer = StreamWriter.open(root, "bench", 1, Limits(window_us=20_000_000), board=board)
    writer.set_catalog(Catalog("bench", 1, 1, tracks=(VIDEO,)))
    writer.append(VIDEO.id, record_of(0, 0), os.urandom(FRAME))
    fd = wake.create()
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")  # the eventfd goes along
    viewer = context.Process(target=_view, args=(root, fd, theirs))
    viewer.start()
    ours.recv()
    fill = os.urandom(FRAME - 8)
    for seq in range(1, frames + 1):
        time.sleep(PACE)
        sent = time.monotonic_ns() if seq < frames else 0
        writer.append(VIDEO.id, record_of(seq, 0), fill + struct.pack("<Q", sent))
        wake.ring(fd)
    delays: list[float] = ours.recv()
    viewer.join()
    os.close(fd)
    writer.remove()
    board.close()
    return delays


def measure(repetitions: int, frames: int) -> Iterator[Row]:
    """Yield the rows of pages and of the bus."""
    root = Path(tempfile.mkdtemp(prefix="headwater-bench-", dir="/dev/shm"))
    try:
        costs = [_append_us(root) for _ in range(repetitions)]
        least = statistics.median(_write_us(root) for _ in range(repetitions))
        yield median(
            "frame into a page",
            costs,
            "us",
            5,
            reference=f"a write of the same bytes {least:.1f} us",
            note=f"{FRAME} bytes, checksum, pages made and gone",
        )
        runs = [sorted(_page_to_viewer_ms(root, frames)) for _ in range(repetitions)]
        p99 = [delays[len(delays) * 99 // 100] for delays in runs]
        half = statistics.median(statistics.median(delays) for delays in runs)
        yield median("page to viewer process, p99", p99, "ms", 1, note=f"p50 {half:.2f} ms")
    finally:
        shutil.rmtree(root)
    found = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            found.append(asyncio.run(bus.publish(Path(folder), 30, max(3, frames // 200), False)))
    yield median(
        "origin to edge page, p99",
        [one["p99_ms"] for one in found],
        "ms",
        5,
        note=f"p50 {statistics.median(one['p50_ms'] for one in found):.2f} ms, 30 fps, loopback",
    )
