"""One stream as CMAF: its playlists and objects, and the requests that wait for them.

Requests for the same thing wait together: it is looked at once a wake, and all get the same bytes.
Outputs that speak CMAF (HLS now) share this, so that no object is made twice.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

from common.errors import HeadwaterError, StreamNotFound
from common.track.catalog import PACKAGING, Catalog
from common.track.reader import StreamReader
from edge.around import Around
from edge.mirrors import Mirror
from edge.packager import Packager, Packed
from edge.playlists import WAIT, Directives, Playlists, Text, Wait
from edge.timelines import Timelines
from edge.variants import Variants

SCAN = 0.1
"""Seconds between looks at what requests wait for, if no wake comes: older pages make none."""

AHEAD = 8
"""Parts behind the last one that are waited for: another edge may have told of them already."""

FETCH_AGAIN = 1.0
"""Seconds after which a segment that is waited for is asked for again."""

Missing = tuple[int, int]
"""Track and segment of which the records are not here."""

T = TypeVar("T")


class Gone:
    """It does not exist here and will not."""

    __slots__ = ()


GONE = Gone()

Ask = Callable[[], "T | Wait"]


class Epoch:
    """One numbering of a stream: what can be served of it."""

    def __init__(self, reader: StreamReader, packager: Packager) -> None:
        self.timelines = Timelines(reader)
        self.playlists = Playlists(self.timelines)
        self.variants = Variants(self.timelines, self.playlists)
        self._packager = packager
        self._settled: set[int] = set()

    @property
    def catalog(self) -> Catalog:
        """The newest catalog of this epoch."""
        return self.timelines.catalog

    def init(self, track: int, number: int) -> Packed | Wait | Gone:
        """Return an init segment; the catalog names it before any frame needs it."""
        return self._packager.init(self.timelines, track, number) or GONE

    def segment(self, track: int, number: int) -> Packed | Wait | Gone:
        """Return a segment, or say whether it will come."""
        found = self._packager.segment(self.timelines, track, number)
        if found is not None:
            return found
        timeline = self.timelines.tracks.get(track)
        if timeline is None:
            return GONE
        segment = timeline.segment(number)
        if segment is not None and segment.closed:
            return WAIT if segment.servable else GONE
        oldest, newest = timeline.oldest, timeline.newest
        if oldest is None or newest is None or number < oldest:
            return self._unless_settled(track)
        return WAIT if number <= newest + 1 and not self._over else GONE

    def part(self, track: int, number: int) -> Packed | Wait | Gone:
        """Return a part, or say whether it will come: the hinted one and a few more may."""
        found = self._packager.part(self.timelines, track, number)
        if found is not None:
            return found
        timeline = self.timelines.tracks.get(track)
        if timeline is None:
            return GONE
        listing = self.playlists.listing(track)
        if listing is not None and number >= listing.next_part:
            return WAIT if number < listing.next_part + AHEAD and not self._over else GONE
        segment = timeline.with_part(number)
        if segment is None:
            return self._unless_settled(track)
        return WAIT if segment.servable else GONE

    def missing(self, track: int, number: int, *, part: bool) -> Missing | None:
        """Return the closed segment that is meant, or that a part is of: its records are missing.

        None if it is not known, or still grows: then it comes by itself.
        """
        timeline = self.timelines.tracks.get(track)
        if timeline is None:
            return None
        segment = timeline.with_part(number) if part else timeline.segment(number)
        return (track, segment.number) if segment is not None and segment.servable else None

    def accept(self, track: int) -> None:
        """Serve the playlist of a track from now on, whatever this edge still lacks."""
        self._settled.add(track)

    @property
    def _over(self) -> bool:
        return self.playlists.ended

    def _unless_settled(self, track: int) -> Wait | Gone:
        """Say that something is not here, unless this edge is still catching up."""
        return GONE if self._over or self._settle(track) else WAIT

    def _settle(self, track: int) -> bool:
        if track not in self._settled and self.playlists.settled(track):
            self._settled.add(track)
        return track in self._settled

    def playlist(self, track: int, ask: Directives, *, patient: bool) -> Text | Wait | Gone:
        """Return a media playlist; ``patient``: only once this edge has caught up.

        Raises:
            ProtocolError: If it is asked for what is too far ahead.
        """
        if track not in self.timelines.tracks:
            return GONE
        if not self.catalog.live and self.playlists.listing(track) is None:
            return GONE
        if patient and not self._settle(track):
            return WAIT
        return self.playlists.media(track, ask)

    def multivariant(self, around: Around, path: str) -> Text | Wait:
        """Return the multivariant playlist; ``around`` are the edges that have it at ``path``."""
        return self.variants.text(around, path)


class Parked:
    """Requests that wait for the same thing."""

    __slots__ = ("ask", "count", "future", "missing")

    def __init__(
        self, ask: Callable[[], object], future: "asyncio.Future[object]", missing: Missing | None
    ) -> None:
        self.ask = ask
        self.future = future
        self.missing = missing
        self.count = 0


class CmafStream:
    """All epochs of one stream, and what waits for the newest."""

    def __init__(
        self, mirror: Mirror, packager: Packager, fetch: Callable[[int, int], None]
    ) -> None:
        """``fetch`` is called with track and segment of what is waited for and not here."""
        self._loop = asyncio.get_running_loop()
        self._packager = packager
        self._fetch = fetch
        self._fetched: dict[Missing, float] = {}
        self._epochs: dict[int, Epoch] = {}
        self._parked: dict[Hashable, Parked] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._awaited = mirror.awaited
        self.readers = mirror.readers
        """Those of the epochs that are on this node, by number."""
        self.version = 0
        """Another number whenever something has moved."""
        self._current = mirror.epoch
        self._unsubscribe = mirror.subscribe(lambda moved, changed: self.look(mirror))

    def now(self) -> float:
        """Return the time of the loop's clock."""
        return self._loop.time()

    @property
    def closed(self) -> bool:
        """Whether the mirror has been given up; it closes its readers then."""
        return not self.readers

    @property
    def current(self) -> Epoch:
        """The newest epoch, as of the last look."""
        return self._epoch(self._current)

    def look(self, mirror: Mirror) -> None:
        """Take note of what the mirror shows now, and answer who has waited for it."""
        self._current = mirror.epoch
        self.version += 1
        if self._parked:
            self._answer()

    def fresh(self, mirror: Mirror) -> Epoch:
        """Return the newest epoch with all that has come until now."""
        self._current = mirror.epoch
        epoch = self.current
        epoch.timelines.update()
        return epoch

    def older(self, number: int, packaging: int) -> Epoch | None:
        """Return an epoch by its number and packaging version, None if it is not here."""
        reader = self.readers.get(number)
        if reader is None or packaging != PACKAGING or reader.catalog.packaging != packaging:
            return None
        epoch = self._epoch(number)
        epoch.timelines.update()
        return epoch

    def _epoch(self, number: int) -> Epoch:
        epoch = self._epochs.get(number)
        reader = self.readers[number]
        if epoch is not None and epoch.timelines.reader is not reader:
            self._packager.forget(reader.stream, number)  # the origin took frames back
            epoch = None
        if epoch is None:
            epoch = self._epochs[number] = Epoch(reader, self._packager)
            for old in [n for n in self._epochs if n not in self.readers]:
                del self._epochs[old]
        return epoch

    async def wait(
        self, key: Hashable, ask: "Ask[T]", timeout: float, missing: Missing | None = None
    ) -> "T | Wait":
        """Return what ``ask`` says as soon as that is not "wait"; "wait" after ``timeout`` s.

        Requests with equal keys are answered by one call. ``missing`` is fetched out of turn.

        Raises:
            ProtocolError: What ``ask`` raises.
        """
        parked = self.park(key, ask, missing)
        try:
            with self._awaited():
                answer = await asyncio.wait_for(asyncio.shield(parked.future), timeout)
        except TimeoutError:
            return WAIT
        finally:
            self.leave(key, parked)
        return cast("T | Wait", answer)

    def park(self, key: Hashable, ask: "Ask[T]", missing: Missing | None = None) -> Parked:
        """Have ``ask`` called until it says something else than "wait"; see :meth:`wait`.

        Whoever calls this calls :meth:`leave` in the end.
        """
        parked = self._parked.get(key)
        if parked is None:
            future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            parked = self._parked[key] = Parked(ask, future, missing)
            self._hasten(parked)
        parked.count += 1
        self._arm()
        return parked

    def leave(self, key: Hashable, parked: Parked) -> None:
        """Wait no more for what was parked under ``key``."""
        parked.count -= 1
        if not parked.count and self._parked.get(key) is parked:
            del self._parked[key]

    def close(self) -> None:
        """Answer nobody any more."""
        self._unsubscribe()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and self._parked:
            self._timer = asyncio.get_running_loop().call_later(SCAN, self._scan)

    def _hasten(self, parked: Parked) -> None:
        """Have fetched what a request waits for; now and then again, should that be forgotten."""
        now = asyncio.get_running_loop().time()
        if parked.missing is None or now < self._fetched.get(parked.missing, now):
            return
        self._fetched = {key: until for key, until in self._fetched.items() if now < until}
        self._fetched[parked.missing] = now + FETCH_AGAIN
        self._fetch(*parked.missing)

    def _scan(self) -> None:
        self._timer = None
        if self._parked:
            self._answer()
        for parked in self._parked.values():
            self._hasten(parked)
        self._arm()

    def _answer(self) -> None:
        if not self.closed:
            self.current.timelines.update()
        for key, parked in tuple(self._parked.items()):
            try:
                if self.closed:
                    raise StreamNotFound("the stream has been given up")
                answer = parked.ask()
            except HeadwaterError as error:
                del self._parked[key]
                parked.future.set_exception(error)
                continue
            if not isinstance(answer, Wait):
                del self._parked[key]
                parked.future.set_result(answer)
