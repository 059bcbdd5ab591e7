"""One simulated cluster: who is in it, what goes wrong and when, and what must hold in the end.

All of it follows from a seed. For :data:`TROUBLE` seconds things go wrong; then everything heals,
the encoder goes on for a while, and what every edge holds in the end is compared.
"""

import asyncio
import os
import random
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from common.track.reader import StreamReader
from tests.sim.clock import VirtualLoop
from tests.sim.encoder import Encoder
from tests.sim.ledger import Ledger, frames_of, lost_in
from tests.sim.network import ON, Network
from tests.sim.nodes import STREAM, UNIX_US, EdgeHost, Host, OriginHost, RelayHost
from tests.sim.registry import Table

CALM = 2.0
TROUBLE = 6.5
"""Seconds in which faults begin; none lasts longer than 4 s."""
HEALED = 10.5
STOP = 12.0
H = TypeVar("H", bound=Host)

LIMIT = 60.0
"""Simulated seconds after which what is not repaired never will be."""


@dataclass(frozen=True)
class Plan:
    """What a seed says."""

    seed: int
    kind: str
    """``one`` origin; ``dual``: the encoder feeds two; ``standby``: it goes to the other one."""
    relays: int
    edges: int
    paths: int
    repair: float
    """Seconds that edges wait for a record; with 60 nothing may be lost."""
    faults: tuple[tuple[float, str], ...]

    @property
    def patient(self) -> bool:
        """Whether there is time enough for all repairs."""
        return self.repair >= LIMIT


FAULTS = (
    *("loss", "loss", "deaf", "muddle", "narrow", "cut", "cut", "one way", "island"),
    *("kill edge", "kill edge", "kill relay", "kill relay", "kill origin", "jump", "registry"),
)


def plan(seed: int) -> Plan:
    """Return what happens under a seed."""
    rng = random.Random(seed)
    kind = rng.choice(("one", "one", "dual", "standby"))
    relays = rng.choice((0, 0, 1, 2))
    faults = sorted(
        (round(rng.uniform(CALM, TROUBLE), 3), rng.choice(FAULTS)) for _ in range(rng.randint(1, 4))
    )
    paths = rng.choice((1, 2)) if relays else 1
    return Plan(seed, kind, relays, 2, paths, rng.choice((0.6, LIMIT, LIMIT)), tuple(faults))


@dataclass
class Outcome:
    """What came of it."""

    plan: Plan
    problems: list[str]
    published: int
    lost: int
    messages: int
    digest: str
    seconds: float
    trace: list[str] = field(default_factory=list)


