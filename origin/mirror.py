"""The pages of a stream that another origin owns, kept here in case that one dies."""

from contextlib import suppress

import zmq

from common.bus.link import Endpoints, Link, Message
from common.bus.paths import Path
from common.bus.receiver import Receiver
from common.bus.shelf import Store
from common.bus.upstream import Upstream
from common.errors import PageGone
from common.runtime.curve import PLAIN, Guard
from common.runtime.machine import HERE, Machine
from common.runtime.registry import Owner
from common.track.catalog import Catalog
from common.track.record import Record
from common.track.store import StreamReader, StreamWriter
from common.wire.bucket import TokenBucket
from common.wire.repair import RepairLimits
from origin.adoption import Adopted, read_pages

BURST = 4 * 1024 * 1024
LOOK_BACK = 256
"""Records of a track that are looked at when it is first seen."""

STALLED_US = 200_000
"""If nothing was done here for so long, what was not heard meanwhile says nothing."""


class Mirror:
    """One stream on its way from its owner's bus into our pages."""

    def __init__(self, stream: str, store: Store, rate: int, machine: Machine = HERE) -> None:
        """``rate`` is what repair and backfill may take, in bytes a second."""
        bucket = TokenBucket(rate, BURST, machine.mono_us())
        self.receiver = Receiver(
            stream, store, bucket, limits=RepairLimits(), wall_us=machine.wall_us
        )
        self.stream = stream
        self._writer: StreamWriter | None = None
        self._reader: StreamReader | None = None
        self._positions: dict[int, int] = {}

    @property
    def catalog(self) -> Catalog | None:
        """The newest catalog, once there are pages."""
        return self.receiver.shelf.catalog if self.writer is not None else None

    @property
    def writer(self) -> StreamWriter | None:
        """The pages."""
        return self.receiver.shelf.writer

    def take_new(self) -> dict[int, list[Record]]:
        """Return the records of each track that have come since the last call."""
        writer = self.writer
        if writer is not self._writer:
            self._close_reader()
            self._writer, self._positions = writer, {}
        if writer is None:
            return {}
        found = {}
        for number in writer.tracks():
            head, position = writer.head(number), self._positions.get(number)
            if head == position:
                continue
            self._reader = self._reader or writer.reader()
            track = self._reader.track(number)
            with suppress(PageGone):
                if position is None:
                    position = max(track.contiguous_from, head - LOOK_BACK)
                found[number] = track.records(position, head)
            self._positions[number] = head
        return found

    def read(self) -> Adopted | None:
        """Return the end of what the pages hold; None if they cannot be gone on with."""
        return read_pages(self.writer) if self.writer is not None else None

    def hand_over(self) -> StreamWriter | None:
        """Give the pages to a new writer."""
        self._close_reader()
        return self.receiver.shelf.hand_over()

    def remove(self) -> None:
        """Delete the pages."""
        self._close_reader()
        self.receiver.remove()

    def close(self) -> None:
        """Let go of the pages."""
        self._close_reader()
        self.receiver.close()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class Links:
    """The connections to other origins: one for all streams of each."""

    def __init__(self, node: str, guard: Guard = PLAIN, machine: Machine = HERE) -> None:
        self._node = node
        self._guard = guard
        self._machine, self._now = machine, machine.mono_us
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._links: dict[Endpoints, Link] = {}
        self._cut_us: dict[Endpoints, int] = {}
        self._mirrors: dict[str, tuple[Mirror, Link]] = {}
        self._ticked_us = self._awake_us = self._now()

    def attach(self, mirror: Mirror, owner: Owner) -> None:
        """Take a stream from its owner, and from nobody else.

        Raises:
            AccessDenied: If the way there would have to be encrypted, and is not.
            KeyError: If the owner does not say where it is.
        """
        self.detach(mirror)
        endpoints = Endpoints.of(owner.endpoints)
        link = self._links.get(endpoints)
        if link is None:
            link = self._links[endpoints] = self._connect(endpoints)
        self._mirrors[mirror.stream] = (mirror, link)
        path = Path(Upstream(owner.node, "owner", endpoints), link, self._now())
        mirror.receiver.sources.use([path], [])
        link.subscribe(mirror.stream)
        mirror.receiver.connected(self._now())

    def _connect(self, endpoints: Endpoints) -> Link:
        if self._context is None:
            self._context = self._machine.context(1)
        return Link(
            self._context,
            endpoints,
            self._node,
            deliver=self._deliver,
            renewed=self._renewed,
            broken=_noted,
            settled=lambda: None,
            now_us=self._now,
            guard=self._guard,
        )

    def detach(self, mirror: Mirror) -> None:
        """Take nothing of a stream any more."""
        _, link = self._mirrors.pop(mirror.stream, (mirror, None))
        mirror.receiver.sources.use([], [])
        if link is None:
            return
        link.unsubscribe(mirror.stream)
        if not any(other is link for _, other in self._mirrors.values()):
            del self._links[link.endpoints]
            link.close()

    def _renewed(self, link: Link) -> None:
        for mirror, other in self._mirrors.values():
            if other is link:
                mirror.receiver.connected(self._now())

    def _deliver(self, _: Link, message: Message, __: list[bytes]) -> None:
        found = self._mirrors.get(message.stream)
        if found is not None:
            found[0].receiver.deliver(message, self._now())

    def silent_us(self, mirror: Mirror) -> int:
        """Return how long the owner has said nothing, as far as we could have heard it."""
        _, link = self._mirrors.get(mirror.stream, (mirror, None))
        return 0 if link is None else min(link.silent_us, self._now() - self._awake_us)

    def cut_us(self, mirror: Mirror) -> int:
        """Return for how long the connection to the owner has been broken."""
        _, link = self._mirrors.get(mirror.stream, (mirror, None))
        since = self._cut_us.get(link.endpoints) if link is not None else None
        return 0 if since is None else self._now() - since

    def tick(self) -> None:
        """Do what is due: call it every 50 ms or so."""
        now = self._now()
        if now - self._ticked_us > STALLED_US:
            self._awake_us = now
        self._ticked_us = now
        for link in tuple(self._links.values()):
            link.tick()
        cut = {one: self._cut_us.get(one, now) for one, link in self._links.items() if link.cut}
        self._cut_us = cut
        for mirror, _ in tuple(self._mirrors.values()):
            mirror.receiver.tick(now)

    def close(self) -> None:
        """Disconnect."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._mirrors.clear()
        if self._context is not None:
            self._context.destroy(linger=0)


def _noted(_: Link) -> None:
    """Leave it to :meth:`Links.tick` to see how long a connection stays broken."""
