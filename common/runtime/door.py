"""Where TCP connections come in: so many in all, so many from one address, with TLS or without.

asyncio's own servers accept without a limit, and spin once the descriptors are used up (100 000 log
lines a second). A :class:`Door` accepts a few at a time, counts, shuts what is too much before a
byte of it was read, and rests when there are no descriptors. It has the newest certificate in its
hand for each connection.
"""

import asyncio
import contextlib
import errno
import functools
import ipaddress
import os
import resource
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from common.errors import ConfigError, FormatError
from common.formats.proxy_protocol import Header
from common.runtime import lean_tls, metrics, proxy_header
from common.runtime.logs import Limited, Log
from common.runtime.tls import Certificate

log = Log("door")
limited = Limited(log)

RESERVED_FILES = 1024
"""Descriptors kept for pages and everything that is no client's connection. A connection that would
take one of them is shut at once."""

SPARE_FILES = 16
"""Descriptors that no connection gets, whatever the limit has become since the start: without one
for a new page or a metric, the process would end. A connection that would take one is shut at
once."""

TURN = 64
"""Connections accepted before others in the event loop have their turn."""

REST = 0.25
"""Seconds without accepting after the descriptors were used up."""

HANDSHAKE = 5.0
"""Seconds that a TLS handshake may take. After that the connection is shut."""

SHUTDOWN = 5.0
"""Seconds that a TLS connection may take to end."""

SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
Factory = Callable[["Visit"], asyncio.BaseProtocol]
"""Makes the protocol of a connection, which calls :meth:`Visit.end` when it is lost."""