class World:
    """The cluster of one seed."""

    def __init__(
        self, what: Plan, folder: Path, loop: VirtualLoop, trace: Callable[[str], None]
    ) -> None:
        self.plan = what
        self.trace = trace
        self.ledger = Ledger(two_owners=what.kind != "one")
        self.network = Network(loop, what.seed, trace)
        self.table = Table(lambda: round(loop.time() * 1e6) + UNIX_US)
        self._random = random.Random(what.seed * 7 + 1)
        self._folder = folder
        self._loop = loop
        origins = 1 if what.kind == "one" else 2
        self.origins = [self._host(OriginHost, f"origin{n}") for n in range(1, origins + 1)]
        self.relays = [self._host(RelayHost, f"relay{n}") for n in range(1, what.relays + 1)]
        self.edges = [self._host(EdgeHost, f"edge{n}") for n in range(1, what.edges + 1)]
        for relay in self.relays:
            relay.repair = what.repair * 0.8  # less than the edges, as its setting says
        for edge in self.edges:
            edge.paths, edge.repair = what.paths, what.repair
        loop.set_exception_handler(self._failed)
        self.hosts: list[Host] = [*self.origins, *self.relays, *self.edges]
        self.encoders = self._encoders()
        self._busy: set[str] = set()

    def _failed(self, _: object, context: dict[str, object]) -> None:
        """Note an error that nobody handles."""
        error = context.get("exception")
        where = (
            traceback.extract_tb(error.__traceback__)[-1]
            if isinstance(error, BaseException)
            else ""
        )
        self.ledger.problem(f"{context['message']}: {error!r} {where}")

    def _host(self, kind: type[H], name: str) -> H:
        return kind(name, self._folder, self.network, self.table)

    def _encoders(self) -> list[Encoder]:
        names = ["encoder1", "encoder2"]
        if self.plan.kind == "dual":
            pairs = zip(names, self.origins, strict=True)
            return [Encoder(name, [one], self.network, self.plan.seed) for name, one in pairs]
        return [Encoder(names[0], self.origins, self.network, self.plan.seed)]

    # What happens.

    async def run(self) -> None:
        """Let everything happen."""
        for host in [*self.origins, *self.relays, self.edges[0]]:
            await host.start()
        jobs = [asyncio.create_task(encoder.run(STOP)) for encoder in self.encoders]
        jobs += [asyncio.create_task(self._fault(at, kind)) for at, kind in self.plan.faults]
        jobs.append(asyncio.create_task(self._late(self.edges[1:])))
        jobs.append(asyncio.create_task(self._watch()))
        await asyncio.sleep(HEALED)
        await self._heal(jobs[len(self.encoders) : -1])
        for encoder in jobs[: len(self.encoders)]:
            await encoder
        await self._settle()
        jobs[-1].cancel()
        await asyncio.gather(jobs[-1], return_exceptions=True)
        for job in jobs:
            if not job.cancelled():
                job.result()
        self._balance()
        await self._end()

    async def _late(self, edges: list[EdgeHost]) -> None:
        for edge in edges:
            await asyncio.sleep(self._random.choice((0.0, 0.5, 4.0)))
            await edge.start()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for edge in self.edges:
                self.ledger.look(edge)

    async def _heal(self, jobs: list["asyncio.Task[None]"]) -> None:
        await asyncio.gather(*jobs)
        self.trace("all is well from now on")
        for (source, target), way in list(self.network.ways.items()):
            self.network.heal(source, target)
            way.loss = way.control_loss = way.double = way.overtake = way.rate = 0.0
        for host in self.hosts:
            host.view.cut = False
            if not host.up:
                await host.start()

    async def _settle(self) -> None:
        """Wait until the edges have what the owner has."""
        until = self._loop.time() + LIMIT
        while self._loop.time() < until:
            await asyncio.sleep(0.25)
            owner = self._owner()
            if owner is None:
                continue
            try:
                if all(self._level(edge, owner) for edge in self.edges):
                    return
            finally:
                owner.close()

    def _owner(self) -> StreamReader | None:
        """Return the pages of whoever owns the stream."""
        known = self.table.owners.get(STREAM)
        host = next((one for one in self.origins if known and one.name == known.node), None)
        if known is None or host is None or not host.up:
            return None
        for live in host.streams.live():
            if live.writer.epoch == known.epoch:
                return StreamReader.open(host.folder, STREAM, known.epoch)
        return None

    def _level(self, edge: EdgeHost, owner: StreamReader) -> bool:
        receiver = edge.intake.receiver(STREAM)
        pages = receiver.shelf.pages() if receiver is not None else None
        if pages is None or pages.epoch != owner.epoch:
            return False
        tracks = [0, *(track.id for track in owner.catalog.tracks)]
        return all(pages.track(n).runs() == owner.track(n).runs() for n in tracks)

    # Faults.

    async def _fault(self, at: float, kind: str) -> None:
        await asyncio.sleep(at)
        rng = self._random
        lasts = rng.choice((0.1, 0.3, 1.0, 2.0, 4.0))
        names = [host.name for host in self.hosts]
        if kind.startswith("kill"):
            await self._kill(kind.split()[1], lasts)
        elif kind == "jump":
            host = rng.choice(self.hosts)
            host.jumped_us += rng.choice((-1, 1)) * 3_600_000_000
            self.trace(f"the clock of {host.name} jumps")
        elif kind == "registry":
            host = rng.choice(self.hosts)
            host.view.cut = True
            self.trace(f"{host.name} loses the registry for {lasts} s")
            await asyncio.sleep(lasts)
            host.view.cut = False
        elif kind in ("cut", "one way", "island"):
            pairs = self._pairs(kind, names)
            self.trace(f"{kind} for {lasts} s: {pairs}")
            for pair in pairs:
                self.network.cut(*pair)
            await asyncio.sleep(lasts)
            for pair in pairs:
                self.network.heal(*pair)
        else:
            await self._spoil(kind, names, lasts)

    def _pairs(self, kind: str, names: list[str]) -> list[tuple[str, str]]:
        rng = self._random
        if kind == "island":
            alone = rng.choice(names)
            others = [name for name in names if name != alone]
            return [(alone, name) for name in others] + [(name, alone) for name in others]
        one, other = rng.sample(names, 2)
        return [(one, other)] if kind == "one way" else [(one, other), (other, one)]

    async def _spoil(self, kind: str, names: list[str], lasts: float) -> None:
        rng = self._random
        ways = [self.network.way(a, b) for a in names for b in names if a != b]
        if rng.random() < 0.5:
            ways = rng.sample(ways, max(1, len(ways) // 3))
        values: dict[str, float] = {
            "loss": {"loss": rng.choice((0.02, 0.3)), "control_loss": rng.choice((0.0, 0.2, 0.8))},
            "deaf": {"loss": 0.3, "control_loss": 1.0},
            "muddle": {"double": 0.2, "overtake": 0.3, "late": rng.choice((0.05, 0.9))},
            "narrow": {"rate": rng.choice((4_000.0, 20_000.0))},
        }[kind]
        self.trace(f"{kind} on {len(ways)} ways for {lasts} s: {values}")
        for way in ways:
            for name, value in values.items():
                setattr(way, name, value)
        await asyncio.sleep(lasts)
        for way in ways:
            for name in values:
                setattr(way, name, 0.0)

    async def _kill(self, role: str, lasts: float) -> None:
        rng = self._random
        hosts = [host for host in self.hosts if host.role == role and host.up]
        if not hosts:
            return
        host = rng.choice(hosts)
        await host.kill(reset=rng.random() < 0.7)
        await asyncio.sleep(lasts)
        await host.start()

    # What must hold.

    def _balance(self) -> None:
        ledger, owner = self.ledger, self._owner()
        if owner is None:
            ledger.problem("nobody owns the stream in the end")
            return
        for edge in self.edges:
            ledger.close_edge(edge, owner, patient=self.plan.patient)
            self._count_lost(edge)
        kinds = {kind for _, kind in self.plan.faults}
        if self.plan.kind == "one" and "kill origin" not in kinds:
            for track in (1, 2):
                there = set(frames_of([owner], track))
                gone = sorted(self.encoders[0].pushed[track] - there)
                if gone:
                    ledger.problem(f"frames {gone} of track {track} never got into the pages")
        owner.close()

    def _count_lost(self, edge: EdgeHost) -> None:
        """Compare what pages say is lost with what was counted."""
        receiver = edge.intake.receiver(STREAM)
        mirror = edge.mirrors.peek(STREAM) if edge.mirrors is not None else None
        if receiver is None or mirror is None:
            return
        counted = (edge.lost + receiver.tally.lost).total()
        written = sum(lost_in(reader) for reader in mirror.readers.values())
        if counted < written:
            self.ledger.problem(f"{edge.name}: {written} records are lost, {counted} were counted")

    async def _end(self) -> None:
        """Stop everything, and see that nothing is left."""
        for host in reversed(self.hosts):
            if host.up:
                await host.kill()
        for edge in self.edges:
            if edge.mirrors is not None:
                edge.mirrors.close()
        await asyncio.sleep(2 * LIMIT)
        current = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not current:
                self.ledger.problem(f"a task is left: {task.get_coro()}")
        for what in self._loop.pending():
            self.ledger.problem(f"a timer is left: {what}")


def _cancel_all(loop: VirtualLoop) -> None:
    """End what a simulation that was broken off has left."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def simulate(
    seed: int, *, trace: Callable[[str], None] | None = None, what: Plan | None = None
) -> Outcome:
    """Run the cluster of one seed."""
    what = what or plan(seed)
    loop = VirtualLoop()
    random.seed(seed)

    def note(text: str) -> None:
        if trace is not None:
            trace(f"{loop.time():8.3f}  {text}")

    ON.set("nobody")
    with tempfile.TemporaryDirectory(prefix="headwater-sim-", dir="/dev/shm") as folder:
        world = World(what, Path(folder), loop, note)
        began = os.times().user
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(world.run())
        except Exception as error:
            if trace is not None:
                raise
            world.ledger.problem(f"{type(error).__name__}: {error}")
        finally:
            _cancel_all(loop)
            asyncio.set_event_loop(None)
            loop.close()
            del world.origins, world.relays, world.edges
        published = len(world.ledger.records)
        lost = sum(host.lost.total() for host in world.hosts)
        digest = world.network.hash.hexdigest()[:16]
        spent = os.times().user - began
        return Outcome(
            what, world.ledger.problems, published, lost, world.network.messages, digest, spent
        )
