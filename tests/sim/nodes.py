"""The hosts of a simulated cluster: each runs a real node, and can be killed at any moment."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Coroutine
from contextvars import copy_context
from pathlib import Path
from typing import Any, Protocol

from common.bus.broadcast import Broadcast
from common.bus.desk import Desk
from common.bus.intake import Intake
from common.bus.pages import Pages
from common.bus.upstream import NAMES, Finder, Place
from common.runtime.config import Duration, StreamSettings
from common.runtime.loader import build
from common.runtime.machine import Machine
from common.runtime.registry import NodeEntry
from common.runtime.units import Size
from common.track.board import Board
from common.track.limits import Budget, Limits
from edge import worker
from edge.mirrors import Mirrors
from origin.ownership import Ownership
from origin.streams import Streams
from relay import app
from relay.config import Config
from relay.relay import Relay
from tests.sim.network import ON, Network
from tests.sim.registry import Table, View
from tests.sim.sockets import SimContext

STREAM = "live"
UNIX_US = 1_700_000_000_000_000
SETTINGS = {
    STREAM: StreamSettings(key="k", segment=Duration(1), part=Duration(0.5), bytes_max=Size(2**24))
}


class Host(ABC):
    """One machine: what is on its disk stays when its node is killed."""

    role = ""

    def __init__(self, name: str, folder: Path, network: Network, table: Table) -> None:
        self.name = name
        self.folder = folder / name
        self.network = network
        self.table = table
        self.up = False
        self.life = 0
        """Counts the processes that it has had."""
        self.jumped_us = 0
        """What its wall clock is ahead."""
        self.view = View(table)
        self.tasks: list[asyncio.Task[Any]] = []
        self.lost: Counter[str] = Counter()
        """Records that were counted as lost by what has been killed since."""

    @property
    def machine(self) -> Machine:
        """Clocks and network of this host."""
        loop = self.network.loop
        return Machine(
            mono_us=lambda: round(loop.time() * 1e6) + 1_000_000,
            wall_us=lambda: round(loop.time() * 1e6) + UNIX_US + self.jumped_us,
            context=lambda _: SimContext(self.network, self.name),  # type: ignore[arg-type,return-value]
            address_of=self.network.address_of,
        )

    def spawn(self, job: Coroutine[Any, Any, Any]) -> None:
        """Run something until the host is killed."""
        self.tasks.append(asyncio.get_running_loop().create_task(job))

    async def start(self) -> None:
        """Start the node, on the disk as it is."""
        self.network.trace(f"{self.name} starts")
        self.up, self.view, self.life = True, View(self.table), self.life + 1
        context = copy_context()
        context.run(ON.set, self.name)
        await asyncio.get_running_loop().create_task(self._start(), context=context)

    async def kill(self, *, reset: bool = True) -> None:
        """Kill the node; the registry sees that at once, its peers too if there is a ``reset``."""
        self.network.trace(f"{self.name} is killed{'' if reset else ' without a word'}")
        self.up = False
        self.view.dead = True
        self.network.kill(self.name, reset=reset)
        self.table.gone(self.name)
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        await self._stop()

    @abstractmethod
    async def _start(self) -> None:
        """Make the node and what it does over and over."""

    @abstractmethod
    async def _stop(self) -> None:
        """Let go of what the process had; its pages stay."""


class OriginHost(Host):
    """An origin."""

    role = "origin"

    async def _start(self) -> None:
        machine = self.machine
        self.bus = Broadcast("127.0.0.1:0", "127.0.0.1:0", node=self.name, machine=machine)
        endpoints = self.bus.endpoints(self.name)
        ownership = Ownership(self.view, self.name, endpoints, self.folder, Budget())
        self.streams = Streams(SETTINGS, ownership, self.bus, machine=machine)
        await self.streams.adopt()
        await self.view.register(NodeEntry(self.name, "origin", endpoints))
        self.spawn(self.streams.run())

    async def _stop(self) -> None:
        jobs = [*self.streams._verifying, *self.streams._standbys._tasks]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        for live in self.streams.live():
            live.writer.close()
        self.streams._entries.clear()
        await self.streams.stop()
        self.bus.close()


class Receiving(Protocol):
    """A host with an intake."""

    intake: Intake
    lost: Counter[str]


def note_lost(host: Receiving) -> None:
    """Keep what a node that is about to end has counted."""
    receiver = host.intake.receiver(STREAM)
    if receiver is not None:
        host.lost += receiver.tally.lost


class RelayHost(Host):
    """A relay."""

    role = "relay"
    upstream: tuple[str, ...] = ()
    paths = 1
    repair = 3.0

    async def _start(self) -> None:
        ports = dict.fromkeys(("bus", "control", "admin"), "127.0.0.1:0")
        more = {"upstream": list(self.upstream), "paths": self.paths, "repair": self.repair}
        config = build(Config, {"node": {"name": self.name}, "relay": {**ports, **more}})
        place = Place(self.name, "relay", "", self.upstream)
        finder = Finder(self.view, place, self.network.loop.time)
        self.relay = Relay(config, _pages(self.folder), finder, self._all, machine=self.machine)
        self.intake = self.relay.intake
        self.intake.adopt()
        endpoints = self.relay.broadcast.endpoints(self.name)
        endpoints[NAMES] = ",".join(self.upstream)
        await self.view.register(NodeEntry(self.name, "relay", endpoints))
        self.spawn(app._tick(self.relay))
        self.spawn(app._follow(self.relay))

    async def _all(self) -> set[str]:
        return {owner.stream for owner in await self.view.owners()}

    async def _stop(self) -> None:
        note_lost(self)
        self.relay.close()


class EdgeHost(Host):
    """An edge: a stream worker that can be killed, and a viewer process that lives on."""

    role = "edge"
    paths = 1
    repair = 4.0
    mirrors: Mirrors | None = None

    async def _start(self) -> None:
        loop = self.network.loop
        pages = _pages(self.folder)
        if self.mirrors is None:
            self.mirrors = Mirrors(self.folder, clock=loop.time)
        self.intake = Intake(
            node=self.name,
            pages=pages,
            find=Finder(self.view, Place(self.name, "edge"), loop.time),
            tell=self._tell,
            settled=lambda _, moved: self.mirrors.advance() if moved and self.mirrors else None,
            paths=self.paths,
            repair=self.repair,
            machine=self.machine,
        )
        self.desk = Desk(
            "127.0.0.1:0", self.intake, node=self.name, rate=31_000_000, machine=self.machine
        )
        self.intake.adopt()
        self.mirrors._used.setdefault(STREAM, loop.time())
        self.intake.want([STREAM])
        endpoints = {"control": f"tcp://{self.name}:{self.desk.port}"}
        await self.view.register(NodeEntry(self.name, "edge", endpoints))
        self.spawn(worker._tick(self.intake, self.desk))
        self.spawn(worker._follow(self.intake))

    def _tell(self, stream: str, state: str, epoch: int) -> None:
        self.network.trace(f"{self.name}: {stream} is {state} in {epoch}")
        assert self.mirrors is not None
        self.mirrors.state(stream, state, epoch)

    async def _stop(self) -> None:
        note_lost(self)
        self.desk.close()
        self.intake.close()


def _pages(folder: Path) -> Pages:
    return Pages(folder, Board.create(folder), Limits(budget=Budget()), SETTINGS)
