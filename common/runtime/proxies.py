"""Who is behind a proxy: what a trusted one says of a viewer counts, and nobody else's word.

A proxy says it in fields of a request, or, before anything else that comes over a connection, with
the header of the PROXY protocol. Both are believed by the address the connection comes from. Of
fields only those count that the settings name: a proxy passes on what it does not know itself, and
so a viewer could send any other.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from common.errors import ConfigError, FormatError
from common.formats import forwarded
from common.runtime import door, serving
from common.runtime.http import Handler
from common.runtime.loader import Settings, suggestion

FIELDS = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Mst-Path",
    "X-Real-IP",
)
"""Fields that may be believed."""

CLIENTS = ("Forwarded", "X-Forwarded-For", "X-Real-IP")
"""Those that name the viewer."""

SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
"""What the scheme of a request can be; some proxies name the one of a WebSocket."""

BASE: web.RequestKey[str] = web.RequestKey("base", str)
"""Of a request: the URL under which a proxy has this node, empty if it did not say."""

REMEMBERED = 4096
"""Addresses of which it is remembered whether they are a proxy's."""


class ProxySettings(Settings, frozen=True):
    """``[proxies]``: the web servers and load balancers before a node that speak for viewers."""

    trusted: list[str] = msgspec.field(default_factory=list)
    """Addresses and networks of proxies, such as ``10.0.0.0/8``: their ``fields`` are believed,
    and they may have any number of connections. Nobody's if empty."""

    fields: list[str] = msgspec.field(
        default_factory=lambda: ["X-Forwarded-For", "X-Forwarded-Proto"]
    )
    """Fields that are believed of proxies that are trusted: name only those that all of them set or
    remove, as any other comes from the viewer. ``Forwarded``, ``X-Forwarded-For``,
    ``X-Forwarded-Host``, ``X-Forwarded-Proto``, ``X-Mst-Path``, ``X-Real-IP``; of those that name
    the viewer, the first here that a request has."""

    protocol: list[str] = msgspec.field(default_factory=list)
    """Addresses and networks whose connections begin with a header of the PROXY protocol, version
    1 or 2. One without it is shut; from anywhere else it is not understood."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a proxy says of a request; what it does not say is empty."""

    client: str = ""
    scheme: str = ""
    host: str = ""
    base: str = ""


NOTHING = Said()

Values = Callable[[str], Sequence[str]]
"""Returns the values of a field, by its name."""


class Proxies:
    """The proxies of a node."""

    def __init__(self, settings: ProxySettings, section: str) -> None:
        """``section`` is the section of the settings, for errors.

        Raises:
            ConfigError: If a network is none, or a field none that can be believed.
        """
        trusted = door.networks(settings.trusted, f"{section}.trusted")
        speaking = door.networks(settings.protocol, f"{section}.protocol")
        known = {name.lower(): name for name in FIELDS}
        for name in settings.fields:
            if name.lower() not in known:
                hint = suggestion(name, FIELDS)
                raise ConfigError(f"{section}.fields", f"{name!r} says nothing of viewers{hint}")
        self.fields = tuple(known[name.lower()] for name in settings.fields)
        self.any = bool(trusted)
        """Whether there is a proxy whose fields are believed."""
        self.networks = (*trusted, *speaking)
        self.trusts: Callable[[str], bool] = functools.lru_cache(REMEMBERED)(
            lambda address: door.within(address, trusted)
        )
        """Whether fields from an address are believed."""
        self.speaks: Callable[[str], bool] = functools.lru_cache(REMEMBERED)(
            lambda address: door.within(address, speaking)
        )
        """Whether connections from an address begin with a header of the PROXY protocol."""

    def read(self, values: Values) -> Said:
        """Return what a trusted proxy says in the fields of a request."""
        try:
            return self._read(values)
        except FormatError:
            return NOTHING  # the viewer is as good as the proxy, then

    def _read(self, values: Values) -> Said:
        found = {name: given for name in self.fields if (given := values(name))}
        elements = forwarded.elements(list(found.get("Forwarded", ())))
        client = ""
        for name in self.fields:
            if name in CLIENTS and name in found:
                if name == "Forwarded":
                    client = self._first([one.get("for", "") for one in elements])
                else:
                    client = self._first(forwarded.listed(list(found[name])))
                break
        near = elements[-1]
        scheme = (near.get("proto") or _last(found.get("X-Forwarded-Proto", ()))).lower()
        host = near.get("host") or _last(found.get("X-Forwarded-Host", ()))
        return Said(
            client,
            SCHEMES.get(scheme, ""),
            host if forwarded.HOST.fullmatch(host) else "",
            forwarded.base(_last(found.get("X-Mst-Path", ()))),
        )

    def _first(self, hops: list[str]) -> str:
        """Return the viewer of a row of hops, the nearest last: who is none of our proxies."""
        found = ""
        for hop in reversed(hops):
            address = forwarded.address(hop)
            if not address:
                break
            found = address
            if not self.trusts(address):
                break
        return found


NONE = Proxies(ProxySettings(), "")
"""Nobody is believed."""


def _last(values: Sequence[str]) -> str:
    return values[-1].rpartition(",")[2].strip() if values else ""


def behind(proxies: Proxies) -> Middleware:
    """Return the middleware that gives handlers the request as the viewer made it."""

    @web.middleware
    async def restore(request: web.Request, handler: Handler) -> web.StreamResponse:
        said = NOTHING
        if proxies.any and proxies.trusts(request.remote or ""):
            said = proxies.read(lambda name: request.headers.getall(name, ()))
        scheme = said.scheme or ("https" if came_secure(request) else "")
        if said.client or scheme or said.host:
            request = request.clone(
                remote=said.client or request.remote or "",
                scheme=scheme or request.scheme,
                host=said.host or request.host,
            )
        if said.base:
            request[BASE] = said.base
        return await handler(request)

    return restore


def came_secure(request: web.BaseRequest) -> bool:
    """Return whether a proxy has said, for the whole connection, that it is over TLS."""
    connection = request.protocol
    header = connection.admission.header if isinstance(connection, serving.Connection) else None
    return header is not None and header.secure
