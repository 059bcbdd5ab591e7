"""The sending end of the bus: publishes records, answers joins and pulls from the pages.

Everything is sent from the event loop without waiting; ZeroMQ's own thread does the rest. An edge
that does not keep up loses whole messages, sees the gap, and pulls.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq

from common.bus.access import Access, Rules
from common.bus.controls import Beyond, Controls, Find
from common.bus.subscriptions import Subscriptions, Verdict
from common.errors import StreamNotFound
from common.runtime import metrics
from common.runtime.connections import NOBODY
from common.runtime.curve import PLAIN, Authenticator, Domain, Guard
from common.runtime.machine import HERE, Machine
from common.runtime.pump import Pump, bind, harden
from common.track.catalog import Catalog
from common.track.record import Record
from common.track.store import StreamReader, StreamWriter
from common.wire.media import MAX_PAYLOAD, MAX_ROWS, Item
from common.wire.messages import (
    HEARTBEAT,
    HEARTBEAT_US,
    MEDIA,
    NODE_TOPIC,
    encode_catalog,
    encode_heartbeat,
    encode_media,
    encode_node,
    topic,
)

FLUSH_AFTER = 0.025
"""Seconds that audio waits for video to ride with."""

FLUSH_BYTES = 256 * 1024
COPY_BELOW = 65_536
"""Payloads below this are cheaper to copy than to share with ZeroMQ's thread."""

MAX_SUBSCRIPTION = 64 * 1024
"""Bytes of a message from a subscriber. ZeroMQ shuts the connection over which more comes."""


QUEUE_BYTES = 64 * 1024 * 1024
"""Bytes of payload that wait for one edge; edges that wait for the same share them. What comes then
is not queued for it: the edge sees a gap, and pulls it."""

MIN_QUEUE = 500
"""Messages that may wait for an edge however large they are: a burst is no overload."""


@dataclass(frozen=True, slots=True)
class BroadcastSettings:
    """What bounds the bus of one origin."""

    send_hwm: int = 4000
    """Messages that wait for one edge, about 3 s of 40 streams; fewer if they are large."""

    repair_rate: int = 31_000_000
    """Bytes a second for joins, repair and backfill of all edges, of which one gets half."""

    io_threads: int = 1
    max_topics: int = 16_384
    """Topics that one edge may subscribe to."""


@dataclass(slots=True)
class _Stream:
    """What is being sent of one stream."""

    name: str
    catalog: Catalog | None = None
    writer: StreamWriter | None = None
    mirrored: bool = False
    """Whether another origin publishes it, and this one only answers."""

    heads: dict[int, int] = field(default_factory=dict)
    """Next seq of each track, as far as it has been sent."""
    items: list[Item] = field(default_factory=list)
    size: int = 0
    timer: asyncio.TimerHandle | None = None


