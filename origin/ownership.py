"""Which streams this node owns: terms, epochs, segment numbers, and the pages that go with them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import StoreFull, StreamBusy
from common.runtime.logs import Log
from common.runtime.registry import Owner, Registry
from common.track.board import Board
from common.track.limits import Budget, Limits
from common.track.store import StreamWriter
from origin.adoption import Adopted, read_pages

RESERVE = 100
"""Segment numbers reserved at a time; a new epoch may skip as many."""

log = Log("origin.ownership")


@dataclass(frozen=True, slots=True)
class Claim:
    """A stream that is ours, and its pages."""

    owner: Owner
    writer: StreamWriter
    first_segment: int
    reserved: int
    """The first segment number that is not reserved."""

    adopted: Adopted | None
    """What the pages hold of an earlier run."""


@dataclass(frozen=True, slots=True)
class Shelves:
    """The page folder, as the receiver of a mirrored stream sees it."""

    root: Path
    limits: Limits
    board: Board

    def open(self, stream: str, epoch: int) -> StreamWriter:
        """Become the writer of one epoch of a stream."""
        return StreamWriter.open(self.root, stream, epoch, self.limits, board=self.board)


class Ownership:
    """Acquires streams for this node and opens their pages."""

    def __init__(
        self,
        registry: Registry,
        node: str,
        endpoints: Mapping[str, str],
        root: Path,
        budget: Budget,
    ) -> None:
        """``endpoints`` is what edges need to find us; it may be filled in later."""
        self._registry = registry
        self.node = node
        self._endpoints = endpoints
        self._root = root
        self._budget = budget
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._board = Board.create(root)

    def held(self) -> list[str]:
        """Return the streams of which pages are there, by name."""
        return sorted({stream for stream, _ in StreamWriter.existing(self._root)})

    async def claim(self, stream: str, bytes_max: int) -> Claim:
        """Become the owner of a stream; go on with the epoch of its pages if there are any.

        Raises:
            StreamBusy: If another node owns it.
            StoreFull: If there is no room for its pages.
        """
        limits = Limits(bytes_per_stream=bytes_max, budget=self._budget)
        epochs = sorted(
            epoch for name, epoch in StreamWriter.existing(self._root) if name == stream
        )
        newest = epochs[-1] if epochs else 0
        owner = await self._registry.acquire(stream, self.node, self._endpoints, newest)
        try:
            return await self._open(owner, epochs, limits)
        except (StoreFull, StreamBusy):
            await self._registry.release(owner)
            raise

    async def _open(self, owner: Owner, epochs: list[int], limits: Limits) -> Claim:
        stream = owner.stream
        for epoch in epochs:
            writer = self._writer(stream, epoch, limits)
            adopted = read_pages(writer) if epoch == owner.epoch else None
            if adopted is not None:
                least = adopted.opened.segment + 1
                first = await self._registry.reserve_segments(stream, RESERVE, least)
                return Claim(owner, writer, least, first + RESERVE, adopted)
            log.warning("pages not usable", extra={"stream": stream, "epoch": epoch})
            writer.remove()
        if epochs:
            # The numbering of pages that are of no use is not gone on with.
            owner = await self._registry.acquire(stream, self.node, self._endpoints)
        first = await self._registry.reserve_segments(stream, RESERVE)
        writer = self._writer(stream, owner.epoch, limits)
        return Claim(owner, writer, first, first + RESERVE, None)

    def _writer(self, stream: str, epoch: int, limits: Limits) -> StreamWriter:
        return StreamWriter.open(self._root, stream, epoch, limits, board=self._board)

    async def take(self, stream: str, epoch: int, over: int) -> Owner:
        """Become the owner of a stream in the place of the owner of term ``over``.

        Raises:
            StreamBusy: If another node is its owner by now.
        """
        return await self._registry.acquire(stream, self.node, self._endpoints, epoch, over)

    def claim_without(self, stream: str, epoch: int, over: int, now: int) -> Owner:
        """Return what :meth:`take` would have returned at Unix microseconds ``now``.

        It is for a registry that does not answer.
        """
        term = max(over + 1, now)
        return Owner(stream, self.node, epoch or now, term, dict(self._endpoints), os.getpid())

    async def owner(self, stream: str) -> Owner | None:
        """Return the live owner of a stream."""
        return await self._registry.owner(stream)

    async def owners(self) -> list[Owner]:
        """Return the live owners of all streams."""
        return await self._registry.owners()

    async def stand_by(self, stream: str, ready: bool) -> None:
        """Make known whether this node can go on with a stream that another one owns."""
        if ready:
            await self._registry.stand_by(stream, self.node, self._endpoints)
        else:
            await self._registry.stand_down(stream, self.node)

    async def followed(self, stream: str) -> bool:
        """Return whether another node can go on with a stream of ours."""
        standbys = await self._registry.standbys(stream)
        return any(standby.node != self.node for standby in standbys)

    def store(self, bytes_max: int) -> "Shelves":
        """Return where the pages of a stream are that another node owns."""
        return Shelves(
            self._root, Limits(bytes_per_stream=bytes_max, budget=self._budget), self._board
        )

    async def reserve(self, stream: str, next_segment: int) -> int:
        """Reserve more segment numbers; return the first that is not reserved."""
        first = await self._registry.reserve_segments(stream, RESERVE, next_segment)
        return first + RESERVE

    async def release(self, owner: Owner) -> None:
        """Give a stream up."""
        await self._registry.release(owner)

    def discard(self, stream: str) -> None:
        """Delete the pages of a stream that nobody publishes any more."""
        for name, epoch in StreamWriter.existing(self._root):
            if name == stream:
                self._writer(name, epoch, Limits(budget=self._budget)).remove()
