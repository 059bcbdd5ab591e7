"""How much memory the pages of a stream, and of all streams of a process, may take."""

from dataclasses import dataclass, field
from typing import Protocol

from common.errors import StoreFull

DEFAULT_STREAM_BYTES = 512 * 1024 * 1024
DEFAULT_NODE_BYTES = 4 * 1024 * 1024 * 1024


class Holder(Protocol):
    """One stream's writer, as the budget sees it."""

    @property
    def bytes_held(self) -> int:
        """Bytes its pages take."""

    def evict_oldest(self) -> bool:
        """Remove its oldest page; false if only newest pages are left."""


class Budget:
    """Bytes that all stream writers of a process may take together."""

    def __init__(self, total: int = DEFAULT_NODE_BYTES) -> None:
        self.total = total
        self.used = 0
        self._holders: list[Holder] = []

    def join(self, holder: Holder) -> None:
        """Count this writer's pages from now on."""
        self._holders.append(holder)
        self.used += holder.bytes_held

    def leave(self, holder: Holder) -> None:
        """Count this writer's pages no longer."""
        self._holders.remove(holder)
        self.used -= holder.bytes_held

    def evict_oldest(self) -> bool:
        """Evict the oldest page of the biggest stream; false if only newest pages are left."""
        biggest = sorted(self._holders, key=lambda holder: holder.bytes_held, reverse=True)
        return any(holder.evict_oldest() for holder in biggest)

    def make_room(self, size: int) -> None:
        """Evict the oldest page of the biggest stream until ``size`` more bytes fit.

        Raises:
            StoreFull: If only the newest page of every track is left and it still does not fit.
        """
        while self.used + size > self.total:
            if not self.evict_oldest():
                raise StoreFull(
                    f"the pages of this node may take {self.total} bytes and these are taken by "
                    "the newest page of every track"
                )


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the pages of one stream."""

    bytes_per_stream: int = DEFAULT_STREAM_BYTES
    window_us: int = 0
    """Stream time after which a page may go, counted back from the newest record of the stream;
    0 keeps pages until :meth:`StreamWriter.evict` is called or a byte limit is reached."""

    budget: Budget = field(default_factory=Budget)
    """Shared by the writers of a process; by itself a stream has one of its own."""