class Broadcast:
    """The bus of one origin or relay, in the running event loop."""

    def __init__(
        self,
        bus_address: str,
        control_address: str,
        *,
        node: str = "origin",
        settings: BroadcastSettings | None = None,
        guard: Guard = PLAIN,
        rules_of: Callable[[str], Rules] = lambda _: (),
        machine: Machine = HERE,
        section: str = "origin",
        find: Find | None = None,
        beyond: Beyond | None = None,
        subscribed: Callable[[], None] | None = None,
    ) -> None:
        """Bind both sockets (``HOST:PORT``, port 0 takes a free one); ``guard`` says for whom.

        ``rules_of`` returns which nodes may have a stream; it may change its mind. A relay, whose
        records come from another node, says with ``find`` and ``beyond`` where its pages are;
        ``subscribed`` is called when somebody subscribes to a stream.

        Raises:
            ConfigError: If an address cannot be read.
            ListenError: If one cannot be bound; nothing stays open then.
        """
        self._settings = settings or BroadcastSettings()
        self._node = node
        self._subscribed = subscribed
        self._loop = asyncio.get_running_loop()
        self._streams: dict[str, _Stream] = {}
        self._readers: dict[tuple[str, int], StreamReader] = {}
        self._catalogs: dict[tuple[str, int], Catalog] = {}
        self._access = Access(guard, rules_of)
        self._rules: object = None
        self._subscriptions = Subscriptions(self._settings.max_topics, self._access.allows)
        self._machine = machine
        self._context = machine.context(self._settings.io_threads)
        self._guard = guard
        self._authenticator = Authenticator(self._context, guard, machine.address_of)
        self._socket = self._context.socket(zmq.XPUB)
        self._prepare()
        self._connections = self._authenticator.server(self._socket, Domain.BUS)
        try:
            self.bus_port = bind(self._socket, bus_address, f"{section}.bus")
            self._controls = Controls(
                self._context,
                control_address,
                find or self._find,
                self._authenticator,
                access=self._access,
                node=node,
                rate=self._settings.repair_rate,
                now_us=machine.mono_us,
                beyond=beyond,
                setting=f"{section}.control",
            )
        except BaseException:
            self._authenticator.close()
            self._context.destroy(linger=0)
            raise
        self.control_port = self._controls.port
        self._pump = Pump(self._socket, _receive, self._subscription)
        self._beats = 0
        self._sent = self._sent_bytes = 0
        self._queue = self._settings.send_hwm
        self._beat = self._loop.call_later(HEARTBEAT_US / 1e6, self._heartbeat)
        self._closed = False

    def _prepare(self) -> None:
        harden(self._socket)
        options = {
            zmq.SNDHWM: self._settings.send_hwm,
            zmq.RCVHWM: 0,  # with a limit, one peer can abort the process (ADR 31)
            zmq.MAXMSGSIZE: MAX_SUBSCRIPTION,
            zmq.XPUB_MANUAL: 1,  # only topics that exist enter the trie that every send searches
        }
        for option, value in options.items():
            self._socket.setsockopt(option, value)

    # What the streams call.

    def attach(self, writer: StreamWriter) -> None:
        """Answer joins and pulls of a stream from these pages, and go on behind their heads."""
        entry = self._streams.setdefault(writer.stream, _Stream(writer.stream))
        self._flush(entry)
        entry.writer, entry.mirrored = writer, False
        entry.heads = {track: writer.head(track) for track in writer.tracks()}
        key = (writer.stream, writer.epoch)
        self._close_reader(key)
        self._readers[key] = writer.reader()

    def mirror(self, writer: StreamWriter, catalog: Catalog) -> None:
        """Answer joins and pulls from pages that another origin's records fill; publish nothing."""
        entry = self._streams.get(writer.stream)
        if entry is None or entry.writer is not writer:
            self.attach(writer)
            entry = self._streams[writer.stream]
        entry.mirrored = True
        entry.catalog = catalog
        self._catalogs[catalog.stream, catalog.epoch] = catalog

    def catalog(self, catalog: Catalog) -> None:
        """Announce a stream, or a new version of its catalog."""
        entry = self._streams.setdefault(catalog.stream, _Stream(catalog.stream))
        self._flush(entry)
        entry.catalog = catalog
        self._catalogs[catalog.stream, catalog.epoch] = catalog
        frames = encode_catalog(catalog)
        if frames[0] in self._subscriptions:
            self._publish(frames)

    def record(self, stream: str, track: int, record: Record, payload: bytes, flush: bool) -> None:
        """Send a record that stands in the pages already, at once or with the next ones.

        Raises:
            StreamNotFound: If the stream was not announced with :meth:`catalog`.
        """
        entry = self._streams.get(stream)
        if entry is None or entry.catalog is None:
            raise StreamNotFound(f"{stream} was not announced")
        if entry.size + len(payload) > MAX_PAYLOAD:
            self._flush(entry)
        entry.items.append(Item(track, record, payload))
        entry.size += len(payload)
        if flush or entry.size >= FLUSH_BYTES or len(entry.items) >= MAX_ROWS:
            self._flush(entry)
        elif entry.timer is None:
            entry.timer = self._loop.call_later(FLUSH_AFTER, self._flush, entry)

    def pass_on(self, frames: list[bytes]) -> bool:
        """Send a message of another node as it came; return whether anybody takes it."""
        if frames[0] not in self._subscriptions or self._closed:
            return False
        self._publish(frames)
        return True

    def arrived(self, stream: str) -> None:
        """Answer what waits for a stream to be here."""
        self._controls.arrived(stream)

    def wanted(self) -> set[str]:
        """Return the streams that somebody has subscribed to."""
        return self._subscriptions.streams()

    def remove(self, stream: str, epoch: int) -> None:
        """Forget an epoch of a stream; its pages may go."""
        entry = self._streams.get(stream)
        if entry is not None and entry.catalog is not None and entry.catalog.epoch == epoch:
            self._flush(entry)
            del self._streams[stream]
        self._close_reader((stream, epoch))
        self._catalogs.pop((stream, epoch), None)

    def close(self) -> None:
        """Stop, and let go of all sockets and pages. May be called twice."""
        if self._closed:
            return
        for entry in self._streams.values():
            self._flush(entry)
        self._closed = True
        self._beat.cancel()
        self._pump.close()
        self._controls.close()
        self._authenticator.close()
        self._context.destroy(linger=0)
        for key in list(self._readers):
            self._close_reader(key)

    def endpoints(self, host: str = "127.0.0.1") -> dict[str, str]:
        """Return where edges reach it through ``host``, for the registry."""
        host = f"[{host}]" if ":" in host else host
        return {
            "bus": f"tcp://{host}:{self.bus_port}",
            "control": f"tcp://{host}:{self.control_port}",
            **self._guard.endpoints,
        }

    # Inside.

    def _close_reader(self, key: tuple[str, int]) -> None:
        reader = self._readers.pop(key, None)
        if reader is not None:
            reader.close()

    def _find(self, stream: str, epoch: int) -> tuple[StreamReader, Catalog] | None:
        """Return pages and catalog of an epoch, the newest one for 0."""
        if not epoch:
            entry = self._streams.get(stream)
            if entry is None or entry.catalog is None:
                return None
            epoch = entry.catalog.epoch
        reader = self._readers.get((stream, epoch))
        catalog = self._catalogs.get((stream, epoch))
        return (reader, catalog) if reader is not None and catalog is not None else None

    def _flush(self, entry: _Stream) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        items = entry.items
        catalog = entry.catalog
        if not items or catalog is None or self._closed:
            return
        entry.items, entry.size = [], 0
        for item in items:
            entry.heads[item.track] = item.record.seq + 1
        if topic(MEDIA, entry.name) in self._subscriptions:
            frames = encode_media(entry.name, catalog.epoch, catalog.term, items)
            self._publish(frames)
            metrics.RECORDS_BROADCAST.labels(entry.name).inc(len(items))
            metrics.BROADCAST_BYTES.labels(entry.name).inc(len(frames[2]))

    def _publish(self, frames: list[bytes]) -> None:
        copy = len(frames[2]) < COPY_BELOW
        self._sent += 1
        self._sent_bytes += len(frames[2])
        self._socket.send_multipart(frames, zmq.NOBLOCK, copy=copy)
        self._pump.poke()

    def _heartbeat(self) -> None:
        self._beat = self._loop.call_later(HEARTBEAT_US / 1e6, self._heartbeat)
        self._publish(encode_node(self._node, self._machine.wall_us()))
        for entry in self._streams.values():
            if (
                entry.catalog is None
                or entry.mirrored
                or topic(HEARTBEAT, entry.name) not in self._subscriptions
            ):
                continue
            writer = entry.writer
            oldest = {track: writer.oldest(track) for track in entry.heads} if writer else {}
            self._publish(encode_heartbeat(entry.catalog, entry.heads, oldest))
        self._beats += 1
        if self._beats % 4 == 0:
            self._bound_queues()
            self._subscriptions.prune(self._machine.address_of)
            self._judge_again()
            self._controls.prune()

    def _judge_again(self) -> None:
        """Shut connections for which the rules have changed: they subscribe anew at once."""
        rules = self._access.state(self._subscriptions.asked())
        if rules != self._rules:
            self._rules = rules
            for sender in self._subscriptions.misjudged():
                self._connections.shut(sender)

    def _bound_queues(self) -> None:
        """Hold what waits for an edge to ``QUEUE_BYTES``: ZeroMQ itself counts only messages."""
        mean = max(1, self._sent_bytes // max(1, self._sent))
        self._sent = self._sent_bytes = 0
        queue = min(self._settings.send_hwm, max(MIN_QUEUE, QUEUE_BYTES // mean))
        if queue != self._queue:
            self._queue = queue
            self._socket.setsockopt(zmq.SNDHWM, queue)  # holds for connections that there are, too

    def _subscription(self, frame: "zmq.Frame") -> None:
        data = frame.bytes
        accepted, name = data[:1] == b"\x01", data[1:]
        sender = self._connections.sender(frame)
        if sender is NOBODY:
            self._follow(zmq.UNSUBSCRIBE, name)  # its connection is gone: prune() counts
            return
        if not accepted:
            self._subscriptions.unsubscribe(sender, name)
            self._follow(zmq.UNSUBSCRIBE, name)
            return
        verdict = self._subscriptions.subscribe(sender, name)
        if verdict is Verdict.ACCEPT:
            self._follow(zmq.SUBSCRIBE, name)
            self._greet(name)
            return
        metrics.BUS_DROPS.labels("subscription").inc()
        if verdict is Verdict.CUT:
            self._connections.shut(sender)

    def _follow(self, option: int, name: bytes) -> None:
        """Do what the subscriber asked for; that is up to us with ``XPUB_MANUAL``."""
        try:
            self._socket.setsockopt(option, name)
        except zmq.ZMQError as error:
            if error.errno != zmq.EINVAL:  # the connection is gone, and its topics with it
                raise

    def _greet(self, name: bytes) -> None:
        """Let a new subscriber know at once that the node is there."""
        if name == NODE_TOPIC:
            self._publish(encode_node(self._node, self._machine.wall_us()))
        elif self._subscribed is not None:
            self._subscribed()


def _receive(socket: "zmq.Socket[Any]") -> "zmq.Frame":
    frame: zmq.Frame = socket.recv(zmq.NOBLOCK, copy=False)
    return frame
