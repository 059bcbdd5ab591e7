"""The nodes whose keys are good, as the registry lists them; the last known ones without it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from common.errors import HeadwaterError
from common.runtime.keys import is_key
from common.runtime.logs import Limited, Log
from common.runtime.registry import NodeEntry

REFRESH = 1.0
"""Seconds between two looks into the registry."""

FRESH = 0.2
"""Seconds for which an unknown key is no reason to look again."""

REMOVED_AFTER = 3.0
"""Seconds that a node has to be missing until its key is refused. A registry that was lost gets
all nodes back within this time, as each of them registers anew."""

Watcher = Callable[[str], object]


class Roster:
    """The nodes by name and by key."""

    def __init__(
        self,
        members: Callable[[], Awaitable[Iterable[NodeEntry]]],
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``name`` is this node: a registry that has lost it, too, is no reason to forget others.

        ``clock`` tells seconds.
        """
        self._members = members
        self._name = name
        self._clock = clock
        self.version = 0
        """Rises with every change of an entry."""

        self._nodes: dict[str, NodeEntry] = {}
        self._keys: dict[str, NodeEntry] = {}
        self._missing: dict[str, float] = {}
        self._watchers: list[Watcher] = []
        self._looked = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._log = Limited(Log("roster"), seconds=10)

    def by_key(self, key: str) -> NodeEntry | None:
        """Return the node that has a key (Z85)."""
        return self._keys.get(key)

    def node(self, name: str) -> NodeEntry | None:
        """Return the node of a name."""
        return self._nodes.get(name)

    def watch(self, watcher: Watcher) -> None:
        """Call ``watcher(name)`` when the key that a node had is not good any more."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Do not call it any more."""
        self._watchers.remove(watcher)

    async def look(self) -> None:
        """Ask the registry, unless it was asked just now; many callers share one question."""
        if self._looking is None:
            if self._clock() - self._looked < FRESH:
                return
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(REFRESH)

    async def _look(self) -> None:
        try:
            found = {entry.name: entry for entry in await self._members() if is_key(entry.key)}
        except (HeadwaterError, OSError) as error:
            self._log.warning("registry failed", str(error))
        else:
            self.take(found)
        finally:
            self._looked = self._clock()
            self._looking = None

    def take(self, found: dict[str, NodeEntry]) -> None:
        """Go by what the registry says now."""
        now, before = self._clock(), self._nodes
        self._nodes = found.copy()
        for name, entry in before.items():
            if name in found:
                self._missing.pop(name, None)
                continue
            since = self._missing.setdefault(name, now)
            if self._name not in found or now - since < REMOVED_AFTER:
                self._nodes[name] = entry
        for name in self._missing.keys() - self._nodes.keys():
            del self._missing[name]
        self._keys = {entry.key: entry for entry in self._nodes.values()}
        self.version += self._nodes != before
        for name, entry in before.items():
            after = self._nodes.get(name)
            if after is None or after.key != entry.key:
                for watcher in self._watchers:
                    watcher(name)
