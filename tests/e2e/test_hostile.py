"""Hostile peers on every port while a stream plays: every frame arrives, and what it costs."""

import asyncio
import contextlib
import os
import random
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.harness import viewers
from tests.harness.cluster import descendants
from tests.harness.intruders import MEGABYTE, greeting, message, ready
from tests.harness.ledger import difference, first_key, missing_at_start
from tests.harness.media import Packet, clip, packets, push
from tests.harness.nodes import Node, Site, site, start

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

SECONDS = 80
"""Length of the clip; the stream is ended once all attacks are over."""

STALL = 3
"""Seconds that a viewer may take nothing, on this edge."""

MEMORY = 40 * MEGABYTE
"""Bytes that an attack may make the nodes use, all processes together."""

PATIENCE = 60.0
STUCK, IDLE, SLOW = 200, 1000, 100


@dataclass
class Scene:
    """Two nodes, their processes, and what has been measured."""

    site: Site
    origin: Node
    edge: Node
    said: list[str] = field(default_factory=list)
    costly: dict[str, float] = field(default_factory=dict)

    @property
    def pids(self) -> list[int]:
        return [pid for one in (self.origin, self.edge) for pid in [one.pid, *descendants(one.pid)]]

    def ports(self) -> list[tuple[str, int]]:
        """Return the name and port of each socket that anybody on this machine can reach."""
        found = {}
        for node in (self.origin, self.edge):
            for name, where in node.endpoints.items():
                if re.search(r":\d+$", where):
                    found[f"{node.name} {name}"] = int(where.rpartition(":")[2])
        return sorted(found.items())

    def memory(self) -> int:
        pages = 0
        for pid in self.pids:
            with contextlib.suppress(OSError):  # it has just ended
                fields = Path(f"/proc/{pid}/statm").read_text().split()
                pages += int(fields[1]) - int(fields[2])
        return pages * os.sysconf("SC_PAGESIZE")

    async def lag(self, http: aiohttp.ClientSession) -> float:
        """Return how late event loops of the edge were at the last look."""
        async with http.get(f"http://{self.edge.endpoints['admin']}/metrics") as answer:
            found = re.findall(r"^headwater_loop_lag_seconds\S* (\S+)$", await answer.text(), re.M)
        return max(map(float, found), default=0.0)

    async def taken(self) -> int:
        """Return how many pictures the origin has taken in."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.origin.url}/metrics") as answer,
        ):
            text = await answer.text()
        pattern = r'^headwater_frames_ingested_total\{[^}]*kind="video"[^}]*\} (\S+)$'
        return int(sum(map(float, re.findall(pattern, text, re.M))))

    async def under(self, name: str, attack: Awaitable[str]) -> None:
        """Watch an attack and note what it cost."""
        before = peak = self.memory()
        began, late = time.monotonic(), 0.0
        task = asyncio.ensure_future(attack)
        async with aiohttp.ClientSession() as http:
            while not task.done():
                await asyncio.wait([task], timeout=0.2)
                peak = max(peak, self.memory())
                late = max(late, await self.lag(http))
        took = time.monotonic() - began
        grown = peak - before
        self.said.append(
            f"{name:<28} {took:5.1f} s, {grown / MEGABYTE:+6.1f} MB, "
            f"event loop {late * 1e3:5.1f} ms late: {task.result()}"
        )
        sys.stdout.write(self.said[-1] + "\n")
        if grown > MEMORY:
            self.costly[name] = grown / MEGABYTE


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with site(tmp_path) as made:
        origin = made.add("origin", "origin")
        edge = made.add("edge", "edge", {"viewers": "1", "stall": f'"{STALL}s"'})
        start(origin, edge)
        yield Scene(made, origin, edge)


@contextlib.asynccontextmanager
async def connections(port: int, count: int, first: bytes) -> AsyncIterator[list[socket.socket]]:
    """Hold so many connections that have sent ``first`` and read nothing."""
    loop, held = asyncio.get_running_loop(), []
    try:
        for _ in range(count):
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.setblocking(False)
            held.append(one)
            await loop.sock_connect(one, ("127.0.0.1", port))
            if first:
                await loop.sock_sendall(one, first)
        yield held
    finally:
        for one in held:
            one.close()


def gone(one: socket.socket) -> bool:
    """Return whether the other end, which has nothing to say, has let go."""
    try:
        return not one.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def answered(one: socket.socket) -> bool:
    """Return whether something has come, which is left where it is."""
    try:
        return bool(one.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


async def until(true: Callable[[], bool]) -> float:
    """Return the seconds until something is the case."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - sockets and processes have no event
            await asyncio.sleep(0.1)
    return time.monotonic() - began


async def all_gone(held: list[socket.socket]) -> float:
    """Return the seconds until the other end has let go of all of them."""
    left = set(held)

    def none_left() -> bool:
        left.difference_update([one for one in left if gone(one)])
        return not left

    return await until(none_left)


def files_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def port_of(node: Node, name: str = "http") -> int:
    return int(node.endpoints[name].rpartition(":")[2])


