"""Where a stream's records go, as the stream sees it."""

from collections.abc import Callable
from typing import Protocol

from common.errors import StoreFull
from common.track.catalog import Catalog
from common.track.record import Record
from common.track.store import StreamWriter


class Bus(Protocol):
    """Where records go once they stand in a page."""

    def attach(self, writer: StreamWriter) -> None:
        """Answer joins and repairs from these pages."""

    def mirror(self, writer: StreamWriter, catalog: Catalog) -> None:
        """Answer joins and pulls from pages that another origin's records fill; publish nothing."""

    def catalog(self, catalog: Catalog) -> None:
        """Announce a catalog."""

    def record(self, stream: str, track: int, record: Record, payload: bytes, flush: bool) -> None:
        """Send one record, at once or with the next."""

    def remove(self, stream: str, epoch: int) -> None:
        """Forget an epoch."""


class Starving:
    """A context in which a full store is noted instead of raised."""

    def __init__(self, starve: Callable[[StoreFull], None]) -> None:
        self._starve = starve

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, StoreFull):
            self._starve(error)
            return True
        return False
