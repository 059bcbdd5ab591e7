"""The connections to one upstream node: a SUB for what it publishes, a DEALER for questions.

An upstream is an origin, a relay, or an edge; an edge publishes nothing and has only the DEALER.
Silence is noticed here: whoever publishes sends a heartbeat every 250 ms. One that has not been
heard for three of them is knocked at; once it opens, it is connected to anew and asked for what was
missed, unless the old connection was faster. A connection that breaks is noticed at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import parse_monitor_message

from common import __version__
from common.bus.knock import Knocker
from common.errors import FormatError
from common.runtime import metrics
from common.runtime.connections import identity_of
from common.runtime.curve import PLAIN, Guard
from common.runtime.logs import Limited, Log
from common.runtime.pump import Pump, harden, receive_frames
from common.wire.control import (
    PING_US,
    Absent,
    Control,
    Gone,
    Hello,
    Joined,
    Ping,
    Pong,
    Records,
    decode_control,
    encode_control,
)
from common.wire.media import MAX_PAYLOAD
from common.wire.messages import (
    HEARTBEAT_US,
    NODE_TOPIC,
    STREAM_KINDS,
    CatalogChange,
    Heartbeat,
    Media,
    NodeHeartbeat,
    decode_bus,
    topic,
)

SILENCE_US = 3 * HEARTBEAT_US
"""Without a message for so long and ``SILENT_TRIPS`` round trips, a connection may be broken."""

SILENT_TRIPS = 4
"""A packet that is lost, and then lost again, is there after this many round trips."""

CONTROL_SILENCE_US = 3 * PING_US
RECEIVE_HWM = 4000
"""Messages from one upstream that wait here. Then the upstream has to keep them, within its own
limit."""

MAX_MESSAGE = MAX_PAYLOAD + 64 * 1024
"""Bytes of a message from an upstream: a frame, and what is said of it. ZeroMQ shuts the connection
over which more comes."""

Message = Media | CatalogChange | Heartbeat | Joined | Absent | Records | Gone


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where an upstream is; ``bus`` is empty if it publishes nothing."""

    bus: str
    control: str
    curve: str = ""
    """Its public key (Z85) if it speaks encrypted."""

    @classmethod
    def of(cls, endpoints: Mapping[str, str]) -> "Endpoints":
        """Take them from an entry of the registry."""
        return cls(endpoints.get("bus", ""), endpoints["control"], endpoints.get("curve", ""))


