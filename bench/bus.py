"""What a frame costs on the bus, how long a join takes, and what latency the bus adds.

``python -m bench.bus [FRAMES_PER_SECOND] [SECONDS] [curve]``: an origin in this process publishes
frames of 16.7 kB with their audio, a stream worker in another one writes them into pages. CPU is
that of each process, its ZeroMQ thread and page writes included. With ``curve`` all is done again
encrypted, and compared.
"""

import asyncio
import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.bus.broadcast import Broadcast
from common.bus.intake import TICK, Intake
from common.bus.pages import Pages
from common.bus.upstream import Place, Ways, ways
from common.media.codec import Codec
from common.media.track import Track
from common.runtime.curve import Guard
from common.runtime.keys import Keys
from common.runtime.registry import NodeEntry, Owner
from common.runtime.roster import Roster
from common.track.board import Board
from common.track.catalog import Catalog
from common.track.limits import Limits
from common.track.record import Flag, Record
from common.track.store import StreamWriter
from edge.worker import SWITCH_INTERVAL

FRAME = 16_700
STREAM = "bench"


def _catalog() -> Catalog:
    tracks = (Track(1, Codec.H264, 90_000, (b"",)), Track(2, Codec.AAC, 48_000, (b"",)))
    return Catalog(STREAM, 1, 1, tracks=tracks, window_us=5_000_000)


def _edge(root: str, endpoints: dict[str, str], keys: Keys, pipe: Any) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL)
    asyncio.run(_receive(Path(root), endpoints, Guard(keys), pipe))


async def _receive(root: Path, endpoints: dict[str, str], guard: Guard, pipe: Any) -> None:
    async def find(stream: str) -> Ways:
        return ways(Place("edge"), stream, Owner(STREAM, "origin", 1, 1, endpoints), [], [])

    states: list[tuple[float, str]] = []
    worker = Intake(
        node="edge",
        pages=Pages(root, Board.create(root), Limits()),
        find=find,
        tell=lambda _stream, state, _epoch: states.append((time.monotonic(), state)),
        settled=lambda _streams, _moved: None,
        guard=guard,
    )
    began = time.monotonic()
    worker.want([STREAM])
    await worker.follow()
    tally = worker._entries[STREAM].receiver.tally
    while not any(state == "live" for _, state in states):  # noqa: ASYNC110 - measured finely
        await asyncio.sleep(0.0005)
    joined = next(at for at, state in states if state == "live") - began
    while worker._entries[STREAM].receiver._backfill.busy:
        worker.tick()
        await asyncio.sleep(0.01)
    filled = time.monotonic() - began
    delays: list[float] = []
    tally.delays.clear()
    frames, cpu = tally.received, time.process_time()
    while not pipe.poll():
        worker.tick()
        delays += tally.delays
        tally.delays.clear()
        await asyncio.sleep(TICK)
    used = time.process_time() - cpu
    delays.sort()
    pipe.send(
        {
            "join_ms": joined * 1000,
            "window_ms": filled * 1000,
            "records": tally.received - frames,
            "cpu": used,
            "p50_ms": delays[len(delays) // 2] * 1000,
            "p99_ms": delays[len(delays) * 99 // 100] * 1000,
            "lost": tally.lost.total(),
            "gaps": tally.gaps,
        }
    )
    worker.close()


class _Origin:
    def __init__(self, root: Path, guard: Guard) -> None:
        self.writer = StreamWriter.open(root, STREAM, 1, Limits(window_us=20_000_000))
        self.writer.set_catalog(_catalog())
        self.bus = Broadcast("127.0.0.1:0", "127.0.0.1:0", guard=guard)
        self.bus.attach(self.writer)
        self.bus.catalog(_catalog())
        self._payload = os.urandom(FRAME)
        self._number = 0

    def frame(self) -> None:
        """Publish one video frame and two of audio."""
        number, self._number = self._number, self._number + 1
        for audio in (2 * number, 2 * number + 1):
            self._record(2, audio, 1024, self._payload[:340], Flag.KEY, False)
        flags = Flag.KEY if number % 50 == 0 else 0
        self._record(1, number, 3600, self._payload, flags, True)

    def _record(
        self, track: int, seq: int, ticks: int, data: bytes, flags: int, flush: bool
    ) -> None:
        now = time.time_ns() // 1000
        segment = seq // (100 if track == 2 else 50)
        record = Record(
            seq, seq * ticks, now, now, 0, ticks, segment, 0, 0, len(data), 0, int(flags), 0
        )
        self.bus.record(STREAM, track, self.writer.append(track, record, data), data, flush)


async def publish(root: Path, rate: int, seconds: int, encrypted: bool) -> dict[str, float]:
    """Measure; return what a frame costs origin and edge (us of CPU), and latencies (ms)."""
    keys = Keys.new()

    async def members() -> list[NodeEntry]:
        return [NodeEntry("edge", "edge", {}, key=keys.public)]

    roster = Roster(members, "origin")
    origin = _Origin(root / "origin", Guard(Keys.new(), roster, secure=encrypted))
    for _ in range(500):
        origin.frame()
    pipe, theirs = multiprocessing.Pipe()
    arguments = (str(root / "edge"), origin.bus.endpoints(), keys, theirs)
    edge = multiprocessing.get_context("spawn").Process(target=_edge, args=arguments)
    edge.start()
    loop = asyncio.get_running_loop()
    due = loop.time()
    for _ in range(2 * rate):  # the edge joins and fills its window
        origin.frame()
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
    cpu, frames = time.process_time(), rate * seconds
    for _ in range(frames):
        origin.frame()
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
    used = time.process_time() - cpu
    pipe.send("done")
    found = pipe.recv()
    edge.join()
    origin.bus.close()
    origin.writer.close()
    origin_us, edge_us = used / frames * 1e6, found["cpu"] / (found["records"] / 3) * 1e6
    how = "CURVE" if encrypted else "plain"
    lines = [
        f"{rate} frames/s of {FRAME} bytes with two of audio, one edge, loopback, {how}",
        f"origin       {origin_us:7.1f} us/frame (page and event loop included)",
        f"edge         {edge_us:7.1f} us/frame",
        f"join         {found['join_ms']:7.1f} ms to live",
        f"window       {found['window_ms']:7.1f} ms to all of it",
        f"latency      {found['p50_ms']:7.2f} ms p50, {found['p99_ms']:.2f} ms p99",
        f"gaps, lost   {found['gaps']}, {found['lost']}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return {"origin_us": origin_us, "edge_us": edge_us, **found}


def main() -> None:
    """Run the benchmark."""
    given = [word for word in sys.argv[1:] if word != "curve"]
    rate, seconds, *_ = [*map(int, given), *(500, 5)[len(given) :]]
    costs = []
    with contextlib.suppress(KeyboardInterrupt):
        for encrypted in (False, True) if "curve" in sys.argv else (False,):
            with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
                costs.append(asyncio.run(publish(Path(folder), rate, seconds, encrypted)))
        if len(costs) == 2:
            before, after = costs
            origin, edge = (after[name] / before[name] for name in ("origin_us", "edge_us"))
            sys.stdout.write(
                f"encryption   {origin:.2f} x at the origin, {edge:.2f} x at the edge\n"
            )


if __name__ == "__main__":
    main()
