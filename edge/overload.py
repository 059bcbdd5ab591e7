"""What an edge gives up as its memory fills, so that it never ends for want of it.

In this order, each stage in addition to those before it:

===========  =============================================================================
``refuse``   newcomers are sent to other edges, or answered with 503 and Retry-After
``history``  the oldest pages of all streams go, down to what a player begins with; it is as if
             the window were shorter, and it grows again with the stream
``cut``      the viewers for whom most waits are cut: those that take less than they are sent
===========  =============================================================================

Who keeps up loses nothing in any of them. A stage ends a little below where it began.
(Before these stages, a viewer process that is short of CPU time flushes less often: the hub.)
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TypeVar

from common.runtime import metrics
from common.runtime.logs import Log
from edge.children import Child

log = Log("edge.overload")

LOOK = 0.25
"""Seconds between two looks at the memory."""

EASE = 0.03
"""Share of the memory by which it has to be less full for a stage to end than for it to begin."""

LESS = 0.9
"""Part of the history that is kept at each look of the stage ``history``."""

LEAST = 0.05
"""Part of the history that is kept at the end."""

WORTH = 256 * 1024
"""Bytes that wait for a viewer from which it can be cut: a burst is no fault."""

T = TypeVar("T")


class Stage(IntEnum):
    """How overfull the edge is."""

    NONE = 0
    REFUSE = 1
    HISTORY = 2
    CUT = 3


BEGINS = {Stage.REFUSE: 0.85, Stage.HISTORY: 0.92, Stage.CUT: 0.97}
"""Share of the memory from which each stage is on."""


class Overload:
    """Looks at the memory, and has the children act."""

    def __init__(
        self, memory: Callable[[], float], worker: Callable[[], Child], viewers: Sequence[Child]
    ) -> None:
        """``memory`` tells which share is in use; ``viewers`` is read anew each time."""
        self.stage = Stage.NONE
        self.history = 1.0
        """Part of the streams' windows that is kept."""

        self._memory = memory
        self._worker = worker
        self._viewers = viewers

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK)

    def look(self) -> None:
        """Act on how full the memory is now."""
        full = self._memory()
        before, self.stage = self.stage, self._stage(full)
        if self.stage != before:
            self._changed(before, full)
        history = self.history
        if self.stage >= Stage.HISTORY:
            history = max(LEAST, self.history * LESS)
        elif self.stage is Stage.NONE:
            history = 1.0
        if history != self.history:
            self.history = history
            self._worker().send({"t": "history", "share": history})
        if self.stage is Stage.CUT:
            for viewer in self._viewers:
                viewer.send({"t": "cut"})

    def tell(self, child: Child) -> None:
        """Tell a child that has just begun how things stand."""
        if child is self._worker():
            if self.history < 1:
                child.send({"t": "history", "share": self.history})
        elif self.stage >= Stage.REFUSE:
            child.send({"t": "overload", "refuse": True})

    def _stage(self, full: float) -> Stage:
        on = (
            stage
            for stage, share in BEGINS.items()
            if full >= share - (EASE if stage <= self.stage else 0)
        )
        return max(on, default=Stage.NONE)

    def _changed(self, before: Stage, full: float) -> None:
        said = {"stage": self.stage.name.lower(), "memory": round(full, 3)}
        (log.warning if self.stage > before else log.info)("overload", extra=said)
        for stage in BEGINS:
            metrics.OVERLOAD.labels(reason=stage.name.lower()).set(stage <= self.stage)
        if (self.stage >= Stage.REFUSE) != (before >= Stage.REFUSE):
            for viewer in self._viewers:
                viewer.send({"t": "overload", "refuse": self.stage >= Stage.REFUSE})


def slowest(waiting: Sequence[tuple[int, T]]) -> list[tuple[int, T]]:
    """Return for whom most waits, until half of all that waits is theirs; bytes and whose."""
    ranked = sorted(waiting, key=lambda one: one[0], reverse=True)
    half = sum(size for size, _ in ranked) / 2
    found: list[tuple[int, T]] = []
    for size, whose in ranked:
        if half <= 0 or size < WORTH:
            break
        found.append((size, whose))
        half -= size
    return found
