"""What streams cost: the origin for each publisher, the edge for each stream that nobody watches;
how soon a viewer who joins has a keyframe; and whether everything that a stream took is given back.
"""

import asyncio
import os
import re
import socket
import time
import urllib.request
from collections.abc import Iterator

import aiohttp

from bench import machine
from bench.figures import Row, median, say
from bench.generator import Rejected
from bench.publishers import MARK, Publisher
from bench.rig import PATIENCE, Rig, rig, until_live
from tests.harness.nodes import Node

KBITS = 2000
FPS = 30
RATE = 500 / 60
"""Streams that start, and stop, each second."""

LIVES = 2.0
SETTLE = 40.0


def publishers(seconds: float, counts: tuple[int, ...] = (1, 10, 100)) -> Iterator[Row]:
    """Yield the rows of CPU time for a publisher and for a subscribed stream."""
    for count in counts:
        with rig() as running:
            # Here it is the origin that has a core for itself.
            for pid in machine.family(running.origin.pid):
                machine.own_core(pid)
            os.sched_setaffinity(running.viewer, {machine.LOAD_CORE})
            names = [f"live+p{number}" for number in range(count)]
            running.publish(*(f"{name},{FPS},{KBITS}" for name in names))
            try:
                for name in names:
                    until_live(running, name)
            except OSError as error:
                raise Rejected(f"{count} publishers are too many for it ({error})") from error
            time.sleep(2)
            nodes = {"origin": machine.family(running.origin.pid), "edge": running.pids}
            before = {name: machine.cpu_ns(pids) for name, pids in nodes.items()}
            began, taken = time.monotonic(), _taken(running)
            time.sleep(seconds)
            took = time.monotonic() - began
            used = {
                name: (machine.cpu_ns(pids) - before[name]) / 1e9 / took
                for name, pids in nodes.items()
            }
            share = (_taken(running) - taken) / took / count / FPS
            note = f"{100 * share:.0f} % of the pictures came"
            yield median(
                f"origin, CPU per 2 Mbit/s publisher, {count} of them",
                [100 * used["origin"] / count],
                "% of a core",
                1,
                note=note,
            )
            yield median(
                f"edge, CPU per stream that nobody watches, {count} of them",
                [100 * used["edge"] / count],
                "% of a core",
                0.7,
                note=note,
            )


def _taken(running: Rig) -> float:
    """Return the pictures that the origin has taken in."""
    address = running.origin.endpoints["http"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    pattern = r'^headwater_frames_ingested_total\{[^}]*kind="video"[^}]*\} (\S+)$'
    return sum(map(float, re.findall(pattern, text, re.M)))


def joins(count: int) -> Iterator[Row]:
    """Yield how long a viewer waits for the first keyframe on an edge, cold and warm."""
    names = [f"live+j{number}" for number in range(count)]
    with rig() as running:
        running.publish(*(f"{name},{FPS},1000" for name in names))
        time.sleep(6)  # more than two GOPs: it is a running stream that they join
        for what, target in (("cold", 300), ("warm", 100)):
            waits = [1000 * _first_keyframe(running.port, name) for name in names]
            yield median(
                f"join on a {what} edge, to the first keyframe",
                waits,
                "ms",
                target,
                note=f"worst {max(waits):.0f} ms of {count} streams of 1 Mbit/s",
            )


def _first_keyframe(port: int, name: str) -> float:
    """Return the seconds from connecting until the first picture has come whole."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as viewer:
        viewer.sendall(f"GET /{name}.mp4 HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        data = b""
        while MARK not in data:
            piece = viewer.recv(1 << 20)
            assert piece, f"{name} ended: {data[:200]!r}"
            data = data[-len(MARK) :] + piece
    return time.monotonic() - began


async def _comes_and_goes(running: Rig, http: aiohttp.ClientSession, name: str) -> bool:
    """Publish a stream for a while; return whether a viewer got its playlist."""
    host, port = running.origin.endpoints["rtmp"].removeprefix("rtmp://").rsplit(":", 1)
    key = name.replace("live", running.site.KEY, 1)
    publisher = Publisher(host, int(port), key, FPS, 300)
    playing = asyncio.create_task(publisher.run(0.0, LIVES))
    try:
        async with http.get(f"{running.edge.url}/cmaf/{name}/index.m3u8") as answer:
            await answer.read()
            return answer.status == 200
    finally:
        await playing


async def _churn(running: Rig, seconds: float, first: int) -> tuple[int, int]:
    """Start streams at the rate of the row; return how many there were and were seen."""
    begun = 0
    tasks: list[asyncio.Task[bool]] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        while loop.time() < began + seconds:
            name = f"live+c{first + begun}"
            tasks.append(group.create_task(_comes_and_goes(running, http, name)))
            begun += 1
            await asyncio.sleep(max(0.0, began + begun / RATE - loop.time()))
    return begun, sum(task.result() for task in tasks)


def _state(node: Node) -> dict[str, int]:
    """Return what a node holds of descriptors, threads, memory (kB), series and streams."""
    pids = machine.family(node.pid)
    where = node.endpoints.get("admin") or node.endpoints["http"]
    with urllib.request.urlopen(f"http://{where}/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return {
        "descriptors": machine.descriptors(pids),
        "threads": sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
        "kB of memory": machine.anonymous_kb(pids),
        "metric series": sum(1 for line in lines if line and line[0] != "#"),
        "page folders": sum(1 for entry in os.scandir(_pages(node)) if entry.is_dir()),
    }


def _pages(node: Node) -> str:
    text = (node.folder / f"{node.name}.toml").read_text()
    found = re.search(r'^pages = "(.*)"$', text, re.M)
    assert found is not None
    return found[1]


def _settled(node: Node, start: dict[str, int]) -> dict[str, int]:
    """Return the state once it is back at the start, or as it is after a while."""
    deadline = time.monotonic() + SETTLE
    while True:
        now = _state(node)
        back = all(now[name] <= start[name] for name in start if name != "kB of memory")
        if back or time.monotonic() > deadline:
            return now
        time.sleep(1)


def churn(seconds: float) -> Iterator[Row]:
    """Yield what is left behind when hundreds of streams have started and stopped."""
    with rig(window="6s", edge={"linger": '"10s"'}) as running:
        nodes = {"origin": running.origin, "edge": running.edge}
        # What is loaded and grows with the first streams stays as it is.
        first, _ = asyncio.run(_churn(running, min(30.0, seconds / 3), 0))
        time.sleep(SETTLE / 2)
        before = {name: _state(node) for name, node in nodes.items()}
        count, seen = asyncio.run(_churn(running, seconds, first))
        say(f"{seen} of {count} streams had a viewer who got the playlist")
        # One who comes when the stream has gone already is told so; that must be the exception.
        assert seen > 0.9 * count, f"only {seen} of {count} streams could be watched"
        for name, node in nodes.items():
            after = _settled(node, before[name])
            say(f"{name}: {before[name]} before, {after} after {count} streams")
            for what, start in before[name].items():
                per_stream = what == "kB of memory"
                left = after[what] - start
                yield median(
                    f"{name}: {what} left behind by {count} streams",
                    [left / count if per_stream else left],
                    "kB a stream" if per_stream else "",
                    0.5 if per_stream else 0,
                    note=f"{start} before, {after[what]} after",
                )
