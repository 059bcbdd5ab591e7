"""What the bypass reads of a request's header fields, once for each block that is sent again.

Players send the same fields with every request, byte for byte. A block that holds anything out of
the ordinary is no concern of the bypass: it is left to aiohttp, which is the judge of requests.
"""

import re
from collections import OrderedDict

from common.runtime.proxies import NONE, Proxies
from edge.range import takes_gzip
from edge.sessions import MAX_AGENT

MAX_BLOCK = 2048
"""Bytes of header fields that are remembered for the short way of requests. A request with more
goes through aiohttp."""

MAX_FIELDS = 48
"""Fields of a header on the short way of requests. A request with more goes through aiohttp."""

MAX_BLOCKS = 2048
"""Blocks of header fields that a viewer process remembers. Those used longest ago are forgotten."""

_NAME = re.compile(rb"[A-Za-z0-9!#$&'*+.^_`|~-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e]*")

_ORDINARY = frozenset({b"", b"keep-alive"})
"""What Connection may say."""

_CHANGING = frozenset(
    {
        b"content-encoding",
        b"content-length",
        b"expect",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"proxy-connection",
        b"range",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields with which a request gets another answer, or has a body."""


class Asked:
    """What a block of header fields says, as far as answers depend on it."""

    __slots__ = ("agent", "block", "client", "gzip")

    def __init__(self, block: bytes, agent: str, gzip: bool, client: str = "") -> None:
        self.block = block
        """The block, from the end of the request line on."""
        self.agent = agent
        self.gzip = gzip
        self.client = client
        """Address of the viewer, if it is a proxy that is believed who says this; may be empty."""


class Blocks:
    """The blocks that have been read."""

    def __init__(self, proxies: Proxies = NONE) -> None:
        self._proxies = proxies
        self._known: OrderedDict[bytes, Asked | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def read(self, block: bytes) -> Asked | None:
        """Return what a block says, from the end of the request line to the empty line.

        None if it is none of an ordinary request without a body.
        """
        if len(block) > MAX_BLOCK:
            return None
        try:
            asked = self._known[block]
            self._known.move_to_end(block)
        except KeyError:
            asked = self._known[block] = _parse(block, self._proxies)
            if len(self._known) > MAX_BLOCKS:
                self._known.popitem(last=False)
        return asked


def _parse(block: bytes, proxies: Proxies) -> Asked | None:
    if not (block.startswith(b"\r\n") and block.endswith(b"\r\n\r\n")):
        return None
    lines = block[2:-4].split(b"\r\n")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or name in fields or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            return None
        fields[name] = value.strip(b" \t")
    if len(lines) > MAX_FIELDS or not fields.get(b"host") or not _CHANGING.isdisjoint(fields):
        return None
    if fields.get(b"connection", b"").lower() not in _ORDINARY:
        return None
    agent = fields.get(b"user-agent", b"").decode()[:MAX_AGENT]
    client = ""
    if proxies.any:
        said = proxies.read(lambda name: _values(fields, name))
        client = said.client
    gzip = takes_gzip(fields.get(b"accept-encoding", b"").decode())
    return Asked(block, agent, gzip, client)


def _values(fields: dict[bytes, bytes], name: str) -> list[str]:
    value = fields.get(name.lower().encode())
    return [] if value is None else [value.decode()]
