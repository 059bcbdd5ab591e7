"""Hosts and the ways between them: loss, delay, order, copies, partitions and narrow links.

Like TCP, a connection keeps what is sent while the way is cut, for :data:`PATIENCE` seconds at
most; then both ends learn that it is broken, and what was on its way is lost. Messages may also be
lost, doubled or overtake each other: TCP never does that, but full queues and two paths do, and the
bus promises to bear it.
"""

import asyncio
import hashlib
import itertools
import random
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.sim.clock import VirtualLoop

if TYPE_CHECKING:
    from tests.sim.sockets import SimSocket

ON: ContextVar[str] = ContextVar("host")
"""The host on which the running code is."""

PATIENCE = 5.0
"""Seconds after which a connection that brings nothing across is given up (TCP_MAXRT)."""

DIAL_SECONDS = 1.0
"""A packet that opens a connection is repeated after this long."""

DIALS = 60
"""Times that it is repeated."""

QUEUE = 4000
"""Messages that wait for one peer; more are lost."""


@dataclass
class Way:
    """One direction between two hosts."""

    latency: float = 0.002
    jitter: float = 0.001
    loss: float = 0.0
    """Of what is published; questions and answers are lost with ``control_loss``."""
    control_loss: float = 0.0
    double: float = 0.0
    overtake: float = 0.0
    late: float = 0.0
    """Seconds that a message may be late that is overtaken."""
    rate: float = 0.0
    """Bytes a second; 0 for any."""
    cut: bool = False
    free_at: float = 0.0


@dataclass(eq=False)
class Wire:
    """A connection of ZeroMQ, or the attempt to have one."""

    client: "SimSocket"
    host: str
    port: int
    number: int
    server: "SimSocket | None" = None
    closed: bool = False
    """The client wants it no more."""
    attempts: int = 0
    topics: set[bytes] = field(default_factory=set)
    identity: bytes = b""
    last: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})
    held: dict[bool, deque[tuple[list[bytes], bool]]] = field(
        default_factory=lambda: {True: deque(), False: deque()}
    )
    """What waits while the way is cut, by direction: to the server, to the client."""
    flying: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    life: int = 0
    """Counts the connections that this one has been."""

    def end(self, to_server: bool) -> "SimSocket | None":
        """Return who gets what is sent in this direction."""
        return self.server if to_server else self.client


