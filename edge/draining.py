"""The drain of an edge, on the supervisor's side: what it says, to whom, and when it is over.

The flag in the registry is the truth, set by ``headwater drain`` and by the API alike. An edge that
is told to stop drains too, for as long as ``edge.drain`` says and without a flag: nobody has to
take it back.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from common.runtime import metrics
from common.runtime.logs import Log
from common.runtime.registry import DRAIN_TIMEOUT, Registry
from edge.around import Around
from edge.supervisor import Supervisor

log = Log("edge.draining")


class Drain:
    """Whether this edge drains, since when and how long."""

    def __init__(
        self,
        registry: Registry,
        node: str,
        supervisor: Supervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.around = Around(node)
        self.said: Callable[[], None] = lambda: None
        """Called when balancers are to hear of a change at once."""

        self._registry = registry
        self._node = node
        self._supervisor = supervisor
        self._clock = clock
        self._stopping = False
        self._until = 0.0

    @property
    def active(self) -> bool:
        """Whether viewers are moved away."""
        return self.around.draining

    def look(self, around: Around) -> None:
        """Act on what the registry says."""
        if self._stopping:
            around = replace(around, draining=True)
        elif around.draining and (not self.active or around.timeout != self.around.timeout):
            self._until = self._clock() + around.timeout
            log.info("draining", extra={"seconds": around.timeout})
        elif self.active and not around.draining:
            log.info("draining no more")
        changed = around.draining != self.active
        self.around = around
        metrics.DRAINING.set(around.draining)
        self._supervisor.surround(self._message)
        if changed:
            self.said()

    def status(self) -> dict[str, Any]:
        """Return what the API says of the drain."""
        left = max(0.0, self._until - self._clock()) if self.active else 0.0
        return {
            "draining": self.active,
            "sessions": self._supervisor.viewing,
            "seconds_left": round(left, 3),
        }

    async def set(self, draining: bool, timeout: float = DRAIN_TIMEOUT) -> None:
        """Set the flag in the registry, or take it back."""
        await self._registry.drain(self._node, draining, timeout)

    async def leave(self, seconds: float) -> None:
        """Move the viewers away because this edge stops: until all have gone, or for ``seconds``.

        Does nothing where there is no other edge for them.
        """
        if not self.around.peers or seconds <= 0:
            return
        self._stopping = True
        until = self._clock() + seconds
        self._until = min(self._until, until) if self.active else until
        self.look(self.around)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._until - self._clock())):
                await self._supervisor.empty()

    def _message(self) -> dict[str, Any]:
        return self.around.told(max(0.0, self._until - self._clock()))
