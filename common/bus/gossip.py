"""Tell the balancers how loaded this edge is, twice a second, on a PUB socket.

The layout of a report is that of :mod:`common.wire.gossip`: topic ``b"G" + node + b"\\0"``, then
a msgpack array ``[1, node, boot, seq, unix_ms, bw_out_bps, sessions, cpu, mem, flags, ...]``.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import zmq

from common.errors import ListenError
from common.runtime import inherit, listen
from common.runtime.curve import PLAIN, Authenticator, Domain, Guard
from common.wire.gossip import Gossip, encode_gossip

INTERVAL = 0.5
"""Seconds between two reports."""

SEND_LIMIT = 20
"""Reports that are kept for a balancer that does not read: old ones are worth nothing. Further ones
are dropped."""

MAX_MESSAGE = 64 * 1024
"""Bytes of a subscription; a PUB socket keeps them. ZeroMQ shuts the connection over which more
comes."""


@dataclass(slots=True)
class Load:
    """What a report says besides the name of the node and its own number."""

    bandwidth: float = 0.0
    sessions: int = 0
    cpu: float = 0.0
    memory: float = 0.0
    draining: bool = False
    accepted: int = 0
    refused: int = 0
    streams: list[str] = field(default_factory=list)
    """What is carried, the most wanted first."""

    viewers: list[int] = field(default_factory=list)
    bits: list[float] = field(default_factory=list)
    """Bits a second that the viewers of each stream get."""

    restarting: float = 0.0
    """Seconds for which silence may follow, because the node restarts in place."""


class Gossiper:
    """The PUB socket of one node."""

    def __init__(
        self,
        node: str,
        address: str,
        guard: Guard = PLAIN,
        *,
        setting: str = "edge.gossip",
        public: str = "",
    ) -> None:
        """Bind ``address``, ``HOST:PORT`` or port 0 for any free one, as ``guard`` says.

        ``setting`` is the name of the address in errors, ``public`` the host at which others reach
        this one (:func:`common.runtime.listen.reachable`).

        Raises:
            ConfigError: If the address cannot be read.
            ListenError: If it cannot be bound.
        """
        host, port = listen.parse(address, setting)
        port = port or inherit.estate().port(setting, address)
        self._node = node
        self._boot = time.time_ns() // 1000
        self._sequence = 0
        self._context = zmq.Context()
        self._authenticator = Authenticator(self._context, guard)
        self._socket = self._context.socket(zmq.XPUB)
        for option, value in (
            (zmq.SNDHWM, SEND_LIMIT),
            (zmq.LINGER, 0),
            (zmq.IPV6, 1),
            (zmq.MAXMSGSIZE, MAX_MESSAGE),  # a giant subscription would fill the memory
            (zmq.RCVHWM, 0),  # with a limit, a peer can abort the process (ADR 31)
            (zmq.TCP_MAXRT, 2000),
            (zmq.HANDSHAKE_IVL, 2000),
        ):
            self._socket.setsockopt(option, value)
        self._connections = self._authenticator.server(self._socket, Domain.GOSSIP)
        bound = f"[{host}]" if ":" in host else host
        try:
            self._socket.bind(f"tcp://{bound}:{port or '*'}")
        except zmq.ZMQError as error:
            self.close()
            who = listen.holder(port)
            held = f"is taken by {who}" if who else str(error)
            raise ListenError(
                f"cannot listen on {address}: {held}; set {setting} to another address"
            ) from error
        last = cast(bytes, self._socket.getsockopt(zmq.LAST_ENDPOINT))
        self.port = int(last.rstrip(b"\0").rpartition(b":")[2])
        reachable = listen.reachable(host, public)
        self.authority = (
            f"[{reachable}]:{self.port}" if ":" in reachable else f"{reachable}:{self.port}"
        )
        inherit.estate().note(setting, address, [], self.port)

    def send(self, load: Load) -> None:
        """Send one report; never waits."""
        self._drain()
        self._sequence += 1
        report = Gossip(
            self._node,
            self._boot,
            self._sequence,
            time.time_ns() // 1_000_000,
            load.bandwidth,
            load.sessions,
            min(max(load.cpu, 0.0), 1.0),
            min(max(load.memory, 0.0), 1.0),
            load.draining,
            load.accepted,
            load.refused,
            tuple(load.streams),
            tuple(load.viewers),
            tuple(load.bits),
            load.restarting,
        )
        self._socket.send_multipart(encode_gossip(report), zmq.NOBLOCK)

    async def run(self, load: Callable[[], Load]) -> None:
        """Send a report every ``INTERVAL`` seconds until cancelled."""
        while True:
            self.send(load())
            await asyncio.sleep(INTERVAL)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
        self._authenticator.close()
        self._context.term()

    def _drain(self) -> None:
        """Read the subscriptions, which nobody asked for, so that they do not pile up."""
        for _ in range(1000):
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._connections.sender(frame)
