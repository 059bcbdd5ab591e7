"""The stream worker: turns what origins publish into track pages for the viewer processes.

It takes the streams that the supervisor says are wanted (:class:`Intake`), and rings the eventfds
of the viewer processes after each burst of messages. Killed at any moment, its successor adopts
the pages and goes on.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Collection, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.bus.access import rules_in
from common.bus.desk import Desk
from common.bus.intake import TICK, Intake
from common.bus.pages import Pages
from common.bus.upstream import Finder, Place
from common.errors import HeadwaterError
from common.runtime import metrics, wake
from common.runtime.control import Channel
from common.runtime.curve import guarded
from common.runtime.definitions import Definitions
from common.runtime.logs import Log
from common.runtime.registries import open_registry
from common.track.board import Board
from common.track.limits import Budget, Limits
from edge import child
from edge.config import Config, servers

log = Log("edge.worker")

OWNER_POLL = 0.5
"""Seconds between two looks at who owns a stream."""

REPORT = 1.0
SWITCH_INTERVAL = 0.0005
"""Seconds after which Python lets another thread run: ZeroMQ's callbacks must not wait for 5 ms."""


async def main(given: child.Inheritance, config: Config, channel: Channel) -> None:
    """Run a worker until the supervisor says stop, or is gone."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    root = Path(config.node.pages)
    definitions = Definitions(config.streams)
    limits = Limits(budget=Budget(config.node.pages_max))

    rate = int(config.edge.bandwidth / 8 / 4)

    def settled(_: Collection[str], moved: bool) -> None:
        for fd in given.wake if moved else ():
            wake.ring(fd)

    def tell(stream: str, state: str, epoch: int) -> None:
        channel.send({"t": "state", "stream": stream, "state": state, "epoch": epoch})

    async with (
        open_registry(config.node) as registry,
        guarded(config.node, registry, servers(config)) as guard,
    ):
        if not await child.turn(given, channel):
            return
        await definitions.begin(registry)
        intake = Intake(
            node=config.node.name,
            pages=Pages(root, Board.create(root), limits, definitions),
            find=Finder(registry, Place(config.node.name, "edge", config.node.datacenter)),
            tell=tell,
            settled=settled,
            paths=config.edge.paths,
            streams=definitions,
            linger=config.edge.linger,
            repair=config.edge.repair,
            repair_rate=rate,
            guard=guard,
        )
        with socket.socket(fileno=given.listen[0]) as control:
            desk = Desk(
                control,
                intake,
                node=config.node.name,
                rate=rate,
                guard=guard,
                rules_of=partial(rules_in, definitions),
            )
        intake.adopt()
        following = asyncio.create_task(definitions.follow(registry), name="definitions")
        channel.send({"t": "ready"})
        try:
            await _work(intake, desk, channel, limits.budget)
        finally:
            desk.close()
            following.cancel()
            intake.close()
            channel.send({"t": "released"})


async def _work(intake: Intake, desk: Desk, channel: Channel, budget: Budget) -> None:
    async with asyncio.TaskGroup() as group:
        jobs = [group.create_task(job) for job in _jobs(intake, desk, channel, budget)]
        await _listen(intake, channel)
        for job in jobs:
            job.cancel()


def _jobs(
    intake: Intake, desk: Desk, channel: Channel, budget: Budget
) -> list[Coroutine[Any, Any, None]]:
    return [_tick(intake, desk), _follow(intake), _report(intake, channel, budget)]


async def _listen(intake: Intake, channel: Channel) -> None:
    """Do what the supervisor says, until it says stop or is gone."""
    async for message in channel:
        match message:
            case {"t": "want", "streams": [*streams]}:
                intake.want(map(str, streams))
                await _look(intake)
            case {"t": "segment", "stream": str(name), "track": int(track), "segment": int(place)}:
                intake.want_segment(name, track, place)
            case {"t": "history", "share": float(share)}:
                intake.keep(share)
            case {"t": "stop"}:
                return


async def _tick(intake: Intake, desk: Desk) -> None:
    while True:
        await asyncio.sleep(TICK)
        intake.tick()
        desk.tick()


async def _follow(intake: Intake) -> None:
    while True:
        await _look(intake)
        await asyncio.sleep(OWNER_POLL)


async def _look(intake: Intake) -> None:
    try:
        await intake.follow()
    except HeadwaterError as error:
        log.warning("registry failed", extra={"error": str(error)})


async def _report(intake: Intake, channel: Channel, budget: Budget) -> None:
    cpu, then = time.process_time(), time.monotonic()
    while True:
        await asyncio.sleep(REPORT)
        intake.report()
        now_cpu, now = time.process_time(), time.monotonic()
        load = (now_cpu - cpu) / (now - then)
        cpu, then = now_cpu, now
        report = {
            "t": "report",
            "at": now,
            "metrics": metrics.snapshot(),
            "cpu": load,
            "pages": budget.used,
        }
        channel.send({**report, "sessions": 0, "bytes": 0, "opened": 0, "refused": 0})


def born(text: str, fds: Sequence[int]) -> int:
    """Be a worker that a supervisor has asked for; return the exit code."""
    return child.run(main, text, fds)
