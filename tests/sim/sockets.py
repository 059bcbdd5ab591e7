"""ZeroMQ as the bus uses it, over the simulated network: XPUB, SUB, ROUTER and DEALER."""

import struct
from collections import deque
from typing import Any

import zmq

from tests.sim.network import Network, Wire


class SimFrame:
    """A received frame that says who sent it."""

    def __init__(self, data: bytes, wire: Wire | None) -> None:
        self.bytes = data
        self._wire = wire

    def get(self, _: object) -> Any:
        """Return the number of the connection.

        Raises:
            zmq.ZMQError: If ZeroMQ itself said it.
        """
        if self._wire is None:
            raise zmq.ZMQError(zmq.EINVAL)
        return self._wire.number


class SimContext:
    """The sockets of one process on a host."""

    def __init__(self, network: Network, host: str) -> None:
        self._network = network
        self._host = host
        self._sockets: list[SimSocket] = []

    def socket(self, kind: int) -> "SimSocket":
        """Make a socket."""
        made = SimSocket(self._network, self._host, kind)
        self._sockets.append(made)
        return made

    def destroy(self, linger: int = 0) -> None:
        """Close all of them."""
        for one in self._sockets:
            one.close(linger)


class SimSocket:
    """One socket."""

    def __init__(self, network: Network, host: str, kind: int) -> None:
        self.host = host
        self.kind = kind
        self.closed = False
        self.fd = next(network.numbers)
        self._network = network
        self._inbox: deque[tuple[Wire | None, list[bytes]]] = deque()
        self._wires: dict[int, Wire] = {}
        self._dialled: dict[str, Wire] = {}
        self._routes: dict[bytes, Wire] = {}
        self._topics: dict[bytes, None] = {}
        self._outbox: deque[list[bytes]] = deque()
        self._identity = b""
        self._last: Wire | None = None
        self._place: tuple[str, int] | None = None
        self._monitor: SimSocket | None = None
        self.curve_server = False

    # What the product calls.

    def setsockopt(self, option: int, value: Any) -> None:
        """Set an option; those that bound queues or times are the network's business."""
        if option == zmq.ROUTING_ID:
            self._identity = value
        elif option in (zmq.SUBSCRIBE, zmq.UNSUBSCRIBE):
            self._follow(option == zmq.SUBSCRIBE, value)

    def _follow(self, wanted: bool, topic: bytes) -> None:
        if self.kind == zmq.XPUB:  # with XPUB_MANUAL: for who spoke last
            if self._last is None or self._last.server is not self:
                raise zmq.ZMQError(zmq.EINVAL)
            (self._last.topics.add if wanted else self._last.topics.discard)(topic)
            return
        if wanted:
            self._topics[topic] = None
        else:
            self._topics.pop(topic, None)
        for wire in self._dialled.values():
            self._to_server(wire, [bytes([wanted]) + topic])

    def getsockopt(self, option: int) -> Any:
        """Return an option."""
        known: dict[int, int] = {zmq.FD: self.fd, zmq.TYPE: self.kind}
        return known[option]

    def bind(self, endpoint: str) -> None:
        """Listen.

        Raises:
            zmq.ZMQError: If somebody does already.
        """
        place = self.host, int(endpoint.rpartition(":")[2])
        if place in self._network.listeners:
            raise zmq.ZMQError(zmq.EADDRINUSE)
        self._place = place
        self._network.listeners[place] = self

    def connect(self, endpoint: str) -> None:
        """Begin to connect."""
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._dialled[endpoint] = self._network.connect(self, host, int(port))

    def disconnect(self, endpoint: str) -> None:
        """Give a connection up."""
        self._network.disconnect(self._dialled.pop(endpoint))

    def send_multipart(self, frames: list[bytes], flags: int = 0, copy: bool = True) -> None:
        """Send to whom it may concern.

        Raises:
            zmq.Again: If too much waits.
            zmq.ZMQError: If nobody has the identity.
        """
        if self.kind == zmq.XPUB:
            for wire in list(self._wires.values()):
                if any(frames[0].startswith(topic) for topic in wire.topics):
                    self._network.send(wire, frames, to_server=False, published=True)
        elif self.kind == zmq.ROUTER:
            found = self._routes.get(frames[0])
            if found is None or found.server is not self:
                raise zmq.ZMQError(zmq.EHOSTUNREACH)
            if not self._network.send(found, frames[1:], to_server=False, published=False):
                raise zmq.Again
        else:
            (wire,) = self._dialled.values()
            if wire.server is None:
                self._outbox.append(list(frames))
            elif not self._network.send(wire, list(frames), to_server=True, published=False):
                raise zmq.Again

    def _to_server(self, wire: Wire, frames: list[bytes]) -> None:
        """Say something that is never lost while the connection lives."""
        if wire.server is None:
            return
        way = self._network.way(self.host, wire.host)
        if way.cut:
            wire.held[True].append((frames, False))
        else:
            self._network._carry(wire, frames, True, way)

    def recv_multipart(self, flags: int = 0, copy: bool = True) -> list[bytes]:
        """Return the next message.

        Raises:
            zmq.Again: If there is none.
        """
        if not self._inbox:
            raise zmq.Again
        wire, frames = self._inbox.popleft()
        self._last = wire
        return frames

    def recv(self, flags: int = 0, copy: bool = True) -> SimFrame:
        """Return the next message of an XPUB.

        Raises:
            zmq.Again: If there is none.
        """
        (data,) = self.recv_multipart(flags)
        wire = self._last
        if wire is not None and wire.server is not self:
            wire = None
        return SimFrame(data, wire)

    def get_monitor_socket(self, events: int = 0) -> "SimSocket":
        """Return where to hear of connections."""
        self._monitor = SimSocket(self._network, self.host, zmq.PAIR)
        return self._monitor

    def disable_monitor(self) -> None:
        """Hear of connections no more."""
        self._monitor = None

    def close(self, linger: int | None = None) -> None:
        """Close it."""
        if self.closed:
            return
        self.closed = True
        network = self._network
        if self._place is not None and network.listeners.get(self._place) is self:
            del network.listeners[self._place]
        for wire in self._dialled.values():
            if not wire.closed:
                network.disconnect(wire)
        for wire in list(self._wires.values()):
            if wire.server is self:
                network.breaks(wire)
        self._dialled.clear()
        self._wires.clear()

    # What the network calls.

    def _put(self, wire: Wire | None, frames: list[bytes]) -> None:
        if not self.closed:
            self._inbox.append((wire, frames))
            self._network.loop.ready(self.fd)

    def accepted(self, wire: Wire) -> None:
        """A client has connected."""
        wire.topics = set()
        self._wires[wire.number] = wire
        if self.kind == zmq.ROUTER:
            self._routes[wire.client._identity] = wire

    def left(self, wire: Wire) -> None:
        """A client has gone."""
        if self._wires.pop(wire.number, None) is None:
            return
        if self.kind == zmq.ROUTER and self._routes.get(wire.client._identity) is wire:
            del self._routes[wire.client._identity]
        if self.kind == zmq.XPUB:
            for topic in sorted(wire.topics):
                self._put(None, [b"\0" + topic])
            wire.topics = set()

    def opened(self, wire: Wire) -> None:
        """We have connected."""
        for topic in self._topics:
            self._to_server(wire, [b"\x01" + topic])
        while self._outbox:
            self._network.send(wire, self._outbox.popleft(), to_server=True, published=False)
        self._tell(zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def broken(self, _: Wire) -> None:
        """A connection of ours is gone."""
        self._tell(zmq.EVENT_DISCONNECTED)

    def _tell(self, event: int) -> None:
        if self._monitor is not None:
            self._monitor._put(None, [struct.pack("=hi", event, 0), b""])

    def arrived(self, wire: Wire, frames: list[bytes]) -> None:
        """Take a message in."""
        if self.kind == zmq.ROUTER:
            frames = [wire.client._identity, *frames]
        self._put(wire, frames)
