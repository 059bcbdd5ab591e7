"""The connections of this edge to one origin: a SUB for what it publishes, a DEALER for questions.

Silence is noticed here: an origin sends a heartbeat every 250 ms, and one that has not been heard
for three of them is connected to anew, greeted, and asked for what was missed.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from common import __version__
from common.errors import FormatError
from common.runtime import metrics
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
"""So long without a message, and the connection counts as broken."""

RECONNECT_US = 1_500_000
"""A broken connection is made anew this often."""

CONTROL_SILENCE_US = 3 * PING_US
RECEIVE_HWM = 4000
MAX_MESSAGE = MAX_PAYLOAD + 64 * 1024

Message = Media | CatalogChange | Heartbeat | Joined | Absent | Records | Gone


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where an origin is."""

    bus: str
    control: str


class Link:
    """One origin as this edge sees it, in the running event loop."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        endpoints: Endpoints,
        node: str,
        *,
        deliver: Callable[[Message], None],
        renewed: Callable[[], None],
        settled: Callable[[], None],
        now_us: Callable[[], int],
    ) -> None:
        """Connect.

        ``deliver`` gets every message about a stream; ``renewed`` is called when the way to the
        origin is a new one; ``settled`` after each burst of messages.
        """
        self.endpoints = endpoints
        self._node = node
        self._deliver = deliver
        self._renewed = renewed
        self._now = now_us
        self._log = Limited(Log("common.bus.link", peer=endpoints.bus), seconds=10)
        self._bus = self._connect(context, zmq.SUB, endpoints.bus)
        self._control = self._connect(context, zmq.DEALER, endpoints.control)
        self._bus.setsockopt(zmq.SUBSCRIBE, NODE_TOPIC)
        now = now_us()
        self._heard_us = self._answered_us = self._renewed_us = now
        self._ping_due_us = now + PING_US
        self._broken = False
        self._bus_pump = Pump(self._bus, receive_frames, self._on_bus, settled)
        self._control_pump = Pump(self._control, receive_frames, self._on_control, settled)
        self._greet()

    def _connect(
        self, context: "zmq.Context[zmq.Socket[bytes]]", kind: int, endpoint: str
    ) -> "zmq.Socket[bytes]":
        socket = context.socket(kind)
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
            # Not the name alone: a restarted edge must not get answers meant for the one before.
            identity = self._node.encode()[:200] + b"~" + os.urandom(8).hex().encode()
            socket.setsockopt(zmq.ROUTING_ID, identity)
        socket.connect(endpoint)
        return socket

    def subscribe(self, stream: str) -> None:
        """Take everything that is published about ``stream``."""
        for kind in STREAM_KINDS:
            self._bus.setsockopt(zmq.SUBSCRIBE, topic(kind, stream))
        self._bus_pump.poke()

    def unsubscribe(self, stream: str) -> None:
        """Take nothing about ``stream`` any more."""
        for kind in STREAM_KINDS:
            self._bus.setsockopt(zmq.UNSUBSCRIBE, topic(kind, stream))
        self._bus_pump.poke()

    def send(self, message: Control) -> bool:
        """Ask the origin something; return whether the question could be queued."""
        try:
            self._control.send_multipart(encode_control(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        finally:
            self._control_pump.poke()
        return True

    def tick(self) -> None:
        """Look for silence: call it every 50 ms or so."""
        now = self._now()
        if now >= self._ping_due_us:
            self._ping_due_us = now + PING_US
            self.send(Ping(now))
        bus_silent = now - self._heard_us > SILENCE_US
        control_silent = now - self._answered_us > CONTROL_SILENCE_US
        if now - self._renewed_us < RECONNECT_US or not (bus_silent or control_silent):
            return
        self._renewed_us = now
        self._broken = True
        self._log.warning("origin silent", self.endpoints.bus)
        if bus_silent:
            _again(self._bus, self.endpoints.bus)
            self._bus_pump.poke()
        if control_silent:
            _again(self._control, self.endpoints.control)
        self._greet()

    def _greet(self) -> None:
        self.send(Hello(self._node, __version__))

    def _on_bus(self, frames: list[bytes]) -> None:
        now = self._now()
        if now - self._heard_us > SILENCE_US:
            self._renewed()
        self._heard_us = now
        try:
            message = decode_bus(frames)
        except FormatError:
            metrics.BUS_DROPS.labels("malformed").inc()
            return
        if not isinstance(message, NodeHeartbeat):
            self._deliver(message)

    def _on_control(self, frames: list[bytes]) -> None:
        self._answered_us = self._now()
        try:
            message = decode_control(frames)
        except FormatError:
            metrics.BUS_DROPS.labels("malformed").inc()
            return
        match message:
            case Hello():
                # Greetings queue up while the origin is away; one answer says all.
                broken, self._broken = self._broken, False
                if broken:
                    self._renewed()
            case Joined() | Absent() | Records() | Gone():
                self._deliver(message)
            case Pong():
                pass
            case _:
                metrics.BUS_DROPS.labels("unexpected").inc()

    def close(self) -> None:
        """Disconnect."""
        self._bus_pump.close()
        self._control_pump.close()
        self._bus.close(0)
        self._control.close(0)


def _again(socket: "zmq.Socket[bytes]", endpoint: str) -> None:
    socket.disconnect(endpoint)
    socket.connect(endpoint)
