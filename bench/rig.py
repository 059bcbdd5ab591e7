"""What is measured: a real origin and edge with several streams, and the peers beside them.

The origin, the stream worker, the publishers and the load generator share a core; the viewer
process has another one for itself, and so has each peer while it is its turn.
"""

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urljoin

from bench import machine
from bench.generator import program
from tests.harness.nodes import Node, Site, site, start

FPS = 30
PATIENCE = 20.0


class Rig:
    """A running origin and edge, and where they are."""

    def __init__(self, made: Site, origin: Node, edge: Node) -> None:
        self.site = made
        self.origin = origin
        self.edge = edge
        self._stack = contextlib.ExitStack()

    @property
    def port(self) -> int:
        """Where viewers come in."""
        return int(self.edge.endpoints["http"].rpartition(":")[2])

    @property
    def tls_port(self) -> int:
        """Where they come in over TLS, if that was configured."""
        return int(self.edge.endpoints["https"].rpartition(":")[2])

    @property
    def pids(self) -> list[int]:
        """All processes of the edge."""
        return machine.family(self.edge.pid)

    @property
    def viewer(self) -> int:
        """The process that serves viewers."""
        return self.edge.child("edge.viewer")

    def publish(self, *wanted: str, to: str = "") -> "subprocess.Popen[bytes]":
        """Start publishers of ``NAME,FPS,KBITS[,SECONDS]``; ``live+NAME?slot=S`` names a slot.

        They push to the origin, or to another RTMP server at ``to``.
        """
        target = to or self.origin.endpoints["rtmp"].removeprefix("rtmp://")
        words = [f"{one.replace('live', self.site.KEY, 1)}" for one in wanted]
        command = [sys.executable, "-m", "bench.publishers", target, *words]
        return self._stack.enter_context(machine.running(command))

    def get(self, path: str, headers: Mapping[str, str] = {}) -> bytes:
        """Fetch something of the edge."""
        request = urllib.request.Request(f"{self.edge.url}{path}", headers=dict(headers))
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            body: bytes = answer.read()
        return body

    def metric(self, node: Node, name: str) -> float:
        """Return the sum of a metric over its labels."""
        where = node.endpoints.get("admin") or node.endpoints["http"]
        with urllib.request.urlopen(f"http://{where}/metrics", timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        values = [
            float(line.rpartition(" ")[2])
            for line in lines
            if line.partition("{")[0].partition(" ")[0] == name
        ]
        return sum(values)

    def close(self) -> None:
        """End the publishers."""
        self._stack.close()


@contextlib.contextmanager
def rig(
    *published: str,
    part: str = "333ms",
    window: str = "20s",
    edge: Mapping[str, str] = {},
) -> Iterator[Rig]:
    """Run origin and edge with these publishers, until the block ends.

    The edge has one viewer process, on the core of the server, and no limits that a benchmark hits.
    """
    unlimited = {"viewers": "1", "bandwidth": "1e13", "sessions": "100000", "linger": '"1h"'}
    stream = {"part": f'"{part}"', "window": f'"{window}"', "reconnect": '"1s"'}
    with tempfile.TemporaryDirectory() as folder, site(Path(folder)) as made:
        nodes = [
            made.add("origin", "origin", stream=stream),
            made.add("edge", "edge", {**unlimited, **edge}, stream=stream),
        ]
        for node in nodes:
            node.environment["HEADWATER_LOG__LEVEL"] = "warning"
            node.before = machine.BOUND
        start(*nodes)
        running = Rig(made, *nodes)
        machine.own_core(running.viewer)
        try:
            if published:
                running.publish(*published)
                for name in {one.partition(",")[0].partition("?")[0] for one in published}:
                    until_live(running, name)
            yield running
        finally:
            running.close()


def until_live(running: Rig, name: str) -> None:
    """Wait until viewers of a stream get a playlist."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            running.get(f"/cmaf/{name}/index.m3u8")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def lines_of(running: Rig, path: str) -> list[str]:
    """Return the lines of a playlist."""
    return running.get(path).decode().splitlines()


def tracks(running: Rig, name: str) -> list[str]:
    """Return the paths of the video playlists of a stream, the one with the highest rate first."""
    base = f"/cmaf/{name}/index.m3u8"
    found: dict[str, int] = {}
    lines = lines_of(running, base)
    for line, after in itertools.pairwise(lines):
        if line.startswith("#EXT-X-STREAM-INF:") and "://" not in after:
            rate = int(line.partition("BANDWIDTH=")[2].partition(",")[0])
            found[urljoin(base, after)] = rate
    return sorted(found, key=lambda path: -found[path])


def segments(running: Rig, playlist: str, count: int) -> list[str]:
    """Return the paths of the newest segments, once there are so many."""
    deadline = time.monotonic() + 2 * PATIENCE
    while True:
        names = [line for line in lines_of(running, playlist) if line and line[0] != "#"]
        if len(names) >= count:
            return [urljoin(playlist, name) for name in names[-count:]]
        assert time.monotonic() < deadline, f"{playlist} has {len(names)} segments"
        time.sleep(0.2)


def parts(running: Rig, playlist: str, count: int) -> list[str]:
    """Return the paths of the newest parts; of those with the keyframe there are few."""
    return [
        urljoin(playlist, line.partition('URI="')[2].partition('"')[0])
        for line in lines_of(running, playlist)
        if line.startswith("#EXT-X-PART:")
    ][-count:]


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
    return port


def wait_for(port: int) -> None:
    """Wait until somebody listens on a port."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


NGINX = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log crit;
worker_rlimit_nofile 40000;
events {{ worker_connections 30000; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  open_file_cache max=10000 inactive=1h;
  open_file_cache_valid 1h;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  types {{ application/vnd.apple.mpegurl m3u8; video/mp4 m4s mp4; }}
  add_header Access-Control-Allow-Origin *;
  add_header Cache-Control "public, max-age=60";
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {folder}/www;
  }}
  {tls}
}}
"""

NGINX_TLS = """server {{
    listen 127.0.0.1:{port} ssl backlog=4096;
    root {folder}/www;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
  }}"""


class Nginx:
    """A running nginx that serves copies of what the edge serves, from shared memory."""

    def __init__(self, folder: Path, port: int, tls_port: int, pids: list[int]) -> None:
        self._www = folder / "www"
        self.port = port
        self.tls_port = tls_port
        self.pids = pids

    def copy(self, running: Rig, paths: Sequence[str]) -> list[str]:
        """Take objects of the edge; return where they are here."""
        names = []
        for number, path in enumerate(paths):
            suffix = path.partition("?")[0].rpartition(".")[2]
            name = f"{abs(hash(path))}-{number}.{suffix}"
            (self._www / name).write_bytes(running.get(path))
            names.append(f"/{name}")
        return names


@contextlib.contextmanager
def nginx(certificate: Path | None = None, key: Path | None = None) -> Iterator[Nginx]:
    """Run nginx as whoever cares for speed would: one worker, sendfile, files kept open."""
    port, tls_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="hwbench-", dir="/dev/shm") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "www").mkdir()
        given = {"folder": folder, "certificate": certificate, "key": key}
        tls = NGINX_TLS.format(port=tls_port, **given) if certificate else ""
        text = NGINX.format(port=port, folder=folder, tls=tls)
        (folder / "nginx.conf").write_text(text)
        path = os.environ["PATH"] + ":/usr/sbin"
        command = ["env", f"PATH={path}", "nginx", "-c", str(folder / "nginx.conf"), "-p", name]
        with machine.running([*command, "-e", f"{name}/error.log"], server=True) as process:
            wait_for(port)
            pids = machine.family(process.pid)
            for pid in pids:
                machine.own_core(pid)
            yield Nginx(folder, port, tls_port, pids)


@contextlib.contextmanager
def reference(mode: str, tick: float, *sizes: int) -> Iterator[tuple[int, list[int]]]:
    """Run the server in C; yields its port and its process."""
    port = free_port()
    command = [str(program("ref")), mode, str(port), str(round(tick * 1e6)), *map(str, sizes)]
    with machine.running(command, server=True) as process:
        wait_for(port)
        yield port, [process.pid]
