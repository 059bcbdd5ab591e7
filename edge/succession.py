"""The children of a restarted edge: those of the earlier image serve until those of this one can.

Before it executes itself again, a supervisor writes down which children run and what they want
(:func:`bequeath`); its next image talks to them over the same channels (:func:`inherited`). New
viewer processes accept on the same sockets as soon as they are up. When they are, and the new
stream worker has taken the pages over, the old ones are told to retire (:class:`Succession`).

One stream worker writes the pages at a time. The new one gets ready and waits; the old one lets go;
only then the new one adopts the pages. Frames that pass in between are repaired from the origin.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from common.errors import ConfigError, NodeUnavailable
from common.runtime import inherit
from common.runtime.control import Channel
from common.runtime.logs import Log
from common.runtime.restart import Legacy
from common.runtime.tasks import Adopted, stop_child
from edge.children import GRACE, HANG_GRACE, Child, Report
from edge.supervisor import Supervisor

log = Log("edge.succession")

MAX_RETIRING = 16
"""Processes of earlier images that may still serve. With more, the oldest are stopped."""


class Heirloom(msgspec.Struct, frozen=True):
    """A child that runs on."""

    kind: str
    pid: int
    control: int
    """Descriptor of our end of its channel."""

    unread: bytes = b""
    wake: int = -1
    wants: list[str] = []
    report: Report | None = None
    """What it last said: the node is as loaded after a restart as it was before."""


class Will(msgspec.Struct, frozen=True):
    """What a supervisor leaves to its next image."""

    children: list[Heirloom] = []
    states: dict[str, tuple[str, int]] = {}


def bequeath(supervisor: Supervisor) -> Legacy:
    """Write down what the next image has to know; nothing may be awaited from here to its start.

    Raises:
        NodeUnavailable: If the children of this image are not ready yet.
    """
    if not supervisor.complete.is_set():
        raise NodeUnavailable("an earlier restart is under way: its new processes are not ready")
    heirlooms = []
    for child in supervisor.children:
        if child.channel is None or child.process is None:
            continue  # it has just died
        for message in child.channel.received():
            supervisor.heard(child, message)
        try:
            control, unread = child.channel.leave()
        except OSError:
            child.process.kill()
            continue
        wants = sorted(child.wants)
        heirlooms.append(
            Heirloom(child.kind, child.pid, control, unread, child.wake, wants, child.report)
        )
    fds = [fd for one in heirlooms for fd in (one.control, one.wake) if fd >= 0]
    state: dict[str, Any] = msgspec.to_builtins(Will(heirlooms, supervisor.states))
    return Legacy(state, fds)


def inherited(state: Mapping[str, Any] | None = None) -> tuple[list[Child], Will]:
    """Return the children of an earlier image, the oldest first, and what it left.

    Raises:
        ConfigError: If it wrote down what this version does not understand.
    """
    found = inherit.estate().handover.state if state is None else state
    try:
        will = msgspec.convert(found, Will)
    except msgspec.ValidationError as error:
        raise ConfigError(inherit.VARIABLE, f"is of another version: {error}") from error
    return [_adopted(one) for one in will.children], will


def _adopted(heirloom: Heirloom) -> Child:
    for fd in (heirloom.control, heirloom.wake):
        if fd >= 0:
            os.set_inheritable(fd, False)
    child = Child(f"{heirloom.kind}-{heirloom.pid}", heirloom.kind, None, heirloom.wake)
    child.process = Adopted(heirloom.pid)
    child.channel = Channel(heirloom.control, heirloom.unread)
    child.wants = frozenset(heirloom.wants)
    child.report = heirloom.report or Report()
    child.ready = True
    return child


class Succession:
    """Lets the children of this image take the place of those of an earlier one."""

    def __init__(self, supervisor: Supervisor, children: list[Child], will: Will) -> None:
        self._supervisor = supervisor
        self._heir = supervisor.worker
        self._old = next((one for one in children if one.kind == "worker"), None)
        viewers = [one for one in children if one.kind == "viewer"]
        supervisor.states |= will.states
        # The oldest first: what was retiring then is still.
        supervisor.viewers[:0] = viewers
        if self._old is not None:
            supervisor.worker = self._old
            supervisor.covered = bool(viewers)

    async def run(self, retire: float) -> None:
        """Change over; viewers of the old processes have ``retire`` seconds to leave."""
        if self._old is not None:
            await self._take_over(self._old)
        await self._supervisor.complete.wait()
        left = [child for child in self._supervisor.viewers if child.inherited]
        for child in left[:-MAX_RETIRING]:
            child.send({"t": "stop"})
        for child in left[-MAX_RETIRING:]:
            child.send({"t": "retire", "timeout": retire})

    async def _take_over(self, old: Child) -> None:
        loop = asyncio.get_running_loop()
        await self._heir.waiting.wait()
        began = loop.time()
        old.send({"t": "stop"})
        try:
            async with asyncio.timeout(GRACE):
                await old.released.wait()
        except TimeoutError:
            log.warning("worker does not let go", extra={"child": old.name})
            if old.process is not None:
                await stop_child(old.process, HANG_GRACE)
        self._supervisor.worker = self._heir
        self._heir.send({"t": "go"})
        log.info("worker changed", extra={"seconds": round(loop.time() - began, 3)})
