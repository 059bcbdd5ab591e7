"""Who may speak on the bus: CURVE on its sockets, and the ZAP handler that knows the nodes' keys.

A node's servers (bus, control, gossip) are all encrypted or all plain, see
``node.bus_security``. The ones that are encrypted say so in the node's endpoints with its public
key, ``curve``; whoever connects takes it from there. A handshake succeeds only for the key of a
node that the registry lists, and only in the domain that its role has business in.

Everything is one call for each socket: :meth:`Guard.client` before ``connect``,
:meth:`Authenticator.server` before ``bind``.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import zmq
from zmq.utils import z85

from common.errors import AccessDenied
from common.runtime import listen, metrics
from common.runtime.config import NodeSettings
from common.runtime.connections import Connections, address_of
from common.runtime.keys import Keys
from common.runtime.logs import Limited, Log
from common.runtime.pump import Pump, receive_frames
from common.runtime.registry import Registry
from common.runtime.roster import Roster

ZAP = "inproc://zeromq.zap.01"
MAX_WAITING = 64
"""Handshakes that wait for a look into the registry. Others are sent away to come back."""

REFUSED = b"300"
"""Status "temporary failure": the peer's libzmq tries again later. After 400 it never would, and
an edge that came before its entry in the registry would stay away until it is restarted."""

log = Log("curve")


class Domain(StrEnum):
    """What a socket is for."""

    BUS = "bus"
    """Bus and control."""

    GOSSIP = "gossip"


ADMITTED: dict[str, frozenset[str]] = {
    Domain.BUS: frozenset({"origin", "relay", "edge"}),
    Domain.GOSSIP: frozenset({"balancer"}),
}
"""Roles that may connect to the sockets of a domain."""


class Guard:
    """How the sockets of one node's process speak."""

    def __init__(
        self,
        keys: Keys | None = None,
        roster: Roster | None = None,
        *,
        secure: bool = False,
        mode: Literal["auto", "curve", "none"] = "none",
    ) -> None:
        """``secure``: servers are encrypted, which takes keys and a roster."""
        assert not secure or (keys and roster), "no keys, or nobody to admit"
        self.keys = keys
        self.roster = roster
        self.secure = secure
        self._mode = mode

    @property
    def endpoints(self) -> dict[str, str]:
        """What belongs into the endpoints of the node: its public key if servers are encrypted."""
        return {"curve": self.keys.public} if self.secure and self.keys else {}

    def client(self, socket: "zmq.Socket[bytes]", endpoint: str, server_key: str) -> None:
        """Prepare a socket for ``connect(endpoint)``; ``server_key`` is empty for a plain server.

        A socket may be prepared again for a connection to another server.

        Raises:
            AccessDenied: If the connection would be readable for others.
        """
        if server_key:
            if self.keys is None:
                raise AccessDenied(f"{endpoint} is encrypted, and this node has no key")
            socket.curve_secretkey = self.keys.secret.encode()
            socket.curve_publickey = self.keys.public.encode()
            socket.curve_serverkey = server_key.encode()
            return
        if self._mode == "curve" or (self._mode == "auto" and not _stays_here(endpoint)):
            raise AccessDenied(
                f"{endpoint} is not encrypted: set node.bus_security of that node to curve, "
                "or of both to none if you trust the network"
            )
        socket.curve_server = False  # the way back to no mechanism at all


PLAIN = Guard()
"""For nodes whose sockets are all on loopback, and for tests."""


