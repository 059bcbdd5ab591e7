"""Viewers of low-latency HLS: how late they are told of a part, and how many a core serves.

A wake-up is counted from the moment at which the publisher wrote the last frame of the part, until
the whole playlist that names it has been read: origin, bus and stream worker are in it. The server
in C makes its parts itself and begins to count when it does.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Row, accepted, median, say
from bench.generator import DELIVERED, Load, Rejected, load
from bench.rig import FPS, Rig, reference, rig, tracks
from tests.harness import certificates

STREAM = f"live+park,{FPS},4000"
OTHERS = (f"live+two,{FPS},1000",)
PART = 1 / 3
PARKED = 2000
CORE = 4000
KBITS = 2000
"""Of the stream with which memory is measured: a burst of half a megabyte for each who joins."""


def _told(found: Load) -> Load:
    told = found.raw["told"]
    if told < DELIVERED:
        raise Rejected(f"viewers were told of {100 * told:.1f} % of all parts")
    return found


def _pair(running: Rig, viewers: int, seconds: float, *words: str) -> tuple[Load, Load]:
    path = tracks(running, "live+park")[0]
    size = len(running.get(path))
    count = ["-c", str(viewers), "-w", "3", *words]
    with reference("park", PART, size, round(4e6 / 8 * PART)) as (port, pids):
        theirs = accepted(
            lambda: _told(load("park", port, *count, "/1.m3u8", pids=pids, seconds=seconds))
        )
    ours = accepted(
        lambda: _told(load("park", running.port, *count, path, pids=running.pids, seconds=seconds))
    )
    say(
        f"{viewers} viewers: C {theirs.us_per_viewer:.0f} us, edge {ours.us_per_viewer:.0f} us a "
        f"viewer and second; woken p50 {theirs.raw['p50_ms']:.1f} and {ours.raw['p50_ms']:.1f} ms,"
        f" p99 {theirs.raw['p99_ms']:.1f} and {ours.raw['p99_ms']:.1f} ms"
    )
    return theirs, ours


def wakes(repetitions: int, seconds: float, viewers: int = PARKED) -> Iterator[Row]:
    """Yield the row of wake-ups."""
    with rig(STREAM, *OTHERS) as running:
        pairs = [_pair(running, viewers, seconds) for _ in range(repetitions)]
        theirs, ours = sorted(pairs, key=lambda pair: pair[1].raw["p99_ms"])[len(pairs) // 2]
        yield median(
            f"wake-up p99 of {viewers} parked viewers, of the C server's",
            [ours.raw["p99_ms"] / theirs.raw["p99_ms"] for theirs, ours in pairs],
            "x",
            2.5,
            reference=f"C {theirs.raw['p99_ms']:.1f} ms",
            note=f"p50 {ours.raw['p50_ms']:.1f}, p99 {ours.raw['p99_ms']:.1f} ms after the push",
        )


def watching(repetitions: int, seconds: float, viewers: int) -> Iterator[Row]:
    """Yield the row of viewers per core who get every part."""
    with rig(STREAM, *OTHERS) as running:
        pairs = [_pair(running, viewers, seconds, "-parts") for _ in range(repetitions)]
        costs = [ours.us_per_viewer for _, ours in pairs]
        theirs, ours = sorted(pairs, key=lambda pair: pair[1].us_per_viewer)[len(pairs) // 2]
        yield median(
            "LL-HLS viewers per core, reckoned",
            [1e6 / cost for cost in costs],
            "viewers",
            CORE,
            least=True,
            reference=f"C {1e6 / theirs.us_per_viewer:.0f} viewers",
            note=f"{ours.us_per_viewer:.0f} us a viewer and second, from {viewers} viewers "
            f"who get every part; woken p99 {ours.raw['p99_ms']:.0f} ms",
        )


def memory(viewers: int, *only: str) -> Iterator[Row]:
    """Yield how much memory of its own the edge needs for each viewer, of some kinds or of all."""
    kinds = {
        "HLS": ("park", 8, "/cmaf/live+park/{}.m3u8", ()),
        "progressive": ("stream", 20, "/live+park.mp4", ()),
        "WebSocket": ("stream", 20, "/live+park.mp4?autoplay=1", ("-ws",)),
        "TLS": ("stream", 64, "/live+park.mp4", ("-tls",)),
    }
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        certificate, key = certificates.make(folder, "bench")
        tls = f'{{listen = "127.0.0.1:0", certificate = "{certificate}", key = "{key}"}}'
        settings = {"cache": '"1MiB"', "tls": tls}
        running = stack.enter_context(rig(f"live+park,{FPS},{KBITS}", window="6s", edge=settings))
        for name, (mode, target, path, words) in kinds.items():
            if only and name not in only:
                continue
            at = tracks(running, "live+park")[0] if mode == "park" else path
            port = running.tls_port if "-tls" in words else running.port

            def watch(count: int, *more: str, mode: str = mode, port: int = port) -> Load:
                return load(mode, port, "-c", str(count), *more, pids=running.pids, seconds=3)

            # What the first viewers make the process load, and the cache that fills, is not theirs.
            watch(100, "-w", "4", *words, at)
            found = [watch(viewers, "-w", "4", *words, at).memory_kb for _ in range(2)]
            costs = [(after - before) / viewers for before, after in found]
            say(f"{name}: {costs} kB a viewer")
            yield median(
                f"memory per {name} viewer",
                [max(costs)],
                "kB",
                target,
                note=f"{viewers} viewers; anonymous memory of all processes, the kernel's not",
            )