def most_connections() -> int:
    """Return how many connections the file descriptors of this process allow."""
    soft = _files()
    return max(soft - RESERVED_FILES, soft // 2)


def _files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def networks(texts: Iterable[str], setting: str) -> Networks:
    """Return networks, ``ADDRESS`` or ``ADDRESS/BITS`` each.

    Raises:
        ConfigError: If one is none.
    """
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise ConfigError(setting, f"{error}; say such as '10.0.0.0/8'") from error


def within(text: str, among: Networks) -> bool:
    """Return whether an address is in one of these networks."""
    address = _address(text)
    return address is not None and any(address in network for network in among)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address as it is meant: one of IPv4 also on a socket for both."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class Crowd:
    """The connections of one process, whichever door they came through."""

    def __init__(self, most: int, per_host: int = 0, uncounted: Networks = ()) -> None:
        """``per_host`` 0: as many as there may be; ``uncounted`` networks may always have that."""
        self.most = most
        self.here = 0
        self._per_host = per_host
        self._uncounted = uncounted
        self._hosts: Counter[str] = Counter()
        self._place = functools.lru_cache(4096)(self._look_up)

    def enter(self, address: str) -> "Visit | None":
        """Count a connection in; None if there are too many."""
        if self.here >= self.most:
            self._refuse("full")
            return None
        host = self.admit(address)
        if host is None:
            return None
        self.here += 1
        return Visit(self, host)

    def admit(self, address: str) -> str | None:
        """Count one more connection of a host; None: too many, empty: it may have any number."""
        host = self._place(address) if self._per_host else ""
        if host:
            if self._hosts[host] >= self._per_host:
                self._refuse("address")
                return None
            self._hosts[host] += 1
        return host

    def _refuse(self, reason: str) -> None:
        metrics.CONNECTIONS_REFUSED.labels(reason).inc()
        extra = {"reason": reason, "limit": self._per_host if reason == "address" else self.most}
        limited.warning("connection refused", reason, extra)

    def leave(self, host: str) -> None:
        """Count a connection out."""
        self.here -= 1
        if host:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    def _look_up(self, text: str) -> str:
        """Return what counts as one host, empty if it is not counted: IPv6 has 2^64 for each."""
        address = _address(text)
        if address is None:
            return text
        if any(address in network for network in self._uncounted):
            return ""
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
        return str(address)


class Visit:
    """One connection, as long as it counts."""

    __slots__ = ("_crowd", "_host", "header")

    def __init__(self, crowd: Crowd | None, host: str) -> None:
        self.header: Header | None = None
        """What a proxy says of it, if it is one of the PROXY protocol."""
        self._crowd = crowd
        self._host = host

    def introduce(self, header: Header) -> bool:
        """Take note of who is behind a proxy; false if they have too many connections."""
        self.header = header
        if header.host and self._crowd is not None and not self._host:
            host = self._crowd.admit(header.host)
            if host is None:
                return False
            self._host = host
        return True

    def end(self) -> None:
        """Stop counting it; a second call does nothing."""
        crowd, self._crowd = self._crowd, None
        if crowd is not None:
            crowd.leave(self._host)


NOBODY = Visit(None, "")
"""A connection that does not count."""


class Door:
    """One listening socket that lets connections in."""

    def __init__(
        self,
        listener: socket.socket,
        factory: Factory,
        crowd: Crowd,
        certificate: Certificate | None = None,
        speaks: Callable[[str], bool] | None = None,
    ) -> None:
        """Accept from now on; with ``certificate`` over TLS.

        ``speaks`` says from which addresses connections begin with a header of the PROXY protocol.
        """
        self.pending: set[asyncio.Task[None]] = set()
        """Connections that have not been let in yet."""

        self._listener = listener
        self._factory = factory
        self._crowd = crowd
        self._certificate = certificate
        self._speaks = speaks
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The listening socket, while it is open."""
        return (self._listener,) if self._listener.fileno() >= 0 else ()

    def last(self) -> None:
        """Let in who waits outside: the kernel resets their connections when the door closes."""
        if self._timer is None and self._listener.fileno() >= 0:
            self._accept()

    def close(self) -> None:
        """Accept nobody any more; who is in stays."""
        if self._timer is not None:
            self._timer.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        for _ in range(TURN):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in SCARCE:
                    raise
                self._rest(error)
                return
            if connection.fileno() >= _files() - SPARE_FILES:  # the lowest that is free is taken
                connection.close()
                self._rest(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
                return
            visit = self._crowd.enter(str(address[0]))
            if visit is None:
                connection.close()
                continue
            connection.setblocking(False)
            proxied = self._speaks is not None and self._speaks(str(address[0]))
            task = self._loop.create_task(self._let_in(connection, visit, proxied))
            self.pending.add(task)
            task.add_done_callback(self.pending.discard)

    def _rest(self, error: OSError) -> None:
        metrics.CONNECTIONS_REFUSED.labels("files").inc()
        limited.warning("cannot accept: raise LimitNOFILE", "files", {"error": error})
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(REST, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._accept)
        self._accept()

    async def _let_in(self, connection: socket.socket, visit: Visit, proxied: bool) -> None:
        app = self._factory(visit)
        try:
            if proxied and not await self._introduced(connection, visit):
                visit.end()
                connection.close()
                return
            if self._certificate is None:
                await self._loop.connect_accepted_socket(lambda: app, connection)
            else:
                context = self._certificate.context
                await lean_tls.accept(self._loop, app, connection, context, HANDSHAKE, SHUTDOWN)
        except OSError:
            metrics.TLS_HANDSHAKES_FAILED.inc()  # nothing else can fail here
            visit.end()
            with contextlib.suppress(OSError):
                connection.close()
        except BaseException:
            visit.end()
            raise

    async def _introduced(self, connection: socket.socket, visit: Visit) -> bool:
        """Hear from a proxy who comes; false if it does not say so, or they are too many."""
        try:
            header = await proxy_header.read(connection, HANDSHAKE)
        except FormatError as error:
            metrics.CONNECTIONS_CUT.labels("proxy").inc()
            limited.warning("a proxy does not say who comes", "proxy", {"error": error})
            return False
        return visit.introduce(header)