class Network:
    """All hosts, and every connection between them."""

    def __init__(self, loop: VirtualLoop, seed: int, trace: Callable[[str], None]) -> None:
        self.loop = loop
        self.random = random.Random(seed)
        self.trace = trace
        self.listeners: dict[tuple[str, int], SimSocket] = {}
        self.wires: dict[int, Wire] = {}
        self.ways: dict[tuple[str, str], Way] = {}
        self.numbers = itertools.count(1_000_000)
        self.messages = 0
        self.hash = hashlib.sha256()
        loop.dial = self._dial

    def way(self, source: str, target: str) -> Way:
        """Return one direction between two hosts."""
        return self.ways.setdefault((source, target), Way())

    def address_of(self, number: int) -> str:
        """Return who is at the other end of a connection to a server; nothing if it is gone."""
        wire = self.wires.get(number)
        return f"{wire.client.host} {number}.{wire.life}" if wire and wire.server else ""

    # Connections.

    def connect(self, client: "SimSocket", host: str, port: int) -> Wire:
        """Begin to connect, and go on trying."""
        wire = Wire(client, host, port, next(self.numbers))
        self.wires[wire.number] = wire
        self.loop.call_soon(self._attempt, wire)
        return wire

    def _attempt(self, wire: Wire) -> None:
        if wire.closed or wire.server is not None:
            return
        there, back = self.way(wire.client.host, wire.host), self.way(wire.host, wire.client.host)
        if there.cut or back.cut:
            self.loop.call_later(DIAL_SECONDS, self._attempt, wire)
            return
        server = self.listeners.get((wire.host, wire.port))
        if server is None:
            pause = min(0.1 * 2**wire.attempts, 1.0) * (1 + self.random.random())
            wire.attempts += 1
            self.loop.call_later(pause, self._attempt, wire)
            return
        self.loop.call_later(2 * (there.latency + back.latency), self._opened, wire, server)

    def _opened(self, wire: Wire, server: "SimSocket") -> None:
        if wire.closed or wire.server is not None:
            return
        if server.closed:
            self._attempt(wire)
            return
        wire.server, wire.attempts, wire.life = server, 0, wire.life + 1
        wire.last = {True: 0.0, False: 0.0}
        server.accepted(wire)
        wire.client.opened(wire)

    def disconnect(self, wire: Wire) -> None:
        """Let go of a connection from the client's side."""
        wire.closed = True
        server = wire.server
        self._drop(wire)
        self.wires.pop(wire.number, None)
        if server is not None and not self.way(wire.client.host, wire.host).cut:
            server.left(wire)

    def _drop(self, wire: Wire) -> None:
        wire.server = None
        wire.life += 1
        for held in wire.held.values():
            held.clear()
        wire.flying = {True: 0, False: 0}

    def breaks(self, wire: Wire, *, silent: bool = False) -> None:
        """Break a connection; both ends notice, unless it is ``silent`` for the client."""
        server = wire.server
        if server is None:
            return
        self._drop(wire)
        if not server.closed:
            server.left(wire)
        if not silent:
            wire.client.broken(wire)
            self.loop.call_soon(self._attempt, wire)

    def kill(self, host: str, *, reset: bool) -> None:
        """End everything that runs on a host; its peers hear of it at once, or by silence."""
        for place in [place for place in self.listeners if place[0] == host]:
            del self.listeners[place]
        for wire in list(self.wires.values()):
            if wire.client.host == host:
                wire.closed = True
                server = wire.server
                self._drop(wire)
                del self.wires[wire.number]
                if server is not None and server.host != host:
                    server.left(wire)
            elif wire.host == host and wire.server is not None:
                self.breaks(wire, silent=not reset)
                if not reset:
                    self.loop.call_later(PATIENCE, self._noticed, wire, wire.life)

    def _noticed(self, wire: Wire, life: int) -> None:
        if wire.life == life and not wire.closed:
            wire.client.broken(wire)
            self._attempt(wire)

    # Messages.

    def send(self, wire: Wire, frames: list[bytes], to_server: bool, published: bool) -> bool:
        """Send a message, unless too many wait already; what becomes of it is up to the way."""
        held = wire.held[to_server]
        if wire.flying[to_server] + len(held) >= QUEUE:
            return False
        here, there = wire.client.host, wire.host
        way = self.way(here, there) if to_server else self.way(there, here)
        if way.cut:
            held.append((frames, published))
            return True
        chance = self.random.random
        if chance() < (way.loss if published else way.control_loss):
            return True
        self._carry(wire, frames, to_server, way)
        if way.double and chance() < way.double:
            self._carry(wire, frames, to_server, way)
        return True

    def _carry(self, wire: Wire, frames: list[bytes], to_server: bool, way: Way) -> None:
        now, rng = self.loop.time(), self.random
        start = now
        if way.rate:
            start = way.free_at = max(now, way.free_at) + sum(map(len, frames)) / way.rate
        at = start + way.latency + rng.random() * way.jitter
        if way.overtake and rng.random() < way.overtake:
            at += rng.random() * way.late
        else:
            at = wire.last[to_server] = max(at, wire.last[to_server])
        wire.flying[to_server] += 1
        self.loop.call_at(at, self._arrive, wire, wire.life, frames, to_server)

    def _arrive(self, wire: Wire, life: int, frames: list[bytes], to_server: bool) -> None:
        if wire.life != life:
            return
        wire.flying[to_server] -= 1
        self.messages += 1
        self.hash.update(b"%d %d %d" % (self.loop.time() * 1e6, wire.number, len(frames[-1])))
        end = wire.end(to_server)
        if end is not None:
            end.arrived(wire, frames)

    def cut(self, source: str, target: str) -> None:
        """Let nothing through in one direction."""
        self.way(source, target).cut = True
        for wire in self._between(source, target):
            self.loop.call_later(PATIENCE, self._give_up, wire, wire.life, source, target)

    def _between(self, source: str, target: str) -> list[Wire]:
        hosts = {source, target}
        found = [w for w in self.wires.values() if {w.client.host, w.host} == hosts and w.server]
        return sorted(found, key=lambda wire: wire.number)

    def _give_up(self, wire: Wire, life: int, source: str, target: str) -> None:
        if wire.life == life and self.way(source, target).cut:
            self.breaks(wire)

    def heal(self, source: str, target: str) -> None:
        """Open a direction; connections go on after a while, or turn out to be broken."""
        way = self.way(source, target)
        if not way.cut:
            return
        way.cut = False
        for wire in self._between(source, target):
            wait = self.random.random()
            if self.random.random() < 0.5:
                self.loop.call_later(wait, self._resume, wire, wire.life)
            else:
                self.loop.call_later(wait, self._fail, wire, wire.life)

    def _fail(self, wire: Wire, life: int) -> None:
        if wire.life == life:
            self.breaks(wire)

    def _resume(self, wire: Wire, life: int) -> None:
        if wire.life != life:
            return
        for to_server in (True, False):
            waiting, wire.held[to_server] = wire.held[to_server], deque()
            for frames, published in waiting:
                self.send(wire, frames, to_server, published)

    async def _dial(self, host: str, port: int) -> None:
        """Knock at a port from the host that the caller is on."""
        source = ON.get()
        there, back = self.way(source, host), self.way(host, source)
        for _ in range(DIALS):
            if not (there.cut or back.cut):
                break
            await asyncio.sleep(DIAL_SECONDS)
        else:
            raise TimeoutError
        await asyncio.sleep(there.latency + back.latency)
        if (host, port) not in self.listeners:
            raise ConnectionRefusedError(f"nobody listens on {host}:{port}")
