"""Hears the gossip of the edges: one SUB socket, drained from the event loop."""

import asyncio
from collections.abc import Callable, Mapping

import zmq

from common.errors import AccessDenied, FormatError
from common.runtime.curve import PLAIN, Guard
from common.runtime.logs import Limited, Log
from common.wire.gossip import Gossip, decode_gossip

MAX_MESSAGE = 256 * 1024
"""Bytes of a node's report; that of an edge with thousands of streams fits. ZeroMQ shuts the
connection over which more comes."""

DRAIN = 100
"""Messages taken in one turn of the event loop."""

log = Log("balancer.gossip")


class GossipListener:
    """Subscribes to every edge it is told of and hands each report on."""

    def __init__(self, deliver: Callable[[Gossip], None], guard: Guard = PLAIN) -> None:
        self._deliver = deliver
        self._guard = guard
        self._limited = Limited(log, seconds=10)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        # An edge that was out of reach is heard again within two seconds; no heartbeats (ADR 31).
        for option, value in (
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 1000),
            (zmq.MAXMSGSIZE, MAX_MESSAGE),
            (zmq.LINGER, 0),
            (zmq.IPV6, 1),
            (zmq.TCP_KEEPALIVE, 1),
            (zmq.TCP_KEEPALIVE_IDLE, 1),
            (zmq.TCP_KEEPALIVE_INTVL, 1),
            (zmq.TCP_KEEPALIVE_CNT, 3),
            (zmq.CONNECT_TIMEOUT, 1000),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 500),
            (zmq.HANDSHAKE_IVL, 3000),
        ):
            self._socket.setsockopt(option, value)
        self._socket.subscribe(b"G")
        self._connected: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.FD, self._readable)

    def follow(self, endpoints: Mapping[str, str]) -> None:
        """Connect to exactly these gossip endpoints: addresses with public keys, if any."""
        for endpoint, _ in self._connected.items() - endpoints.items():
            self._socket.disconnect(endpoint)
            del self._connected[endpoint]
        for endpoint, key in endpoints.items() - self._connected.items():
            try:
                self._guard.client(self._socket, endpoint, key)
            except AccessDenied as error:
                self._limited.warning("edge refused", endpoint, {"error": str(error)})
                continue
            self._socket.connect(endpoint)
            self._connected[endpoint] = key
        self._readable()

    def _readable(self) -> None:
        # The descriptor is edge-triggered: drain, or ask for another turn.
        for _ in range(DRAIN):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._deliver(decode_gossip(parts))
            except FormatError as error:
                log.warning("gossip not understood", extra={"error": error})
        if not self._socket.closed:
            self._loop.call_soon(self._readable)

    def close(self) -> None:
        """Let go of the socket."""
        self._loop.remove_reader(self._socket.FD)
        self._socket.close()
        self._context.term()
