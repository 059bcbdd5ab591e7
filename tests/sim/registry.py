"""The registry of a simulated cluster: one table, and each node's view of it.

A node whose view is cut off goes on with what it saw last and can change nothing, as with Consul.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from common.errors import NodeUnavailable, StreamBusy
from common.runtime.registry import NodeEntry, Owner, Standby

ANSWER_SECONDS = 0.003


@dataclass
class Table:
    """What the registry knows."""

    wall_us: Callable[[], int]
    nodes: dict[str, NodeEntry] = field(default_factory=dict)
    owners: dict[str, Owner] = field(default_factory=dict)
    standbys: dict[tuple[str, str], Standby] = field(default_factory=dict)
    terms: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    segments: dict[str, int] = field(default_factory=dict)

    def gone(self, node: str) -> None:
        """Take note that a node is dead."""
        self.nodes.pop(node, None)
        self.owners = {name: one for name, one in self.owners.items() if one.node != node}
        self.standbys = {key: one for key, one in self.standbys.items() if one.node != node}


class View:
    """The registry as one node has it."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._last = self._copy()
        self.cut = False
        self.dead = False

    def _copy(self) -> Table:
        table = self._table
        return replace(
            table,
            nodes=dict(table.nodes),
            owners=dict(table.owners),
            standbys=dict(table.standbys),
        )

    async def _read(self) -> Table:
        await asyncio.sleep(ANSWER_SECONDS)
        if not self.cut and not self.dead:
            self._last = self._copy()
        return self._last

    async def _change(self) -> Table:
        """Return the table itself.

        Raises:
            NodeUnavailable: If it cannot be reached.
        """
        await asyncio.sleep(ANSWER_SECONDS)
        if self.cut or self.dead:
            await asyncio.sleep(0.1)
            raise NodeUnavailable("the registry does not answer")
        return self._table

    async def register(self, entry: NodeEntry) -> None:
        """Make a node known."""
        (await self._change()).nodes[entry.name] = entry

    async def unregister(self, name: str) -> None:
        """Take a node out."""
        (await self._change()).nodes.pop(name, None)

    async def nodes(self, role: str = "") -> list[NodeEntry]:
        """Return the live nodes."""
        known = (await self._read()).nodes
        return [known[name] for name in sorted(known) if role in ("", known[name].role)]

    async def members(self) -> list[NodeEntry]:
        """Return all nodes."""
        return await self.nodes()

    async def acquire(
        self, stream: str, node: str, endpoints: Mapping[str, str], epoch: int = 0, over: int = 0
    ) -> Owner:
        """Become the owner of a stream."""
        table = await self._change()
        old = table.owners.get(stream)
        if old is not None and old.node != node and old.term != over:
            raise StreamBusy(f"{stream} belongs to {old.node}")
        now = table.wall_us()
        term = table.terms[stream] = max(table.terms.get(stream, 0) + 1, now)
        epoch = epoch or max(table.epochs.get(stream, 0) + 1, now)
        table.epochs[stream] = max(epoch, table.epochs.get(stream, 0))
        owner = table.owners[stream] = Owner(stream, node, epoch, term, dict(endpoints))
        return owner

    async def release(self, owner: Owner) -> None:
        """Give a stream up."""
        table = await self._change()
        if table.owners.get(owner.stream) == owner:
            del table.owners[owner.stream]

    async def owner(self, stream: str) -> Owner | None:
        """Return the owner of a stream."""
        return (await self._read()).owners.get(stream)

    async def owners(self) -> list[Owner]:
        """Return the owners of all streams."""
        known = (await self._read()).owners
        return [known[name] for name in sorted(known)]

    async def reserve_segments(self, stream: str, count: int, at_least: int = 0) -> int:
        """Reserve numbers."""
        table = await self._change()
        first = max(table.segments.get(stream, 0), at_least)
        table.segments[stream] = first + count
        return first

    async def stand_by(self, stream: str, node: str, endpoints: Mapping[str, str]) -> None:
        """Make a follower known."""
        table = await self._change()
        table.standbys[stream, node] = Standby(stream, node, dict(endpoints))

    async def stand_down(self, stream: str, node: str) -> None:
        """Take that back."""
        (await self._change()).standbys.pop((stream, node), None)

    async def standbys(self, stream: str) -> list[Standby]:
        """Return the followers of a stream."""
        known = (await self._read()).standbys
        return [known[key] for key in sorted(known) if key[0] == stream]

    async def drain(self, name: str, draining: bool, timeout: float = 0.0) -> None:
        """Nobody drains here."""
        raise AssertionError(name)

    async def define(self, stream: str, settings: Mapping[str, Any] | None) -> None:
        """Nobody defines here."""
        raise AssertionError(stream)

    async def definitions(self) -> dict[str, dict[str, Any]]:
        """Return none."""
        return {}

    async def round_trips(self) -> dict[frozenset[str], float]:
        return {}

    def trouble(self) -> str:
        """Say whether it answers."""
        return "cut off" if self.cut else ""
