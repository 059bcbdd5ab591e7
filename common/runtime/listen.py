"""Listening sockets: dual-stack, inherited where possible; an error says who holds a port."""

import contextlib
import errno
import ipaddress
import os
import socket
from pathlib import Path

from common.errors import ConfigError, ListenError
from common.runtime import inherit

BACKLOG = 1024


def parse(address: str, setting: str = "address") -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, ``[V6]:PORT``, ``:PORT`` or ``PORT``.

    No host means ``::``.

    Raises:
        ConfigError: If it is none of these.
    """
    host, _, port = address.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isdecimal() or int(port) > 65535 or (":" in host and "[" not in address):
        raise ConfigError(setting, f"{address!r} is not an address such as '[::]:8080'")
    return host or "::", int(port)


def bind(address: str, *, setting: str = "address", udp: bool = False) -> socket.socket:
    """Return a non-blocking socket bound to ``address``, listening unless it is for UDP.

    ``[::]`` and no host mean IPv6 and IPv4 alike (IPv4 alone on a machine without IPv6).
    ``setting`` is named in errors: it is what to change. A socket that this process has inherited
    for ``setting`` or ``address`` is used as it is.

    Raises:
        ConfigError: If the address cannot be read.
        ListenError: If it cannot be bound.
    """
    host, port = parse(address, setting)
    if udp:
        return _open(host, port, address, setting, udp)
    found = inherit.estate().claim(setting, address, (host, port))
    for unused in found[1:]:
        unused.close()
    bound = found[0] if found else _open(host, port, address, setting, udp)
    bound.setblocking(False)
    inherit.estate().note(setting, address, [bound])
    return bound


def share(address: str, count: int, *, setting: str = "address") -> list[socket.socket]:
    """Return ``count`` sockets on one address; the kernel spreads connections over them.

    Inherited ones are used as they are, however many they are: to close one would break the
    connections that wait in it. Otherwise like :func:`bind`.
    """
    host, port = parse(address, setting)
    found = inherit.estate().claim(setting, address, (host, port))
    if not found:
        first = _open(host, port, address, setting, udp=False)
        found = [first]
        if count > 1:
            found = _spread(first, count)
    for one in found:
        one.setblocking(False)
    inherit.estate().note(setting, address, found)
    return found


def _spread(first: socket.socket, count: int) -> list[socket.socket]:
    """Return sockets that share the address of ``first``, which is closed: it cannot share."""
    with first:
        family, address = first.family, first.getsockname()
        only = family == socket.AF_INET6 and first.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )
    found = []
    for _ in range(count):
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        found.append(listener)
    return found


def _open(host: str, port: int, address: str, setting: str, udp: bool) -> socket.socket:
    try:
        return _bind(host, port, udp)
    except OSError as error:
        if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return _open("0.0.0.0", port, address, setting, udp)
        raise ListenError(_explain(address, port, udp, setting, error)) from error


def authority(listener: socket.socket, host: str = "") -> str:
    """Return ``HOST:PORT`` where others on this machine reach ``listener``, for URLs.

    A wildcard address becomes 127.0.0.1, or ``host`` if given.
    """
    bound, port = listener.getsockname()[:2]
    if bound in ("::", "0.0.0.0"):
        bound = "127.0.0.1"
    bound = host or bound
    return f"[{bound}]:{port}" if ":" in bound else f"{bound}:{port}"


def announced(listener: socket.socket, public: str = "") -> str:
    """Return ``HOST:PORT`` at which other nodes reach ``listener`` (:func:`reachable`)."""
    return authority(listener, reachable(listener.getsockname()[0], public))


def reachable(host: str, public: str = "") -> str:
    """Return the host at which other nodes reach what listens on ``host``, for the registry.

    ``public`` is what the configuration says of that. What listens on loopback is reached there
    and nowhere else; for a wildcard address without ``public``, it is this machine's own address.
    """
    if host in ("::", "0.0.0.0"):
        return public or _own()
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return host
    return public or host


def _own() -> str:
    """Return the address from which this machine speaks to others; 127.0.0.1 if it cannot.

    Nothing is sent: a UDP socket that is connected only looks for the way to an address that is
    reserved for documentation (RFC 5737, RFC 3849).
    """
    for family, other in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect((other, 9))
            return str(one.getsockname()[0])
    return "127.0.0.1"


def holder(port: int, udp: bool = False) -> str:
    """Say which process has ``port``: ``PID (command)``, or nothing if it cannot be seen."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(port, udp)}
    for folder in Path("/proc").iterdir() if inodes else ():
        if folder.name.isdecimal() and _has(folder / "fd", inodes):
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            return f"process {folder.name} ({command.strip()[:120]})"
    return "a process of another user" if inodes else ""


def _bind(host: str, port: int, udp: bool) -> socket.socket:
    kind, protocol = (
        (socket.SOCK_DGRAM, socket.IPPROTO_UDP) if udp else (socket.SOCK_STREAM, socket.IPPROTO_TCP)
    )
    # The protocol has to be explicit: asyncio sets TCP_NODELAY only where it reads IPPROTO_TCP.
    found = socket.getaddrinfo(host, port, type=kind, proto=protocol, flags=socket.AI_PASSIVE)
    family, _, _, _, target = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        if not udp:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(target)
        if not udp:
            bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def _explain(address: str, port: int, udp: bool, setting: str, error: OSError) -> str:
    change = f"set {setting} to another address, or to port 0 for any free one"
    if error.errno == errno.EADDRINUSE:
        who = holder(port, udp)
        held = f"is taken by {who}" if who else "is taken"
        return f"cannot listen on {address}: port {port} {held}; {change}"
    if error.errno == errno.EACCES:
        return f"cannot listen on {address}: ports below 1024 need a privilege; {change}"
    return f"cannot listen on {address}: {error.strerror or error}; {change}"


def _inodes(port: int, udp: bool) -> set[str]:
    found = set()
    listening = "07" if udp else "0A"
    for name in ("udp", "udp6") if udp else ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == listening and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _has(folder: Path, links: set[str]) -> bool:
    try:
        return any(_link(path) in links for path in folder.iterdir())
    except OSError:
        return False


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
