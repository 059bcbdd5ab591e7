"""``headwater bench``: measure on this machine what ``headwater size`` reckons with.

The parts of an edge that cost most are run alone, with sockets of loopback and a process that
throws away what it gets: writes of two sizes to many connections, answers of two sizes from the
edge's own HTTP server, and parts made of frames. Two sizes tell what a write costs from what its
bytes cost. Only CPU time of the sender counts, so a busy machine hardly disturbs.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import platform
import selectors
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web

from common.errors import ConfigError
from common.formats.cmaf import part
from common.media.codec import Codec
from common.media.track import Track
from common.runtime import config, listen, serving
from common.runtime.tasks import spawn_child, stop_child
from common.track.record import Record
from edge import http
from edge.output import Capability, Output
from edge.sessions import Sessions

VIEWERS = 150
CLIENTS = 16
FPS = 30
WRITES = (2_000, 32_000)
"""Bytes of a write; 4 Mbit/s are 16 700."""

ANSWERS = (1_500, 200_000)
"""Bytes of an answer: a playlist, and a long part."""

FRAMES = 6
FRAME_BYTES = 16_700
SECONDS = 1.5
"""How long each measurement goes on."""

ROUNDS = 3
"""Measurements of each kind, of which the middle one counts."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``headwater bench``."""
    top = argparse.ArgumentParser(prog="headwater bench", description=__doc__)
    top.add_argument("--output", type=Path, metavar="FILE", help="where the figures are written")
    top.add_argument("--json", action="store_true", help="print JSON")
    return top


def main(argv: Sequence[str]) -> int:
    """Measure, tell, and write a file for ``headwater size``."""
    arguments = parser().parse_args(argv)
    file = arguments.output or config.state_folder() / "figures.json"
    figures = asyncio.run(measure(SECONDS))
    found = {
        "figures": {name: round(value, 3) for name, value in figures.items()},
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": sys.version.split()[0]},
    }
    text = json.dumps(found, indent=2) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    except OSError as error:
        raise ConfigError(str(file), f"cannot be written: {error.strerror}") from error
    sys.stdout.write(text if arguments.json else words(figures, file))
    return 0


def words(figures: dict[str, float], file: Path) -> str:
    """Return what was measured as text for people."""
    return (
        f"CPU time of one core of this machine ({cpu_name()}):\n"
        f"  {figures['write']:.1f} us a write to one viewer, "
        f"{figures['megabit']:.1f} us for each megabit in it\n"
        f"  {figures['request']:.1f} us a request that is answered from memory, "
        f"{figures['megabit_answered']:.1f} us for each megabit\n"
        f"  {figures['megabit_packaged']:.1f} us to make parts out of a megabit of frames\n"
        f"Written to {file}; headwater size reckons with it.\n"
    )


async def measure(seconds: float) -> dict[str, float]:
    """Return the figures, in microseconds of CPU."""
    megabit, write = line(WRITES, await middles(writes, WRITES, seconds))
    answered, request = line(ANSWERS, await middles(answers, ANSWERS, seconds))
    return {
        "write": write,
        "megabit": megabit,
        "request": request,
        "megabit_answered": answered,
        "megabit_packaged": packaging(seconds / 3),
    }


async def middles(
    one: Callable[[int, float], Awaitable[float]], sizes: tuple[int, int], seconds: float
) -> tuple[float, float]:
    """Return the middle one of several measurements for each size, taken in turns."""
    found = [[await one(size, seconds) for size in sizes] for _ in range(ROUNDS)]
    small, large = (statistics.median(row) for row in zip(*found, strict=True))
    return small, large


def line(sizes: tuple[int, int], costs: tuple[float, float]) -> tuple[float, float]:
    """Return what a megabit costs, and what is left of the small one without its bytes."""
    megabits = [size * 8 / 1e6 for size in sizes]
    slope = max(0.01, (costs[1] - costs[0]) / (megabits[1] - megabits[0]))
    return slope, max(0.01, costs[0] - slope * megabits[0])


