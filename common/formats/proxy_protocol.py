"""The header of the PROXY protocol: who is behind a connection that a proxy passes on.

Versions 1 (a line) and 2 (binary) of ``proxy-protocol.txt``, HAProxy, 2020/03/05. Whether a
connection has such a header is never guessed: whoever reads one knows that it has to be there.
"""

import ipaddress
from dataclasses import dataclass

from common.errors import FormatError

MAX_LINE = 107
"""Bytes of a header of version 1 (section 2.1). A longer one is a FormatError: the connection is
shut."""

MAX_BODY = 2048
"""Bytes of a header of version 2 after its first 16: addresses, and what else a proxy says. A
longer one is a FormatError: the connection is shut."""

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""How version 2 begins (section 2.2)."""

_LINE = b"PROXY "
_HEAD = 16
_LOCAL, _PROXY = 0x20, 0x21
_KINDS = {0x00: 0, 0x11: 4, 0x12: 4, 0x21: 16, 0x22: 16, 0x31: 108, 0x32: 108}
"""Bytes of an address, by family and transport."""

_TCP = (0x11, 0x21)
_SSL = 0x20
_USED_TLS = 0x01


@dataclass(frozen=True, slots=True)
class Header:
    """Who is behind a connection."""

    host: str = ""
    """Address of the client; empty if the proxy speaks for itself, or does not know."""
    port: int = 0
    secure: bool = False
    """Whether the proxy says that the client came over TLS."""


class Reader:
    """Reads one header from the beginning of a connection, however the bytes are cut."""

    def __init__(self) -> None:
        self.header: Header | None = None
        """The header, once it is whole."""
        self._held = b""

    def feed(self, data: bytes) -> int:
        """Take what belongs to the header; return how many bytes that is.

        As long as ``header`` is None that is all of them.

        Raises:
            FormatError: If this is no header.
        """
        before = len(self._held)
        held = self._held + data
        if held[: len(SIGNATURE)] == SIGNATURE[: len(held)]:
            end = self._binary(held)
        elif held[: len(_LINE)] == _LINE[: len(held)]:
            end = self._line(held)
        else:
            raise FormatError("no header of the PROXY protocol")
        self._held = held[:end]
        return end - before

    def _line(self, held: bytes) -> int:
        end = held.find(b"\r\n", 0, MAX_LINE) + 2
        if end >= 2:
            self.header = _parse_line(held[: end - 2])
            return end
        if len(held) >= MAX_LINE:
            raise FormatError("the PROXY line has no end")
        return len(held)

    def _binary(self, held: bytes) -> int:
        if len(held) < _HEAD:
            return len(held)
        length = int.from_bytes(held[14:_HEAD], "big")
        if length > MAX_BODY:
            raise FormatError(f"a PROXY header of {length} bytes")
        end = _HEAD + length
        if len(held) < end:
            return len(held)
        self.header = _parse_binary(held[12], held[13], held[_HEAD:end])
        return end


def _parse_line(line: bytes) -> Header:
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return Header()  # the rest is to be ignored
    if words[1] not in (b"TCP4", b"TCP6") or len(words) != 6:
        raise FormatError("a PROXY line that is none")
    kind = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        hosts = [kind(word.decode("ascii")) for word in words[2:4]]
    except ValueError as error:
        raise FormatError("a PROXY line without addresses") from error
    if any("%" in str(host) for host in hosts):
        raise FormatError("a PROXY line with the zone of an address")
    ports = [_port(word) for word in words[4:6]]
    return Header(_plain(hosts[0]), ports[0])


def _port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or int(word) > 65535:
        raise FormatError("a PROXY line without ports")
    return int(word)


def _parse_binary(command: int, kind: int, body: bytes) -> Header:
    if command not in (_LOCAL, _PROXY):
        raise FormatError(f"version and command {command:#04x} of the PROXY protocol")
    if command == _LOCAL:
        return Header()  # of the proxy itself; the rest is to be ignored
    if kind not in _KINDS:
        raise FormatError(f"family and transport {kind:#04x} of the PROXY protocol")
    size = _KINDS[kind]
    rest = 2 * size + (4 if size in (4, 16) else 0)
    if len(body) < rest:
        raise FormatError("a PROXY header without room for its addresses")
    secure = _over_tls(body[rest:])
    if kind not in _TCP:
        return Header(secure=secure)
    port = int.from_bytes(body[2 * size : 2 * size + 2], "big")
    return Header(_plain(ipaddress.ip_address(body[:size])), port, secure)


def _over_tls(rest: bytes) -> bool:
    """Look for PP2_TYPE_SSL in what follows the addresses (section 2.2.5)."""
    found = False
    while rest:
        length = int.from_bytes(rest[1:3], "big")
        if len(rest) < 3 + length:
            raise FormatError("a PROXY header that is cut off")
        if rest[0] == _SSL:
            if length < 5:
                raise FormatError("a PROXY header with too little about TLS")
            found = bool(rest[3] & _USED_TLS)
        rest = rest[3 + length :]
    return found


def _plain(host: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return str(mapped or host)
