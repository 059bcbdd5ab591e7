"""Long-lived viewers: CPU time for each against a loop of ``send()`` in C; how late frames are.

The loop in C sends as many bytes in as many writes as the edge does; it has no sessions, takes in
no stream and muxes nothing. A run counts if every viewer got 99 % of what a lone viewer gets.
"""

from collections.abc import Iterator

from bench.figures import Row, accepted, median, say
from bench.generator import DELIVERED, Load, Rejected, load
from bench.rig import FPS, Rig, reference, rig

STREAM = f"live+fan,{FPS},4000"
OTHERS = (f"live+two,{FPS},1000", f"live+three,{FPS},1000")
WAYS = {
    "progressive": ("/live+fan.mp4", ()),
    "WebSocket": ("/live+fan.mp4?autoplay=1", ("-ws",)),
}
CORE = 2500
"""Viewers that one core has to serve at 4 Mbit/s and 30 frames a second."""


def _one(running: Rig, path: str, words: tuple[str, ...]) -> float:
    """Return the bits a second that a lone viewer gets."""
    alone = ["-c", "1", "-probes", "1", "-w", "1", *words, path]
    found = load("stream", running.port, *alone, pids=running.pids, seconds=4)
    return float(found.raw["bits_mean"])


def whole(found: Load, rate: float) -> Load:
    """Return a run in which everybody got everything.

    Raises:
        Rejected: If somebody did not.
    """
    least, mean = found.raw["bits_least"], found.raw["bits_mean"]
    # A frame more or less at the edges of the measured time is no loss.
    frame = rate / FPS / found.seconds
    if mean < DELIVERED * rate or least + 2 * frame < DELIVERED * rate:
        raise Rejected(f"of {rate:.0f} bit/s came {mean:.0f}, to the worst {least:.0f}")
    return found


def measure(repetitions: int, seconds: float, viewers: int) -> Iterator[Row]:
    """Yield the rows of CPU time for a viewer, and of how many viewers a core serves."""
    with rig(STREAM, *OTHERS) as running:
        for name, (path, words) in WAYS.items():
            rate = _one(running, path, words)
            pairs = [
                _pair(running, path, words, rate, viewers, seconds) for _ in range(repetitions)
            ]
            ratios = [ours.us_per_viewer / theirs.us_per_viewer for theirs, ours in pairs]
            theirs, ours = sorted(pairs, key=lambda pair: pair[1].us_per_viewer)[len(pairs) // 2]
            yield median(
                f"{name}, CPU per viewer of the C loop's",
                ratios,
                "x",
                1.5,
                reference=f"C loop {theirs.us_per_viewer:.0f} us a second",
                note=f"{ours.us_per_viewer:.0f} us a second, "
                f"{ours.cpu[running.viewer] / ours.seconds * 1e6 / viewers:.0f} of them in the "
                f"viewer process, {viewers} viewers, "
                f"{rate / 1e6:.2f} Mbit/s; frames {ours.raw['p50_ms']:.0f} ms, "
                f"p99 {ours.raw['p99_ms']:.0f} ms after the publisher",
            )
            yield median(
                f"{name}, viewers per core, reckoned",
                [1e6 / ours.us_per_viewer for _, ours in pairs],
                "viewers",
                CORE,
                least=True,
                note=f"from {viewers} viewers",
            )


def _pair(
    running: Rig, path: str, words: tuple[str, ...], rate: float, viewers: int, seconds: float
) -> tuple[Load, Load]:
    count = ["-c", str(viewers), "-w", "2", *words]
    with reference("fan", 1 / FPS, round(rate / 8 / FPS)) as (port, pids):
        theirs = accepted(
            lambda: whole(load("stream", port, *count, "/", pids=pids, seconds=seconds), rate)
        )
    ours = accepted(
        lambda: whole(
            load("stream", running.port, *count, path, pids=running.pids, seconds=seconds), rate
        )
    )
    say(
        f"{viewers} viewers: C {theirs.us_per_viewer:.0f} us, edge {ours.us_per_viewer:.0f} us a "
        f"viewer and second; frames p99 {theirs.raw['p99_ms']:.1f} and {ours.raw['p99_ms']:.1f} ms"
    )
    return theirs, ours


def crowd(seconds: float, viewers: int = CORE) -> Iterator[Row]:
    """Yield the row of a whole core's viewers that really watch."""
    with rig(STREAM, *OTHERS) as running:
        path, words = WAYS["progressive"]
        rate = _one(running, path, words)
        count = ["-c", str(viewers), "-w", "5", *words, path]
        found = load("stream", running.port, *count, pids=running.pids, seconds=seconds)
        share = found.raw["bits_least"] / rate
        yield median(
            f"share of the stream that the worst of {viewers} progressive viewers gets",
            [100 * share],
            "%",
            100 * DELIVERED - 100 * 2 / FPS / seconds,
            least=True,
            note=f"{found.cpu[running.viewer] / found.seconds:.2f} of the core used, frames p99 "
            f"{found.raw['p99_ms']:.0f} ms",
        )


def pushed(seconds: float) -> Iterator[Row]:
    """Yield how much later than at the publisher's socket a frame is at a viewer's, at 25 fps."""
    with rig("live+push,25,800", *OTHERS) as running:
        for viewers in (1, 200, 1000):
            for name, words in (("progressive", ()), ("WebSocket", ("-ws",))):
                count = ["-c", str(viewers), "-w", "2", "-sweep", "20", *words]
                path = f"/live+push.mp4{'?autoplay=1' if words else ''}"
                found = load("stream", running.port, *count, path, pids=running.pids,
                             seconds=seconds)  # fmt: skip
                yield median(
                    f"push to {name} viewer, {viewers} of them",
                    [found.raw["p50_ms"] / 40],
                    "frames",
                    2,
                    note=f"{found.raw['p50_ms']:.1f} ms, p99 {found.raw['p99_ms']:.1f} ms",
                )