class Authenticator:
    """Prepares the servers of one context and answers its questions about who may enter."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        guard: Guard,
        address_of: Callable[[int], str] = address_of,
    ) -> None:
        """Make it before any server of the context is bound."""
        self.guard = guard
        self._address_of = address_of
        self._waiting: set[asyncio.Task[None]] = set()
        self._doors: list[Connections] = []
        self._log = Limited(log, seconds=10)
        self._pump: Pump | None = None
        if not guard.secure or guard.roster is None:
            return
        self._roster = guard.roster
        self._roster.watch(self._removed)
        self._socket = context.socket(zmq.ROUTER)
        for option in (zmq.LINGER, zmq.SNDHWM, zmq.RCVHWM):
            self._socket.setsockopt(option, 0)
        self._socket.bind(ZAP)
        self._pump = Pump(self._socket, receive_frames, self._asked)

    def server(self, socket: "zmq.Socket[bytes]", domain: Domain) -> Connections:
        """Prepare a socket for ``bind``; return what tells its peers apart."""
        guard, connections = self.guard, Connections(socket, self._address_of)
        if guard.secure and guard.keys is not None:
            socket.curve_secretkey = guard.keys.secret.encode()
            socket.curve_publickey = guard.keys.public.encode()
            socket.curve_server = True
            socket.zap_domain = domain.encode()
            connections.watch()
            self._doors.append(connections)
        return connections

    def close(self) -> None:
        """Stop answering: after the servers were closed."""
        if self._pump is not None:
            self._roster.unwatch(self._removed)
            self._pump.close()
            self._pump = None
            self._socket.close(0)
        for connections in self._doors:
            connections.close()
        for task in self._waiting:
            task.cancel()

    def _asked(self, frames: list[bytes]) -> None:
        """Answer libzmq: (RFC 27) version, id, domain, address, identity, mechanism, key."""
        if len(frames) != 9 or frames[7] != b"CURVE" or len(frames[8]) != 32:
            return
        key = z85.encode(frames[8]).decode()
        if self._roster.by_key(key) is not None or len(self._waiting) >= MAX_WAITING:
            self._answer(frames, key)
            return
        task = asyncio.create_task(self._look(frames, key))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _look(self, frames: list[bytes], key: str) -> None:
        await self._roster.look()
        self._answer(frames, key)

    def _answer(self, frames: list[bytes], key: str) -> None:
        if self._pump is None:
            return
        entry = self._roster.by_key(key)
        if entry is not None and entry.role in ADMITTED.get(frames[4].decode(), ()):
            verdict = [b"200", b"", entry.name.encode(), b""]
        else:
            verdict = [REFUSED, b"", b"", b""]
            metrics.BUS_DROPS.labels("key").inc()
            who = entry.name if entry else "unknown key"
            extra = {"address": frames[5].decode(errors="replace"), "node": who}
            self._log.warning("handshake refused", who, extra)
        self._socket.send_multipart([*frames[:4], *verdict], zmq.NOBLOCK)
        self._pump.poke()

    def _removed(self, node: str) -> None:
        cut = sum(connections.cut(node) for connections in self._doors)
        log.info("key of a node not good any more", extra={"node": node, "connections": cut})


@contextlib.asynccontextmanager
async def guarded(
    node: NodeSettings, registry: Registry, servers: Mapping[str, str] | None = None
) -> AsyncIterator[Guard]:
    """Return how the sockets of a node speak, and follow the registry for the time of a block.

    ``servers`` are the addresses that the node listens on for the inside, by setting.

    Raises:
        ConfigError: If the key file cannot be used.
    """
    keys = Keys.load(Path(node.keys))
    secure = encrypts(node, servers or {})
    if not secure:
        _warn(servers or {})
    roster = Roster(registry.members, node.name)
    guard = Guard(keys, roster, secure=secure, mode=node.bus_security)
    if not secure:
        yield guard
        return
    following = asyncio.create_task(roster.run(), name="roster")
    try:
        yield guard
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def encrypts(node: NodeSettings, servers: Mapping[str, str]) -> bool:
    """Return whether a node that listens on these addresses, by setting, encrypts."""
    if not servers or node.bus_security == "none":
        return False
    return node.bus_security == "curve" or not all(map(_stays_here, servers.values()))


def _warn(servers: Mapping[str, str]) -> None:
    for name, address in servers.items():
        if not _stays_here(address):
            log.warning("not encrypted, and open to the network", extra={"setting": name})


def _stays_here(address: str) -> bool:
    """Return whether what is sent to or heard on an address never leaves the machine."""
    if address.startswith(("ipc://", "inproc://")):
        return True
    host = urlsplit(address).hostname if "://" in address else listen.parse(address)[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
