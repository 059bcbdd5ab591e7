"""Requests for each unit of CPU time against nginx: playlist, part, segment; plain and over TLS.

nginx serves copies of the very objects from shared memory. Its whole CPU time is compared with that
of the whole edge: supervisor, stream worker (which takes in the streams meanwhile), viewer process.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.figures import Row, accepted, median, say
from bench.generator import Load, load
from bench.rig import FPS, Nginx, Rig, nginx, parts, rig, segments, tracks
from tests.harness import certificates

STREAMS = (
    f"live+one?slot=high,{FPS},4000",
    f"live+one?slot=low,{FPS},900",
    f"live+two,{FPS},2000",
    f"live+three,{FPS},1000",
)
"""A 1 MB segment of 2 s, a 40 kB part of a third of a second, and others beside them."""

CONNECTIONS = 50

Find = Callable[[Rig], list[str]]


def objects() -> dict[str, tuple[Find, int, int]]:
    """Return how to find the objects of each row, and the targets without and with TLS.

    A target is the share of nginx's requests for the same CPU time, in per cent.
    """

    def playlist(running: Rig) -> list[str]:
        return [tracks(running, "live+one")[0]]

    def part(running: Rig) -> list[str]:
        return parts(running, tracks(running, "live+one")[1], 5)

    def segment(running: Rig) -> list[str]:
        return segments(running, tracks(running, "live+one")[0], 3)

    return {
        "playlist": (playlist, 100, 75),
        "40 kB part": (part, 90, 0),
        "1 MB segment": (segment, 85, 120),
    }


def measure(repetitions: int, seconds: float) -> Iterator[Row]:
    """Yield the rows without TLS."""
    with rig(*STREAMS) as running, nginx() as peer:
        for name, (find, target, _) in objects().items():
            pairs = [_pair(running, peer, find, seconds) for _ in range(repetitions)]
            yield compared(f"{name}, requests per CPU of nginx's", pairs, target)


def secure(repetitions: int, seconds: float) -> Iterator[Row]:
    """Yield the rows with TLS 1.3, against nginx with the same certificate."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = certificates.make(Path(folder), "bench")
        tls = f'{{listen = "127.0.0.1:0", certificate = "{certificate}", key = "{key}"}}'
        with rig(*STREAMS, edge={"tls": tls}) as running, nginx(certificate, key) as peer:
            for name, (find, _, target) in objects().items():
                if not target:
                    continue
                pairs = [_pair(running, peer, find, seconds, "-tls") for _ in range(repetitions)]
                yield compared(f"TLS: {name}, requests per CPU of nginx's", pairs, target)


def _pair(
    running: Rig, peer: Nginx, find: Find, seconds: float, *tls: str
) -> tuple[Load, Load, int]:
    """Measure nginx and the edge one right after the other."""
    paths = find(running)
    size = len(running.get(paths[0]))
    copies = peer.copy(running, paths)
    count = ["-c", str(CONNECTIONS), "-w", "0.7", *tls]
    port = peer.tls_port if tls else peer.port

    def theirs() -> Load:
        return load("get", port, *count, *copies, pids=peer.pids, seconds=seconds)

    def ours() -> Load:
        own = running.tls_port if tls else running.port
        return load("get", own, *count, *paths, pids=running.pids, seconds=seconds)

    first, second = accepted(theirs), accepted(ours)
    viewer = second.cpu[running.viewer] * 1e6 / second.requests
    say(
        f"{size} bytes: nginx {first.us_per_request:.1f} us, edge {second.us_per_request:.1f} us"
        f" of CPU a request, {viewer:.1f} of them in the viewer process; {first.rate:.0f} and"
        f" {second.rate:.0f} requests a second; load generator {first.raw['lg_util']},"
        f" {second.raw['lg_util']}"
    )
    return first, second, size


def compared(item: str, pairs: list[tuple[Load, Load, int]], target: float) -> Row:
    """Return the row of interleaved pairs of nginx and the edge."""
    ratios = [100 * first.us_per_request / second.us_per_request for first, second, _ in pairs]
    first, second, size = sorted(pairs, key=lambda pair: pair[0].us_per_request)[len(pairs) // 2]
    return median(
        item,
        ratios,
        "%",
        target,
        least=True,
        reference=f"nginx {first.us_per_request:.1f} us a request",
        note=f"{size} bytes, {second.us_per_request:.1f} us a request",
    )
