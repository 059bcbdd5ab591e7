"""Read a ZeroMQ socket in an event loop, at a quarter of the cost of ``zmq.asyncio``.

The file descriptor of a ZeroMQ socket is edge-triggered and tells of sent messages as well: after
it was readable, and after every send, the socket has to be read until nothing is left, or it may
stay silent for ever. :class:`Pump` does that.
"""

import asyncio
import os
import random
import socket as sockets
from collections.abc import Callable
from typing import TypeVar

import zmq

from common.errors import ListenError
from common.runtime.listen import holder, parse

T = TypeVar("T")

TURN = 256
"""Messages that are read before others in the event loop have their turn."""

SAFE_PORTS = range(10_000, 32_768)
"""Port 0 becomes one of these. From the range of ephemeral ports, a peer that reconnects while
nobody listens may get the very port it connects to, be connected to itself, and keep it."""


DEAD_AFTER = 5000
"""Milliseconds that a peer of the bus may leave what was sent to it unacknowledged, or unread with
its buffers full. Then the kernel ends the connection, and what waits for the peer is let go."""


class Pump:
    """Hands every message of a socket to a callback, in the running event loop."""

    def __init__(
        self,
        socket: "zmq.Socket[bytes]",
        receive: Callable[["zmq.Socket[bytes]"], T],
        deliver: Callable[[T], None],
        settled: Callable[[], None] | None = None,
        turn: int = TURN,
    ) -> None:
        """``receive`` reads one message without waiting; ``settled`` is called after each burst.

        At most ``turn`` messages are read at a time.
        """
        self._turn = turn
        self._socket = socket
        self._receive = receive
        self._deliver = deliver
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._fd: int = socket.getsockopt(zmq.FD)  # type: ignore[assignment]
        self._due = False
        self.closed = False
        self._loop.add_reader(self._fd, self._drain)
        self.poke()

    def poke(self) -> None:
        """Look at the socket again soon: call it after sending on it."""
        if not self._due and not self.closed:
            self._due = True
            self._loop.call_soon(self._again)

    def _again(self) -> None:
        self._due = False
        self._drain()

    def _drain(self) -> None:
        for turn in range(self._turn):
            if self.closed:
                return
            try:
                message = self._receive(self._socket)
            except zmq.Again:
                if turn and self._settled is not None:
                    self._settled()
                return
            self._deliver(message)
        if self._settled is not None:
            self._settled()
        self.poke()

    def close(self) -> None:
        """Stop reading; the socket stays open."""
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._fd)


def receive_frames(socket: "zmq.Socket[bytes]") -> list[bytes]:
    """Return the frames of the next message, without waiting.

    Raises:
        zmq.Again: If there is none.
    """
    return socket.recv_multipart(zmq.NOBLOCK)


def harden(socket: "zmq.Socket[bytes]") -> None:
    """Set the options that every socket of the bus has: IPv6, no lingering, no dead peers.

    No socket has ZeroMQ's own heartbeats: they can abort the process (ADR 31).
    """
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.TCP_MAXRT, DEAD_AFTER)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 2)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)


def bind(socket: "zmq.Socket[bytes]", address: str, setting: str = "address") -> int:
    """Bind to ``HOST:PORT`` (port 0: a free one of ``SAFE_PORTS``) and return the port.

    Raises:
        ConfigError: If the address cannot be read.
        ListenError: If it cannot be bound.
    """
    host, port = parse(address.removeprefix("tcp://"), setting)
    host = f"[{host}]" if ":" in host else host
    for candidate in _candidates(port):
        try:
            socket.bind(f"tcp://{host}:{candidate}")
        except zmq.ZMQError as error:
            failed = error
            continue
        return candidate
    owner = holder(port) if port else ""
    held = f", held by {owner}" if owner else ""
    raise ListenError(f"cannot listen on {address}: {failed}{held}; choose another with {setting}")


def adopt(socket: "zmq.Socket[bytes]", listener: sockets.socket) -> int:
    """Accept on a TCP socket that listens already, and stays open; return its port."""
    host, port = listener.getsockname()[:2]
    socket.setsockopt(zmq.USE_FD, os.dup(listener.fileno()))
    host = f"[{host}]" if ":" in host else host
    socket.bind(f"tcp://{host}:{port}")
    return int(port)


def _candidates(port: int) -> list[int]:
    return [port] if port else random.sample(SAFE_PORTS, 200)