async def writes(size: int, seconds: float) -> float:
    """Return the microseconds that a write of ``size`` bytes to one of many viewers takes."""
    held: list[asyncio.Transport] = []
    full = asyncio.Event()

    class Viewer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            held.append(transport)
            if len(held) == VIEWERS:
                full.set()

    data = bytes(size)
    loop = asyncio.get_running_loop()
    listener = listen.bind("127.0.0.1:0")
    serving.prepare(listener)
    server = await loop.create_server(Viewer, sock=listener)
    async with peer(listener, "read", VIEWERS):
        await full.wait()
        began, rounds = time.process_time(), max(1, round(seconds * FPS))
        due = loop.time()
        for _ in range(rounds):
            for transport in held:
                transport.write(data)
            due += 1 / FPS
            await asyncio.sleep(max(0.0, due - loop.time()))
        spent = time.process_time() - began
        for transport in held:
            transport.abort()
    server.close()
    return spent * 1e6 / rounds / VIEWERS


async def answers(size: int, seconds: float) -> float:
    """Return the microseconds that the edge takes to answer a request with ``size`` bytes."""
    answered = 0
    warm = asyncio.Event()
    body = bytes(size)

    class Bench(Output):
        capability = Capability("answers for headwater bench", "")

        def routes(self) -> list[web.RouteDef]:
            return [web.get("/bench", self.answer)]

        async def answer(self, _: web.Request) -> web.Response:
            nonlocal answered
            answered += 1
            if answered == CLIENTS * 4:
                warm.set()
            return web.Response(body=body)

    listener = listen.bind("127.0.0.1:0")
    sessions = Sessions()
    runner = await http.serve(
        http.application({"bench": Bench(None, None)}, sessions),  # type: ignore[arg-type]
        [listener],
    )
    async with peer(listener, "ask", CLIENTS, size):
        await warm.wait()
        before, began = answered, time.process_time()
        await asyncio.sleep(seconds)
        spent, count = time.process_time() - began, answered - before
    await runner.cleanup()
    return spent * 1e6 / max(1, count)


def packaging(seconds: float) -> float:
    """Return the microseconds that a part takes, with its tag, for each megabit."""
    track = Track(1, Codec.H264, 90_000, (b"",), frame_duration=3000)
    records = [
        Record(n, n * 3000, 0, 0, 0, 3000, 1, 1, 0, FRAME_BYTES, 0, int(n == 0), 0)
        for n in range(FRAMES)
    ]
    payload = os.urandom(FRAMES * FRAME_BYTES)
    made, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        body = part(track, records, [payload], None, (0, 0))
        hashlib.sha256(body, usedforsecurity=False).hexdigest()
        made += 1
    return spent * 1e6 / made / (len(payload) * 8 / 1e6)


@contextlib.asynccontextmanager
async def peer(listener: socket.socket, *what: object) -> AsyncIterator[None]:
    """Run the viewers in a process of their own for the time of a block."""
    port = listener.getsockname()[1]
    command = [sys.executable, "-m", "edge.calibrate", str(port), *map(str, what)]
    process = await spawn_child(command)
    try:
        yield
    finally:
        await stop_child(process, 0.2)


def cpu_name() -> str:
    """Return what the machine calls its processor."""
    with contextlib.suppress(OSError):
        for row in Path("/proc/cpuinfo").read_text().splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.machine()


def play_viewers(port: int, kind: str, count: int, size: int = 0) -> None:
    """Be the viewers: throw away all that comes, and ask again once an answer is complete."""
    room = bytearray(1 << 20)
    ask = b"GET /bench HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    left: dict[socket.socket, int] = {}
    with selectors.DefaultSelector() as waiting:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setblocking(False)
            waiting.register(connection, selectors.EVENT_READ)
            if kind == "ask":
                connection.send(ask)
            left[connection] = 0
        while left:
            for key, _ in waiting.select():
                connection = key.fileobj  # type: ignore[assignment]
                got = connection.recv_into(room)
                if not got:
                    waiting.unregister(connection)
                    del left[connection]
                elif kind == "ask":
                    _read(connection, left, memoryview(room)[:got], size, ask)


def _read(
    connection: socket.socket,
    left: dict[socket.socket, int],
    data: memoryview,
    size: int,
    ask: bytes,
) -> None:
    """Count down an answer: the first piece has its header, and the body is as long as agreed."""
    if left[connection] == 0:
        head = bytes(data[:2048]).find(b"\r\n\r\n") + 4
        left[connection] = size + head
    left[connection] -= len(data)
    if left[connection] <= 0:
        left[connection] = 0
        connection.send(ask)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, ConnectionError):
        play_viewers(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *map(int, sys.argv[4:]))