async def stuck(scene: Scene) -> str:
    """Viewers who ask for the stream and never read."""
    request = b"GET /live.mp4 HTTP/1.1\r\nHost: x\r\n\r\n"
    pid = scene.edge.child("edge.viewer")
    before = files_of(pid)
    async with connections(port_of(scene.edge), STUCK, request) as held:
        await until(lambda: all(map(answered, held)))
        took = await until(lambda: files_of(pid) < before + STUCK // 20)
    return f"{STUCK} viewers who read nothing, all cut after {took:.1f} s"


async def idle(scene: Scene) -> str:
    async with connections(port_of(scene.edge), IDLE, b"") as held:
        took = await all_gone(held)
    return f"{IDLE} connections that say nothing, all cut after {took:.1f} s"


async def slowloris(scene: Scene) -> str:
    """A header that never ends, a line at a time, to every port that speaks HTTP."""

    async def one(port: int) -> float:
        async with connections(port, SLOW, b"GET / HTTP/1.1\r\n") as held:
            return await trickled(held)

    targets = [(scene.edge, "http"), (scene.edge, "admin"), (scene.origin, "http")]
    took = await asyncio.gather(*(one(port_of(*target)) for target in targets))
    return f"{SLOW} slow headers on each of {len(took)} ports, all cut after {max(took):.1f} s"


async def trickled(held: list[socket.socket]) -> float:
    """Go on with the headers until the other end has let go of all of them."""
    ended = asyncio.create_task(all_gone(held))
    while not ended.done():
        for one in held:
            with contextlib.suppress(OSError):
                one.send(b"X: y\r\n")
        await asyncio.wait([ended], timeout=0.5)
    return ended.result()


async def noise(scene: Scene) -> str:
    """10 000 random bytes, five times, to each port."""
    chance, ports = random.Random(1), scene.ports()
    for _ in range(5):
        for _, port in ports:
            await throw(port, chance.randbytes(10_000))
    return f"random bytes to {', '.join(name for name, _ in ports)}"


async def giant(scene: Scene) -> str:
    """A subscription of 50 MB to each ZeroMQ socket."""
    body = greeting(b"NULL") + ready("SUB") + message(b"\1" + bytes(50 * MEGABYTE))
    for node, name in ((scene.origin, "bus"), (scene.origin, "gossip"), (scene.edge, "gossip")):
        await throw(port_of(node, name), body)
    return "a subscription of 50 MB to three sockets"


async def throw(port: int, data: bytes) -> None:
    """Send what the other end takes."""
    with contextlib.suppress(OSError, TimeoutError):  # shut, as it should be
        async with asyncio.timeout(3):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(writer):
                writer.write(data)
                await writer.drain()


async def descriptors(scene: Scene) -> str:
    """All descriptors of the viewer process are taken by connections."""
    pid, port = scene.edge.child("edge.viewer"), port_of(scene.edge)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    size = scene.edge.log.stat().st_size
    few = files_of(pid) + 20
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, before[1]))
    try:
        async with connections(port, 100, b""):
            cpu = seconds_of(pid)
            await asyncio.sleep(3)  # how it behaves meanwhile is what is measured
            cpu = seconds_of(pid) - cpu
        began = time.monotonic()
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/player.js"):
            back = time.monotonic() - began
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    grown = scene.edge.log.stat().st_size - size
    assert "cannot accept" in scene.edge.log.read_text(), "the descriptors were not used up"
    assert grown < 100_000, f"{grown} bytes of log"
    assert back < PATIENCE
    return f"{cpu / 3:.0%} of a core meanwhile, served again after {back:.2f} s, {grown} B of log"


def seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


ATTACKS: dict[str, Callable[[Scene], Awaitable[str]]] = {
    "viewers that never read": stuck,
    "connections that idle": idle,
    "slowloris": slowloris,
    "random bytes": noise,
    "a giant subscription": giant,
    "no descriptors": descriptors,
}


async def test_honest_viewers_get_every_frame_whatever_others_do(
    scene: Scene, tmp_path: Path
) -> None:
    source = clip(tmp_path / "clip.flv", SECONDS)
    video, audio = packets(source, "video"), packets(source, "audio")
    base = f"http://{scene.edge.endpoints['http']}"
    mp4 = viewers.Watched()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECONDS + 60)) as http:
        watching = [
            asyncio.create_task(viewers.progressive(http, f"{base}/live.mp4", mp4)),
            hls := asyncio.create_task(viewers.ll_hls(http, f"{base}/cmaf/live/index.m3u8")),
        ]
        process = push(source, scene.site.ingest(scene.origin))
        try:
            async with asyncio.timeout(PATIENCE):
                while not mp4.arrived:  # noqa: ASYNC110 - a viewer that keeps what it gets
                    await asyncio.sleep(0.05)
            for name, attack in ATTACKS.items():
                await scene.under(name, attack(scene))
            assert process.poll() is None, "the stream was over before the attacks were"
            process.send_signal(signal.SIGINT)
            process.wait()
            taken = await scene.taken()
            await asyncio.gather(*watching)
        finally:
            process.kill()
            process.wait()
    wrong = check("mp4", bytes(mp4.data), video, audio)
    for uri, track in hls.result().items():
        assert not track.failures, (uri, track.failures[:5])
        wrong |= check(uri, track.stream(), video, audio)
    assert len(wrong) == 4
    for data in (bytes(mp4.data), viewers.picture(hls.result())):
        assert len(packets(data, "video")) == taken - first_key(video)
    assert not {name: what for name, what in wrong.items() if what}, wrong
    assert scene.costly == {}


def check(name: str, data: bytes, video: list[Packet], audio: list[Packet]) -> dict[str, str]:
    """Compare what came with what was pushed until then; of the picture, all of it."""
    found = {}
    for kind, pushed in (("video", video[first_key(video) :]), ("audio", audio)):
        with contextlib.suppress(IndexError):  # a rendition has one of them
            got = packets(data, kind)
            first = next((n for n, one in enumerate(pushed) if one.payload == got[0].payload), 0)
            known = pushed[: first + len(got)]
            found[f"{name} {kind}"] = difference(known, got, tick=0.005)
            if kind == "video" and missing_at_start(known, got):
                found[f"{name} {kind}"] += f" {first} missing at the start"
    return found
