"""The TCP connections below a ZeroMQ server: whose they are, and how to shut one.

ZeroMQ names a peer by the descriptor of its connection. Descriptors are used again, so nothing is
done to one before it is seen to be the connection that was meant.
"""

import contextlib
import functools
import os
import socket as sockets
import struct
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from common.runtime import metrics
from common.runtime.pump import Pump, receive_frames

MAX_HANDSHAKES = 100
"""Connections to one socket of the inside that have not been let in yet. Of more, those of the host
that has most of them are shut, the oldest first."""

EVENTS = 32
"""Connections that are looked at before others in the event loop have their turn."""

MAX_NODE = 200
"""Bytes of a node's name in an identity, which ZeroMQ limits to 255. A longer one is cut."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a message."""

    node: str
    """Name of the node whose key it has; empty on a plain socket."""

    connection: int
    """Descriptor, -1 if it is gone."""

    address: str
    """The other end of the connection."""


NOBODY = Sender("", -1, "")


def address_of(connection: int) -> str:
    """Return who is at the other end of a descriptor, nothing if it is not connected."""
    peer = _socket_of(connection)
    if peer is None:
        return ""
    with peer:
        try:
            host, port, *_ = peer.getpeername()
        except (OSError, ValueError):
            return ""
        return f"{host} {port}"


def _socket_of(connection: int) -> sockets.socket | None:
    """Return a duplicate of a descriptor that was a socket, None if it is none any more.

    It may be closed by now, or be a page file.
    """
    try:
        duplicate = os.dup(connection)
    except OSError:
        return None
    try:
        return sockets.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None


class Connections:
    """The connections of one server socket."""

    def __init__(
        self, socket: "zmq.Socket[bytes]", address_of: Callable[[int], str] = address_of
    ) -> None:
        self.secure = False
        self._address_of = address_of
        self._socket = socket
        self._known: dict[int, Sender] = {}
        self._waiting: dict[str, dict[int, str]] = defaultdict(dict)
        """Who has not been let in, the longest first: addresses by host and descriptor."""

        self._hosts: dict[int, str] = {}
        """Hosts of those, by descriptor."""

        self._pump: Pump | None = None

    def watch(self) -> None:
        """Let at most ``MAX_HANDSHAKES`` connections wait to be let in: each costs 20 kB."""
        self.secure = True
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
        self._monitor = self._socket.get_monitor_socket(events)
        self._pump = Pump(self._monitor, receive_frames, self._event, turn=EVENTS)

    def close(self) -> None:
        """Stop watching."""
        if self._pump is not None:
            self._pump.close()
            self._pump = None
            if not self._socket.closed:
                self._socket.disable_monitor()  # or what it has to say would wait for ever
            self._monitor.close(0)

    def _event(self, frames: list[bytes]) -> None:
        event, connection = struct.unpack_from("=HI", frames[0])
        self._waited(connection)
        address = self._address_of(connection) if event == zmq.EVENT_ACCEPTED else ""
        if not address:
            return
        host = self._hosts[connection] = address.partition(" ")[0]
        self._waiting[host][connection] = address
        if len(self._hosts) > MAX_HANDSHAKES:
            crowd = max(self._waiting.values(), key=len)
            oldest = next(iter(crowd))
            metrics.BUS_DROPS.labels("handshake").inc()
            self.shut(Sender("", oldest, crowd[oldest]))
            self._waited(oldest)

    def _waited(self, connection: int) -> None:
        """Note that a connection does not wait to be let in any more."""
        host = self._hosts.pop(connection, None)
        if host is not None:
            del self._waiting[host][connection]
            if not self._waiting[host]:
                del self._waiting[host]

    def sender(self, frame: "zmq.Frame") -> Sender:
        """Return who sent a frame that was received with ``copy=False``."""
        try:
            connection = int(frame.get(zmq.SRCFD))
            node = str(frame.get("User-Id")) if self.secure else ""
        except zmq.ZMQError:
            return NOBODY  # ZeroMQ itself tells of a connection that has ended
        known = self._known.get(connection)
        address = self._address_of(connection)
        if known is None or (known.node, known.address) != (node, address):
            known = self._known[connection] = Sender(node, connection, address)
            self._waited(connection)
        return known

    def receive(self, socket: "zmq.Socket[bytes]") -> list[bytes]:
        """Return the frames of the next message to a ROUTER, without waiting.

        Nothing is returned of a message under the identity of a node that did not send it.

        Raises:
            zmq.Again: If there is none.
        """
        if not self.secure:
            return socket.recv_multipart(zmq.NOBLOCK)
        frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
        sender = self.sender(frames[-1])
        mine = node_of(frames[0].bytes) == sender.node and sender is not NOBODY
        return [frame.bytes for frame in frames] if mine else []

    def cut(self, node: str) -> int:
        """Shut all connections of a node; return how many there were."""
        found = [one for one in self._known.values() if one.node == node]
        return sum(map(self.shut, found))

    def shut(self, sender: Sender) -> bool:
        """Shut one connection, if the descriptor still is this connection to this server."""
        if self._known.get(sender.connection) == sender:
            del self._known[sender.connection]
        peer = _socket_of(sender.connection)
        if peer is None:
            return False
        with peer, contextlib.suppress(OSError):
            mine = peer.getsockname()[1] == self._port
            if mine and sender.address and self._address_of(sender.connection) == sender.address:
                peer.shutdown(sockets.SHUT_RDWR)
                return True
        return False

    @functools.cached_property
    def _port(self) -> int:
        last: bytes = self._socket.getsockopt(zmq.LAST_ENDPOINT)  # type: ignore[assignment]
        return int(last.rstrip(b"\0").rpartition(b":")[2] or 0)


def identity_of(node: str) -> bytes:
    """Return an identity for a DEALER of a node, another one each time.

    Not the name alone: who was started again must not get answers meant for the one before, and
    nobody may guess the identity of another connection and take it over.
    """
    return node.encode()[:MAX_NODE] + b"~" + os.urandom(8).hex().encode()


def node_of(identity: bytes) -> str:
    """Return the node that an identity names; nothing if it names none."""
    name, separator, _ = identity.rpartition(b"~")
    return name.decode(errors="replace") if separator else ""
