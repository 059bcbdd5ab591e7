"""Who may use an API: clients of this machine, and those that bear its token."""

import hmac
import ipaddress
from collections.abc import Callable

from aiohttp import web

from common.runtime.http import Handler
from common.runtime.serving import Connection

_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
"""Headers of a proxy: the client is then not the one on this machine."""


def guard(token: str, section: str) -> Callable[[Handler], Handler]:
    """Return a decorator that lets in clients of this machine, and those with ``token``.

    ``section`` of the configuration is where the token is set, for those who are refused.
    """

    def decorate(handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if trusted(request, token):
                return await handler(request)
            body = {
                "type": "about:blank",
                "title": "Unauthorized",
                "detail": f"the API needs a token from other machines: set [{section}] token",
                "status": 401,
            }
            return web.json_response(
                body,
                status=401,
                headers={"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"},
                content_type="application/problem+json",
            )

        return guarded

    return decorate


def trusted(request: web.BaseRequest, token: str) -> bool:
    """Return whether a client is on this machine, not behind a proxy, or bears ``token``."""
    return _local(request) or _bears(request, token)


def _local(request: web.BaseRequest) -> bool:
    """Whether the client is on this machine, not behind a proxy there or in a web page."""
    if any(name in request.headers for name in _PROXIED):
        return False
    connection = request.protocol
    if isinstance(connection, Connection) and connection.admission.header is not None:
        return False  # whoever is behind a proxy may be on the machine of that
    origin = request.headers.get("Origin")
    host = request.headers.get("Host", "")
    if origin is not None and origin.partition("://")[2] != host:
        return False  # a page from elsewhere, in a browser on this machine
    return _loopback(request.remote or "") and _names_us(host)


def _names_us(host: str) -> bool:
    """Whether ``Host`` is an address or localhost: not a name that was pointed at us."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name == "localhost":
        return True
    return _address(name.strip("[]")) is not None


def _loopback(text: str) -> bool:
    address = _address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address is not None and address.is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _bears(request: web.BaseRequest, token: str) -> bool:
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    return (
        bool(token)
        and kind.lower() == "bearer"
        and hmac.compare_digest(given.strip().encode(), token.encode())
    )
