"""All streams that a node takes in from the bus, and the upstreams that they come from.

Every wanted stream has a :class:`Receiver` on one or more :class:`Link`s. Paths are tried in the
order in which they are near: those that are silent are kept, and the next one is taken in addition,
so that a failure loses nothing and a repaired path is taken back. After each burst of messages the
readers of the pages are rung. Killed at any moment, a successor adopts the pages and goes on.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from common.bus.link import Endpoints, Link, Message
from common.bus.pages import Pages
from common.bus.paths import Path, Sibling
from common.bus.receiver import Receiver
from common.bus.upstream import Upstream, Ways
from common.errors import AccessDenied
from common.runtime import metrics
from common.runtime.config import StreamSettings, stream_settings
from common.runtime.curve import PLAIN, Guard
from common.runtime.logs import Limited, Log
from common.runtime.machine import HERE, Machine
from common.track.catalog import Catalog
from common.track.store import StreamReader, StreamWriter
from common.wire.bucket import TokenBucket
from common.wire.media import Item
from common.wire.repair import RepairLimits

log = Log("common.bus.intake")

TICK = 0.05
"""Seconds between two calls of :meth:`Intake.tick`."""

CHOOSE_US = 200_000
"""How often it is looked which paths are alive; a broken connection is noticed at once."""

OVERLAP_US = 5_000_000
"""A path that is not wanted any more is kept until another has brought something, or so long."""

IDLE_US = 30_000_000
"""A connection to a sibling is closed when it was not used for so long."""

GONE_AFTER_US = 60_000_000
"""A stream that nobody has owned for so long has ended."""

BURST = 4 * 1024 * 1024
MAX_STREAMS = 4096
"""Streams that an edge or a relay carries. Further ones are not taken until one is let go."""

MAX_PATHS = 4
"""Upstreams that a stream may be taken from at once. A setting that says more counts as this."""


NOWHERE = Ways()


@dataclass(slots=True)
class Entry:
    """One stream that this node carries."""

    receiver: Receiver
    ways: Ways = NOWHERE
    paths: dict[Endpoints, Path] = field(default_factory=dict)
    siblings: tuple[Sibling, ...] = ()
    refused: tuple[Upstream, ...] = ()
    """Those whose connection would be readable for others."""
    owned_us: int = 0
    """When somebody was last known to own it."""
    unwanted_us: int | None = None
    told: tuple[str, int] = ("", 0)
    """State and epoch that were told last."""


class Intake:
    """All streams of this node, in the running event loop."""

    def __init__(
        self,
        *,
        node: str,
        pages: Pages,
        find: Callable[[str], Awaitable[Ways]],
        tell: Callable[[str, str, int], object],
        settled: Callable[[Collection[str], bool], None],
        relay: Callable[[Message, list[bytes]], None] | None = None,
        relay_items: Callable[[str, int, int, list[Item]], None] | None = None,
        paths: int = 1,
        streams: Mapping[str, StreamSettings] | None = None,
        linger: float = 15.0,
        repair: float = 4.0,
        repair_rate: int = 31_000_000,
        guard: Guard = PLAIN,
        machine: Machine = HERE,
    ) -> None:
        """``find`` says where a stream can be had; ``tell`` gets (stream, state, epoch).

        ``settled`` is called after a burst of messages with the streams they were about, and
        whether pages moved. ``relay`` gets each message that is new, with its frames, and
        ``relay_items`` (stream, epoch, term, items) what came in no message of its own. ``repair``
        is how long a missing record is waited for, in seconds, ``repair_rate`` what repair and
        backfill may take, in bytes a second.
        """
        self._node = node
        self._guard = guard
        self._refused = Limited(log, seconds=10)
        self._pages = pages
        self._find = find
        self._tell = tell
        self._tell_settled = settled
        self._relay = relay
        self._relay_items = relay_items
        self._paths = paths
        self._streams = streams or {}
        self._linger_us = int(linger * 1_000_000)
        self._limits = RepairLimits(deadline_us=int(repair * 1_000_000))
        self._now, self._wall = machine.mono_us, machine.wall_us
        self._bucket = TokenBucket(repair_rate, BURST, self._now())
        self._context = machine.context(1)
        self._links: dict[Endpoints, Link] = {}
        self._used: dict[Endpoints, int] = {}
        """When a sibling was last asked."""
        self._entries: dict[str, Entry] = {}
        self._moved: set[Receiver] = set()
        self._choose_due_us = 0
        self._share = 1.0

    # Which streams.

    def adopt(self) -> None:
        """Go on with all pages that are here; who wants them has ``linger`` seconds to say so."""
        now = self._now()
        for stream, epoch in StreamWriter.existing(self._pages.root):
            entry = self._entries.get(stream) or self._add(stream, now)
            if not entry.receiver.adopt(epoch, now) and not entry.receiver.shelf.started:
                del self._entries[stream]
            elif entry.unwanted_us is None:
                entry.unwanted_us = now
        self._tell_states()

    def want(self, streams: Iterable[str]) -> None:
        """Carry these streams; others are dropped after ``linger`` seconds."""
        now = self._now()
        wanted = set(streams)
        for stream in wanted:
            entry = self._entries.get(stream)
            if entry is None:
                if len(self._entries) >= MAX_STREAMS:
                    continue
                self._add(stream, now)
            else:
                entry.unwanted_us = None
        for stream, entry in self._entries.items():
            if stream not in wanted and entry.unwanted_us is None:
                entry.unwanted_us = now
        self._tell_states()

    def receiver(self, stream: str) -> Receiver | None:
        """Return the receiver of a stream that is carried."""
        entry = self._entries.get(stream)
        return entry.receiver if entry is not None else None

    @property
    def streams(self) -> list[str]:
        """The streams that are carried."""
        return list(self._entries)

    def upstreams(self, stream: str) -> list[Upstream]:
        """Return where a stream comes from now."""
        entry = self._entries.get(stream)
        return [path.upstream for path in entry.paths.values()] if entry is not None else []

    def find(self, stream: str, epoch: int) -> tuple[StreamReader, Catalog] | None:
        """Return pages and catalog of a stream, once others can be told of it."""
        receiver = self.receiver(stream)
        if receiver is None or not receiver.ready or epoch not in (0, receiver.epoch):
            return None
        pages, catalog = receiver.shelf.pages(), receiver.shelf.catalog
        return (pages, catalog) if pages is not None and catalog is not None else None

    def want_segment(self, stream: str, track: int, segment: int) -> None:
        """Fetch a segment of the past before the rest of it: a viewer waits for it."""
        entry = self._entries.get(stream)
        if entry is not None:
            entry.receiver.want_segment(track, segment, self._now())

    def keep(self, share: float) -> None:
        """Keep so much of the windows of all streams, 0 to 1, because memory is short."""
        self._share = share
        freed = sum(entry.receiver.shelf.keep(share) for entry in self._entries.values())
        metrics.HISTORY_DROPPED.inc(freed)

    def _add(self, stream: str, now: int) -> Entry:
        receiver = Receiver(
            stream,
            self._pages,
            self._bucket,
            limits=self._limits,
            wall_us=self._wall,
            pass_on=self._relay_items,
        )
        receiver.shelf.keep(self._share)
        entry = self._entries[stream] = Entry(receiver, owned_us=now)
        return entry

    # Where they come from.

    async def follow(self, streams: Iterable[str] | None = None) -> None:
        """Find out where streams can be had, all that are carried or some, and connect to it."""
        for stream in list(self._entries) if streams is None else list(streams):
            found = await self._find(stream)
            entry = self._entries.get(stream)
            if entry is None:
                continue
            now = self._now()
            if found.owned:
                entry.owned_us = now
                entry.ways = found
            else:  # what is connected stays so: the registry may know less than we do
                entry.ways = Ways(entry.ways.paths, entry.ways.standbys, found.siblings)
                if now - entry.owned_us > GONE_AFTER_US:
                    entry.receiver.origin_gone()
            self._set_siblings(entry)
            self._choose(stream, entry, now)

    def _set_siblings(self, entry: Entry) -> None:
        if tuple(one.upstream for one in entry.siblings) != entry.ways.siblings:
            entry.siblings = tuple(Sibling(one, self._sibling) for one in entry.ways.siblings)

    def _sibling(self, endpoints: Endpoints) -> Link:
        self._used[endpoints] = self._now()
        return self._links.get(endpoints) or self._connect(endpoints)

    def _choose(self, stream: str, entry: Entry, now: int) -> None:
        """Bring the paths of a stream in line with what is near and alive."""
        most = self._path_count(stream)
        wanted: list[Upstream] = []
        good = 0
        for upstream in entry.ways.paths:
            if good >= most or len(wanted) >= MAX_PATHS:
                break
            wanted.append(upstream)
            path = entry.paths.get(upstream.endpoints)
            good += path.good(now) if path is not None else upstream not in entry.refused
        if any(upstream.kind == "owner" for upstream in wanted):
            wanted += entry.ways.standbys[: MAX_PATHS - 1]
        new = [upstream for upstream in wanted if upstream.endpoints not in entry.paths]
        added = [upstream for upstream in new if self._attach(stream, entry, upstream, now)]
        for upstream in wanted:
            if (path := entry.paths.get(upstream.endpoints)) is not None:
                path.upstream, path.unwanted_us = upstream, 0
        self._drop(stream, entry, {upstream.endpoints for upstream in wanted}, now)
        self._set_sources(entry, now)
        if added:
            entry.receiver.connected(now)

    def _path_count(self, stream: str) -> int:
        known = stream_settings(self._streams, stream)
        return min((known.paths if known else 0) or self._paths, MAX_PATHS)

    def _attach(self, stream: str, entry: Entry, upstream: Upstream, now: int) -> bool:
        try:
            link = self._links.get(upstream.endpoints) or self._connect(upstream.endpoints)
        except AccessDenied as error:
            self._refused.warning("upstream refused", upstream.node, {"error": str(error)})
            entry.refused = (*entry.refused[-MAX_PATHS:], upstream)
            return False
        entry.paths[upstream.endpoints] = Path(upstream, link, now)
        link.subscribe(stream)
        log.info("path added", extra={"stream": stream, "peer": upstream.node})
        return True

    def _drop(self, stream: str, entry: Entry, wanted: set[Endpoints], now: int) -> None:
        """Let go of paths that are not wanted, once those that are bring the stream."""
        chosen = [p for e, p in entry.paths.items() if e in wanted and p.kind != "standby"]
        heard = any(path.heard_us and path.good(now) for path in chosen)
        for endpoints, path in list(entry.paths.items()):
            if endpoints in wanted or not wanted:
                continue
            path.unwanted_us = path.unwanted_us or now
            if heard or not path.good(now) or now - path.unwanted_us > OVERLAP_US:
                del entry.paths[endpoints]
                path.link.unsubscribe(stream)
                log.info("path dropped", extra={"stream": stream, "peer": path.node})

    def _close_unused(self, now: int) -> None:
        used = {endpoints for entry in self._entries.values() for endpoints in entry.paths}
        used |= {endpoints for endpoints, then in self._used.items() if now - then < IDLE_US}
        for endpoints in [endpoints for endpoints in self._links if endpoints not in used]:
            self._used.pop(endpoints, None)
            self._links.pop(endpoints).close()

    def _set_sources(self, entry: Entry, now: int) -> None:
        """Ask who is alive: who publishes first, then who may do so, then the siblings."""
        paths = list(entry.paths.values())
        alive = [path for path in paths if path.good(now)]
        alive += [path for path in paths if path not in alive and path.link.alive(now)]
        alive.sort(key=lambda path: path.kind == "standby")
        entry.receiver.sources.use(alive or ([] if entry.siblings else paths), entry.siblings)

    def _connect(self, endpoints: Endpoints) -> Link:
        log.info("upstream connected", extra={"peer": endpoints.control})
        link = self._links[endpoints] = Link(
            self._context,
            endpoints,
            self._node,
            deliver=self._deliver,
            renewed=self._renewed,
            broken=self._broken,
            settled=self._settled,
            now_us=self._now,
            guard=self._guard,
        )
        return link

    def _renewed(self, link: Link) -> None:
        now = self._now()
        for stream, entry in self._entries.items():
            if (path := entry.paths.get(link.endpoints)) is not None:
                path.added_us = now
                self._choose(stream, entry, now)
                entry.receiver.connected(now)

    def _broken(self, link: Link) -> None:
        now = self._now()
        for stream, entry in self._entries.items():
            if link.endpoints in entry.paths:
                self._choose(stream, entry, now)

    # What comes in.

    def _deliver(self, link: Link, message: Message, frames: list[bytes]) -> None:
        entry = self._entries.get(message.stream)
        if entry is None:
            return
        now = self._now()
        path = entry.paths.get(link.endpoints)
        if path is not None:
            path.heard_us = now
        news = entry.receiver.deliver(message, now)
        if news and frames and self._relay is not None:
            self._relay(message, frames)
        self._moved.add(entry.receiver)

    def _settled(self) -> None:
        """Wake the readers of the pages if a burst of messages has moved something."""
        moved = False
        for receiver in self._moved:
            moved = moved or receiver.shelf.moved
            receiver.shelf.moved = False
            entry = self._entries.get(receiver.stream)
            if entry is not None and entry.told != (receiver.state, receiver.epoch):
                self._tell_state(entry)
        about = {receiver.stream for receiver in self._moved}
        self._moved.clear()
        if about:
            self._tell_settled(about, moved)

    def tick(self) -> None:
        """Do what is due: call it every ``TICK`` seconds."""
        now = self._now()
        for link in tuple(self._links.values()):
            link.tick()
        for stream, entry in tuple(self._entries.items()):
            if entry.unwanted_us is not None and now - entry.unwanted_us > self._linger_us:
                self._release(stream, entry)
                continue
            if now >= self._choose_due_us:
                self._choose(stream, entry, now)
            if entry.paths and all(path.link.silent for path in entry.paths.values()):
                entry.receiver.unreachable(now)
            entry.receiver.tick(now)
            self._moved.add(entry.receiver)
        if now >= self._choose_due_us:
            self._choose_due_us = now + CHOOSE_US
            self._close_unused(now)
        self._settled()

    def _release(self, stream: str, entry: Entry) -> None:
        del self._entries[stream]
        for path in entry.paths.values():
            path.link.unsubscribe(stream)
        self._close_unused(self._now())
        entry.receiver.remove()
        metrics.forget_stream(stream)
        self._tell(stream, "absent", 0)
        log.info("stream released", extra={"stream": stream})

    def _tell_states(self) -> None:
        for entry in self._entries.values():
            if entry.told != (entry.receiver.state, entry.receiver.epoch):
                self._tell_state(entry)

    def _tell_state(self, entry: Entry) -> None:
        receiver = entry.receiver
        if receiver.state == "ended" and entry.told != ("live", receiver.epoch):
            # Viewers open the pages when a stream is live; then they may learn that it is over.
            self._tell(receiver.stream, "live", receiver.epoch)
        entry.told = (receiver.state, receiver.epoch)
        self._tell(receiver.stream, *entry.told)
        log.info("stream state", extra={"stream": receiver.stream, "state": receiver.state})

    def report(self) -> None:
        """Bring the metrics up to date."""
        for stream, entry in self._entries.items():
            entry.receiver.tally.report(stream)
            metrics.PATHS.labels(stream).set(len(entry.receiver.sources.paths))
            if (writer := entry.receiver.shelf.writer) is not None:
                metrics.PAGE_BYTES.labels(stream).set(writer.bytes_held)
        metrics.STREAMS_SUBSCRIBED.set(len(self._entries))

    def close(self) -> None:
        """Let go of everything; the pages stay."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        for entry in self._entries.values():
            entry.receiver.close()
        self._entries.clear()
        self._context.destroy(linger=0)