class Link:
    """One upstream as this node sees it, in the running event loop."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        endpoints: Endpoints,
        node: str,
        *,
        deliver: Callable[["Link", Message, list[bytes]], None],
        renewed: Callable[["Link"], None],
        broken: Callable[["Link"], None],
        settled: Callable[[], None],
        now_us: Callable[[], int],
        guard: Guard = PLAIN,
    ) -> None:
        """Connect, as ``guard`` says.

        ``deliver`` gets every message about a stream, and of those from the bus the frames that it
        came in; ``renewed`` is called when the way to the upstream is a new one, ``broken`` when
        the connection to its bus is lost; ``settled`` after each burst of messages.

        Raises:
            AccessDenied: If the way to the upstream would have to be encrypted, and is not.
        """
        self._guard = guard
        self.endpoints = endpoints
        self._node = node
        self._deliver = deliver
        self._renewed = renewed
        self._lost = broken
        self._now = now_us
        self._log = Limited(Log("common.bus.link", peer=endpoints.bus), seconds=10)
        now = now_us()
        self._heard_us = self._answered_us = now
        self._ping_due_us = now + PING_US
        self._round_trip_us = 0
        self._asked = False
        """Whether what was missed has been asked for since the upstream fell silent."""
        self._knocker = Knocker(self._open, now_us)
        self.cut = False
        """Whether the connection to the bus is known to be broken."""
        self._bus: zmq.Socket[bytes] | None = None
        self._settled = settled
        self._control = context.socket(zmq.DEALER)
        self._connect(self._control, endpoints.control)
        self._control_pump = Pump(self._control, receive_frames, self._on_control, settled)
        if endpoints.bus:
            self._listen(context, endpoints.bus)
        self._greet()

    def _listen(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> None:
        self._bus = context.socket(zmq.SUB)
        events = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
        self._watch = self._bus.get_monitor_socket(events)
        self._connect(self._bus, endpoint)
        self._bus.setsockopt(zmq.SUBSCRIBE, NODE_TOPIC)
        self._bus_pump = Pump(self._bus, receive_frames, self._on_bus, self._settled)
        self._watch_pump = Pump(self._watch, receive_frames, self._on_event, self._settled)

    def _connect(self, socket: "zmq.Socket[bytes]", endpoint: str) -> None:
        kind = socket.getsockopt(zmq.TYPE)
        harden(socket)
        options = {
            # 0 on a SUB, or libzmq silently forgets subscriptions beyond the limit.
            zmq.SNDHWM: 0 if kind == zmq.SUB else 1000,
            zmq.RCVHWM: RECEIVE_HWM,
            zmq.RECONNECT_IVL: 100,
            zmq.RECONNECT_IVL_MAX: 1000,
            zmq.CONNECT_TIMEOUT: 3000,
            zmq.MAXMSGSIZE: MAX_MESSAGE,
        }
        for option, value in options.items():
            socket.setsockopt(option, value)
        if kind == zmq.DEALER:
            socket.setsockopt(zmq.ROUTING_ID, identity_of(self._node))
        try:
            self._guard.client(socket, endpoint, self.endpoints.curve)
            socket.connect(endpoint)
        except BaseException:
            socket.close(0)
            raise

    def alive(self, now: int) -> bool:
        """Return whether the upstream has been heard lately, or may yet be."""
        if self._bus is None:
            return now - self._answered_us <= CONTROL_SILENCE_US
        return not self.cut and not self.silent

    @property
    def silent_us(self) -> int:
        """How long the origin has said nothing on the bus."""
        return self._now() - self._heard_us

    def subscribe(self, stream: str) -> None:
        """Take everything that is published about ``stream``."""
        if self._bus is not None:
            for kind in STREAM_KINDS:
                self._bus.setsockopt(zmq.SUBSCRIBE, topic(kind, stream))
            self._bus_pump.poke()

    def unsubscribe(self, stream: str) -> None:
        """Take nothing about ``stream`` any more."""
        if self._bus is not None:
            for kind in STREAM_KINDS:
                self._bus.setsockopt(zmq.UNSUBSCRIBE, topic(kind, stream))
            self._bus_pump.poke()

    def send(self, message: Control) -> bool:
        """Ask the upstream something; return whether the question could be queued."""
        try:
            self._control.send_multipart(encode_control(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        finally:
            self._control_pump.poke()
        return True

    @property
    def silent(self) -> bool:
        """Whether the upstream publishes nothing at all: it is dead, or the way to it is."""
        if self._bus is None:
            return False
        patience = SILENCE_US + SILENT_TRIPS * self._round_trip_us
        return self._now() - self._heard_us > patience

    def tick(self) -> None:
        """Look for silence: call it every 50 ms or so."""
        now = self._now()
        if now >= self._ping_due_us:
            self._ping_due_us = now + PING_US
            self.send(Ping(now))
        if self.silent:
            self._log.warning("upstream silent", self.endpoints.bus)
            self._knocker.tick(self.endpoints.bus, now)
        elif now - self._answered_us > CONTROL_SILENCE_US:
            self._log.warning("upstream does not answer", self.endpoints.control)
            self._knocker.tick(self.endpoints.control, now)

    def _open(self, round_trip_us: int) -> None:
        """Connect anew: somebody has opened, so what is still silent now is broken."""
        bus_silent = self.silent
        if not bus_silent and self._now() - self._answered_us <= CONTROL_SILENCE_US:
            return
        self._round_trip_us = round_trip_us or self._round_trip_us
        metrics.BUS_RECONNECTS.inc()
        if bus_silent and self._bus is not None:
            _again(self._bus, self.endpoints.bus)
            self._bus_pump.poke()
        _again(self._control, self.endpoints.control)
        self._greet()
        self._asked = True
        # The questions wait for the connection, and leave with its first packets.
        self._renewed(self)

    def _recovered(self) -> None:
        """Ask for what was missed, unless that was done when the connection was made anew."""
        if not self._asked:
            self._renewed(self)
        self._asked = False

    def _greet(self) -> None:
        self.send(Hello(self._node, __version__))

    def _on_bus(self, frames: list[bytes]) -> None:
        was_silent = self.silent
        self._heard_us = self._now()
        if was_silent:
            self._recovered()
        try:
            message = decode_bus(frames)
        except FormatError:
            metrics.BUS_DROPS.labels("malformed").inc()
            return
        if not isinstance(message, NodeHeartbeat):
            self._deliver(self, message, frames)

    def _on_event(self, frames: list[bytes]) -> None:
        """Notice that the connection to the bus was lost, or is there again."""
        cut = parse_monitor_message(frames)["event"] == zmq.EVENT_DISCONNECTED
        if cut == self.cut:
            return
        self.cut = cut
        if cut:
            self._lost(self)
        else:
            self._heard_us = self._now()
            self._recovered()

    def _on_control(self, frames: list[bytes]) -> None:
        now = self._now()
        was_silent = now - self._answered_us > CONTROL_SILENCE_US
        self._answered_us = now
        if was_silent and not self.silent:
            self._recovered()
        try:
            message = decode_control(frames)
        except FormatError:
            metrics.BUS_DROPS.labels("malformed").inc()
            return
        match message:
            case Joined() | Absent() | Records() | Gone():
                self._deliver(self, message, [])
            case Pong(sent_us):
                self._measure(max(0, now - sent_us))
                if self.silent:
                    self._recovered()  # it only publishes nothing: so records come by asking
            case Hello():
                pass
            case _:
                metrics.BUS_DROPS.labels("unexpected").inc()

    def _measure(self, round_trip_us: int) -> None:
        """Take note of a round trip; one that waited for a connection counts little."""
        known = self._round_trip_us
        rising = known and round_trip_us > known
        self._round_trip_us = (7 * known + round_trip_us) // 8 if rising else round_trip_us

    def close(self) -> None:
        """Disconnect."""
        self._knocker.close()
        self._control_pump.close()
        self._control.close(0)
        if self._bus is not None:
            self._bus_pump.close()
            self._watch_pump.close()
            self._bus.disable_monitor()
            self._watch.close(0)
            self._bus.close(0)


def _again(socket: "zmq.Socket[bytes]", endpoint: str) -> None:
    socket.disconnect(endpoint)
    socket.connect(endpoint)
