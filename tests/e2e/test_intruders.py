"""Peers without a key, or with one that means harm, on every port of the inside: their cost."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zmq

from common.bus.link import Endpoints, Link, Message
from common.runtime.config import NodeSettings
from common.runtime.curve import Guard, guarded
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registries import node_entry
from common.wire.messages import Media
from tests.harness.bus import FPS
from tests.harness.cutting import Forwarder
from tests.harness.intruders import ATTACKS, bombs
from tests.harness.victim import waited_for_cpu

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

MEMORY = 10_000_000
"""Bytes that intruders may make a node use."""

STALL = 0.05
"""Seconds that they may make it wait."""

SECONDS = 3.0
PATIENCE = 60.0


@dataclass
class Victim:
    """A node under attack, and a friend that takes its stream."""

    process: asyncio.subprocess.Process
    endpoints: dict[str, str]
    registry: EmbeddedRegistry
    folder: Path
    delays: list[float] = field(default_factory=list)
    """From the node's event loop to its friend's, in seconds, without waiting for a processor."""

    waited: float = 0.0
    said: str = ""

    @property
    def recording(self) -> Path:
        """All bytes that the friend has sent on its connection for questions."""
        return self.folder / "recording"

    @property
    def ports(self) -> list[str]:
        return [self.endpoints[name].rpartition(":")[2] for name in ("bus", "control", "gossip")]

    def threads(self) -> list[str]:
        """Return the threads that a frame goes through on its way."""
        both = (self.process.pid, os.getpid())
        return [f"{pid}/task/{one}" for pid in both for one in os.listdir(f"/proc/{pid}/task")]

    def memory(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        private = int(pages[1]) - int(pages[2])  # without files: those are the track pages
        return private * os.sysconf("SC_PAGESIZE")

    async def late(self) -> float:
        """Return how late its event loop was at worst since it was asked before."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(PATIENCE):
            return float(await self.process.stdout.readline())

    def heard(self, _: Link, message: Message, frames: list[bytes]) -> None:
        if isinstance(message, Media):
            sent = message.items[-1].record.capture_us / 1e6
            delay, before = time.time() - sent, self.waited
            self.waited = sum(map(waited_for_cpu, self.threads()))
            self.delays.append(max(0.0, delay - (self.waited - before)))

    @contextlib.asynccontextmanager
    async def guest(self, name: str) -> AsyncIterator[Guard]:
        """Register an edge of this machine."""
        node = NodeSettings(name=name, keys=str(self.folder / f"{name}.key"), bus_security="curve")
        await self.registry.register(node_entry(node, "edge", {}))
        async with guarded(node, self.registry) as guard:
            yield guard

    async def under(self, attack: "asyncio.subprocess.Process | asyncio.Task[None]") -> str:
        """Watch until an attack is over; return what it cost, empty if that is little."""
        await self.late()
        self.delays.clear()
        before = peak = self.memory()
        ended = attack if isinstance(attack, asyncio.Task) else asyncio.create_task(attack.wait())
        while not ended.done():
            peak = max(peak, self.memory())
            await asyncio.sleep(0.01)
        late = await self.late()
        delay = max(self.delays, default=PATIENCE)
        self.said = f"{(peak - before) / 1e6:+.1f} MB, event loop {late * 1e3:.1f} ms late, "
        self.said += f"{len(self.delays)} frames at most {delay * 1e3:.1f} ms on their way"
        return self.said if peak - before > MEMORY or max(late, delay) > STALL else ""


class Wiretap(Forwarder):
    """A forwarder that writes down what comes from the side of the client."""

    def __init__(self, target: int, path: Path) -> None:
        super().__init__(target)
        self._path = path
        self._path.write_bytes(b"")

    def heard(self, data: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(data)


@pytest.fixture
async def victim(tmp_path: Path) -> AsyncIterator[Victim]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.harness.victim", str(tmp_path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        endpoints = json.loads(await process.stdout.readline())
    found = Victim(process, endpoints, EmbeddedRegistry(tmp_path / "registry"), tmp_path)
    wire = Wiretap(int(found.ports[1]), found.recording)
    await wire.start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    async with found.guest("friend") as guard:
        link = Link(
            context,
            Endpoints.of({**endpoints, "control": f"tcp://127.0.0.1:{wire.port}"}),
            "friend",
            deliver=found.heard,
            renewed=lambda _: None,
            broken=lambda _: None,
            settled=lambda: None,
            now_us=lambda: time.monotonic_ns() // 1000,
            guard=guard,
        )
        link.subscribe("live")
        async with asyncio.timeout(PATIENCE):
            while len(found.delays) < FPS:  # noqa: ASYNC110 - a socket is asked
                await asyncio.sleep(0.02)
        yield found
        link.close()
        context.destroy(0)
    await wire.close()
    process.kill()
    await process.wait()


async def test_nobody_without_a_key_costs_memory_or_time(victim: Victim) -> None:
    costly = {}
    for kind in ATTACKS:
        command = [sys.executable, "-m", "tests.harness.intruders", kind]
        command += [victim.endpoints["curve"], str(SECONDS), *victim.ports]
        attack = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "RECORDING": str(victim.recording)},
        )
        cost = await victim.under(attack)
        assert attack.stdout is not None
        rounds = int(await attack.stdout.read())
        assert rounds > 0
        assert victim.process.returncode is None, f"{kind} has killed the node"
        sys.stdout.write(f"{kind:<15} {rounds:>6} rounds: {victim.said}\n")
        if cost:
            costly[kind] = cost
    assert costly == {}


async def test_a_node_with_a_key_cannot_harm_with_what_it_sends(victim: Victim) -> None:
    """The limits of messages and of msgpack hold for nodes too: one of them may be broken into."""

    async def throw() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        endpoints = Endpoints.of(victim.endpoints)
        async with victim.guest("traitor") as guard:
            control, bus = context.socket(zmq.DEALER), context.socket(zmq.XSUB)
            for socket, endpoint in ((control, endpoints.control), (bus, endpoints.bus)):
                guard.client(socket, endpoint, endpoints.curve)
                socket.connect(endpoint)
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                for body in bombs():
                    with contextlib.suppress(zmq.Again):
                        control.send(body, zmq.NOBLOCK)
                        bus.send(b"\1" + os.urandom(32), zmq.NOBLOCK)
                await asyncio.sleep(0.002)
        context.destroy(0)

    cost = await victim.under(asyncio.create_task(throw()))
    sys.stdout.write(f"a traitor's bombs: {victim.said}\n")
    assert cost == ""
