"""Headwater and nginx-rtmp, the same stream at the same time: ``python -m bench.comparison``.

One publisher's pictures go to an origin of ours and to nginx with the RTMP module (Debian's
libnginx-mod-rtmp, as it is when installed); viewers watch either in turn. Writes the table of
docs/comparison.md to standard output.
"""

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.fanout import whole
from bench.figures import accepted, say
from bench.generator import Load, load
from bench.rig import FPS, free_port, rig, wait_for

KBITS = 4000
VIEWERS = 300
SECONDS = 6.0
REPETITIONS = 3

MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
NGINX = """
load_module {module};
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 10000; }}
rtmp {{
  access_log off;
  server {{
    listen 127.0.0.1:{port};
    application live {{ live on; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx_rtmp() -> Iterator[tuple[int, list[int]]]:
    """Run nginx with the RTMP module; yields its port and its processes.

    Raises:
        RuntimeError: If the module is not installed; it says how to get it.
    """
    if not MODULE.exists():
        raise RuntimeError("nginx's RTMP module is missing: install it with `make peers`")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        config = Path(folder) / "nginx.conf"
        config.write_text(NGINX.format(module=MODULE, folder=folder, port=port))
        command = ["env", "PATH=/usr/sbin:/usr/bin:/bin", "nginx", "-e", f"{folder}/error.log"]
        with machine.running([*command, "-c", str(config), "-p", folder], server=True) as process:
            wait_for(port)
            pids = machine.family(process.pid)
            for pid in pids:
                machine.own_core(pid)
            yield port, pids


@dataclass(frozen=True)
class Way:
    """One server and one of its protocols."""

    name: str
    port: int
    pids: list[int]
    path: str
    words: tuple[str, ...]

    def watch(self, viewers: int, seconds: float) -> Load:
        """Let viewers watch; return what that was like."""
        words = ["-c", str(viewers), "-w", "2", "-sweep", "20", *self.words, self.path]
        return load("stream", self.port, *words, pids=self.pids, seconds=seconds)


def main() -> None:
    """Print the table."""
    published = f"{FPS},{KBITS}"
    with rig(f"live+cmp,{published}") as running, nginx_rtmp() as (port, pids):
        running.publish(f"cmp,{published}", to=f"127.0.0.1:{port}")
        everything = [*running.pids, *machine.family(running.origin.pid)]
        ways = [
            Way("nginx-rtmp, RTMP", port, pids, "/live/cmp", ("-rtmp",)),
            Way("Headwater, progressive MP4", running.port, running.pids, "/live+cmp.mp4", ()),
            Way("Headwater, FLV", running.port, running.pids, "/live+cmp.flv", ()),
            Way(
                "Headwater, WebSocket",
                running.port,
                running.pids,
                "/live+cmp.mp4?autoplay=1",
                ("-ws",),
            ),
        ]
        lines = [
            f"| | latency, 1 viewer: median, p99 | latency, {VIEWERS} viewers: median, p99 "
            "| CPU per viewer | of a core without viewers | memory per viewer |",
            "|---|---|---|---|---|---|",
        ]
        for way in ways:
            idle = _idle(way.pids if way.port == port else everything)
            lines.append(_line(way, idle))
    about = "\n".join(f"- {name}: {value}" for name, value in machine.described().items())
    sys.stdout.write("\n".join(lines) + f"\n\n{about}\n")


def _idle(pids: list[int], seconds: float = 3.0) -> float:
    """Return the share of a core that processes use while nobody watches."""
    before = machine.cpu_ns(pids)
    time.sleep(seconds)
    return (machine.cpu_ns(pids) - before) / 1e9 / seconds


def _line(way: Way, idle: float) -> str:
    ones = [way.watch(1, SECONDS) for _ in range(REPETITIONS)]
    rate = statistics.median(one.raw["bits_mean"] for one in ones)
    many = [accepted(lambda: whole(way.watch(VIEWERS, SECONDS), rate)) for _ in range(REPETITIONS)]

    def middle(loads: list[Load], name: str) -> float:
        return float(statistics.median(one.raw[name] for one in loads))

    memory = max((one.memory_kb[1] - one.memory_kb[0]) / VIEWERS for one in many)
    cost = statistics.median(one.us_per_viewer for one in many)
    say(f"{way.name}: {cost:.0f} us a viewer and second, {memory:.1f} kB")
    return (
        f"| {way.name} | {middle(ones, 'p50_ms'):.1f} ms, {middle(ones, 'p99_ms'):.1f} ms "
        f"| {middle(many, 'p50_ms'):.1f} ms, {middle(many, 'p99_ms'):.1f} ms "
        f"| {cost:.0f} us a second | {100 * idle:.1f} % | {memory:.1f} kB |"
    )


if __name__ == "__main__":
    machine.own_network()
    machine.prepare()
    main()
