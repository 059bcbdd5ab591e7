"""The streams of this node as a viewer process sees them: page readers and who follows them.

The stream worker writes the pages; this module maps them, follows their heads, and calls every
subscriber of a stream once per wake with the tracks that moved. Streams are asked for by the
first viewer (:meth:`Mirrors.get`) and given up some time after the last.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import NodeUnavailable, StreamError, StreamNotFound
from common.media.track import INDEX_TRACK
from common.names import check_name
from common.track.board import Board
from common.track.catalog import Catalog
from common.track.reader import StreamReader

Follower = Callable[[set[int], bool], None]
"""Called once per wake: the tracks whose head moved, and whether the catalog (or the epoch, or
the state) is another one."""

MAX_WANTED = 1024
"""Streams that one viewer process asks for at a time, live or not. A request for one more is
answered with 503."""

MAX_EPOCHS = 4
"""Readers of earlier epochs that a mirror keeps beside the newest one. The oldest are closed."""


class Mirror:
    """One stream, in all epochs that are still on this node.

    ``reader`` and ``catalog`` are those of the newest epoch; ``readers`` has every epoch, the
    newest one too. ``ended`` is true once the publisher has left for good.
    """

    def __init__(self, stream: str, reader: StreamReader, epoch: int) -> None:
        self.stream = stream
        self.epoch = epoch
        self.reader = reader
        self.readers: dict[int, StreamReader] = {epoch: reader}
        self.ended = False
        self.closed = False
        """Whether this process has let go of the pages: nothing can be read any more."""

        self.waiting = 0
        """Viewers that wait for something of it and have no session yet."""

        self._heads = self._look()
        self._followers: dict[int, Follower] = {}
        self._next = 0

    @property
    def catalog(self) -> Catalog:
        """The catalog of the newest epoch, as of the last wake."""
        return self.reader.catalog

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Keep the stream for the time of a ``with`` block, though nobody watches it yet."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def subscribe(self, follower: Follower) -> Callable[[], None]:
        """Call ``follower(moved_tracks, catalog_changed)`` once per wake; return how to stop it."""
        number = self._next
        self._next += 1
        self._followers[number] = follower

        def unsubscribe() -> None:
            self._followers.pop(number, None)

        return unsubscribe

    def switch(self, reader: StreamReader, epoch: int) -> None:
        """Go on with another reader: of a newer epoch, or of this one's folder made anew.

        Followers hear of it with the next :meth:`advance`.
        """
        self.reader = reader
        self.epoch = epoch
        self.readers[epoch] = reader
        self._heads = {}
        self.ended = False
        # A reader of the same epoch whose place was taken is left to those who still use it.
        for old in sorted(self.readers)[:-MAX_EPOCHS]:
            self.readers.pop(old).close()

    def advance(self, changed: bool = False) -> bool:
        """Look how far the tracks have come and tell the followers, if anything moved.

        ``changed`` says that something else than a head is new (epoch, state).
        """
        if self.reader.refresh():
            changed = True
        heads = self._look()
        moved = {number for number, head in heads.items() if self._heads.get(number) != head}
        self._heads = heads
        if not moved and not changed:
            return False
        for follower in tuple(self._followers.values()):
            follower(moved, changed)
        return True

    def _look(self) -> dict[int, int]:
        numbers = (INDEX_TRACK, *(track.id for track in self.catalog.tracks))
        return {number: self.reader.track(number).head for number in numbers}

    def close(self) -> None:
        """Tell the followers that this was all, and unmap every page."""
        self.closed = self.ended = True
        for follower in tuple(self._followers.values()):
            follower(set(), True)
        self._followers.clear()
        for reader in self.readers.values():
            reader.close()
        self.readers.clear()


class Mirrors:
    """Every stream that a viewer of this process watches, or watched a moment ago."""

    def __init__(
        self,
        root: Path,
        *,
        wait: float = 10.0,
        linger: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``wait``: seconds a viewer waits for a stream; ``linger``: seconds a stream is kept."""
        self.root = root
        self.wait = wait
        self.linger = linger
        self.on_want: Callable[[], None] = lambda: None
        self.on_missing: Callable[[str, int, int], None] = lambda stream, track, segment: None
        """Called with a closed segment of a track that a viewer waits for, as its records are not
        on this node yet."""

        self._clock = clock
        self._mirrors: dict[str, Mirror] = {}
        self._used: dict[str, float] = {}
        self._live: dict[str, asyncio.Event] = {}
        self._waiting: Counter[str] = Counter()
        self._board = Board.open(root)
        self._seen = self._board.snapshot()
        self._slots: dict[str, int | None] = {}
        self._doubtful: set[str] = set()

    def peek(self, stream: str) -> Mirror | None:
        """Return the mirror of a stream that is mapped already; never waits."""
        return self._mirrors.get(stream)

    async def get(self, stream: str, wait: float | None = None) -> Mirror:
        """Return the mirror of ``stream``, asking for the stream if nobody did yet.

        Raises:
            StreamNotFound: If it is not live after ``wait`` seconds (the setting if None).
            FormatError: If this is no stream name.
            NodeUnavailable: If this process asks for too many streams already.
        """
        if stream not in self._used:
            check_name(stream)
            if len(self._used) >= MAX_WANTED:
                raise NodeUnavailable("this edge is asked for too many streams")
            self._used[stream] = self._clock()
            self.on_want()
        self._used[stream] = self._clock()
        if (mirror := self._mirrors.get(stream)) is not None:
            return mirror
        live = self._live.setdefault(stream, asyncio.Event())
        self._waiting[stream] += 1
        try:
            await asyncio.wait_for(live.wait(), self.wait if wait is None else wait)
            return self._mirrors[stream]
        except (TimeoutError, KeyError):
            raise StreamNotFound(f"{stream} is not live") from None
        finally:
            self._waiting[stream] -= 1
            if not self._waiting[stream]:
                del self._waiting[stream]
                if stream not in self._mirrors:
                    self._forget(stream)  # made-up names must not crowd out streams

    def wanted(self, busy: Iterable[str] = ()) -> list[str]:
        """Return the streams to ask for; ``busy`` ones have viewers and stay."""
        now = self._clock()
        awaited = [stream for stream, mirror in self._mirrors.items() if mirror.waiting]
        for stream in (*busy, *self._waiting, *awaited):
            self._used[stream] = now
        for stream, used in tuple(self._used.items()):
            if now - used > self.linger:
                self._forget(stream)
        return sorted(self._used)

    def state(self, stream: str, state: str, epoch: int) -> None:
        """Take note of what the stream worker says: joining, live, absent or ended.

        A stream whose origin is away (absent) is served from its pages for as long as they last;
        with epoch 0 these are gone too.
        """
        mirror = self._mirrors.get(stream)
        if state == "live" and stream in self._used:
            self._open(stream, epoch, mirror)
        elif state == "absent" and not epoch and mirror is not None:
            self._drop(stream)
        elif state == "ended" and mirror is not None and not mirror.ended:
            mirror.ended = True
            mirror.advance(changed=True)

    def advance(self) -> None:
        """Tell the followers of every stream that moved since the last call."""
        now, seen = self._board.snapshot(), self._seen
        self._seen = now
        if now.generation != seen.generation:
            self._slots.clear()
            self._doubtful = set(self._mirrors)
        for stream in tuple(self._doubtful):
            self._look_again(stream)
        moved = {*now.moved(seen), *now.catalogs_moved(seen)}
        for mirror in tuple(self._mirrors.values()):
            slot = self._slot(mirror)
            if slot is None or slot in moved:
                mirror.advance()

    def close(self) -> None:
        """Let go of every stream."""
        for stream in tuple(self._used):
            self._forget(stream)
        self._board.close()

    def _look_again(self, stream: str) -> None:
        """Follow to the folder that is there, if the worker has made it anew."""
        mirror = self._mirrors.get(stream)
        if mirror is not None and mirror.reader.replaced:
            reader = self._read(stream, mirror.epoch)
            if reader is None:
                return  # its catalog is still to come
            mirror.switch(reader, mirror.epoch)
            mirror.advance(changed=True)
        self._doubtful.discard(stream)

    def _read(self, stream: str, epoch: int) -> StreamReader | None:
        """Open the pages of a stream; None if they are not there, or not yet."""
        try:
            reader = StreamReader.open(self.root, stream, epoch)
            return reader if reader.catalog.epoch == epoch else None
        except (StreamError, OSError):
            return None

    def _slot(self, mirror: Mirror) -> int | None:
        slot = self._slots.get(mirror.stream)
        if slot is None:
            slot = self._slots[mirror.stream] = self._board.slot_of(mirror.stream, mirror.epoch)
        return slot

    def _open(self, stream: str, epoch: int, mirror: Mirror | None) -> None:
        if mirror is not None and mirror.epoch == epoch:
            mirror.ended = False
            return
        reader = self._read(stream, epoch)
        if reader is None:
            return  # the folder is not there (any more): the worker says live again when it is
        if mirror is None:
            self._mirrors[stream] = Mirror(stream, reader, epoch)
        else:
            self._slots.pop(stream, None)
            mirror.switch(reader, epoch)
            mirror.advance(changed=True)
        self._live.setdefault(stream, asyncio.Event()).set()

    def _forget(self, stream: str) -> None:
        self._used.pop(stream, None)
        self._live.pop(stream, None)
        self._drop(stream)

    def _drop(self, stream: str) -> None:
        if (live := self._live.get(stream)) is not None:
            live.clear()
        self._slots.pop(stream, None)
        mirror = self._mirrors.pop(stream, None)
        if mirror is not None:
            mirror.close()
