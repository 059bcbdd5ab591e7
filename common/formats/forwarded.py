"""What proxies write into requests of the viewers behind them: ``Forwarded`` and its relatives.

RFC 7239, and the fields that came before it. Nothing here says who may be believed.
"""

import ipaddress
import re

from common.errors import FormatError

MAX_HOPS = 16
"""Proxies in a row before a request. Of more nothing is believed: the viewer is taken to be the
proxy."""

MAX_BASE = 512
"""Letters of an ``X-Mst-Path``. Of a proxy that says a longer one nothing is believed."""

HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
"""What ``Host`` may be: a name or an address, and a port."""

_BASE = re.compile(rf"https?://(?:{HOST.pattern})(?:/[A-Za-z0-9._~+=@,-]*)*")
_PAIR = re.compile(r'\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"=]+))\s*')


def listed(values: list[str]) -> list[str]:
    """Return the elements of a field with commas, however many lines it came in.

    Raises:
        FormatError: If they are too many.
    """
    found = [one.strip() for value in values for one in value.split(",", MAX_HOPS)]
    if len(found) > MAX_HOPS:
        raise FormatError("too many proxies in a row")
    return found


def elements(values: list[str]) -> list[dict[str, str]]:
    """Return the elements of ``Forwarded``, each with its parameters in lower case.

    Raises:
        FormatError: If it is no such field.
    """
    text = ",".join(values)
    found: list[dict[str, str]] = [{}]
    place = 0
    while place < len(text):
        pair = _PAIR.match(text, place)
        if pair is None:
            raise FormatError("Forwarded: not in the form of RFC 7239")
        name, quoted, token = pair[1].lower(), pair[2], pair[3]
        if name in found[-1]:
            raise FormatError(f"Forwarded: {name} twice")
        found[-1][name] = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        place = pair.end()
        if place < len(text):
            separator = text[place]
            place += 1
            if separator == ",":
                found.append({})
            elif separator != ";":
                raise FormatError("Forwarded: not in the form of RFC 7239")
            if len(found) > MAX_HOPS or place == len(text):
                raise FormatError("Forwarded: too many proxies, or one that is missing")
    return found


def address(text: str) -> str:
    """Return the address of a node that a proxy names, with or without a port.

    Empty if it is none: ``unknown``, or a name that only the proxy knows (RFC 7239, 6).
    """
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id is not None:
            return ""
        found = found.ipv4_mapped or found
    return str(found)


def base(text: str) -> str:
    """Return a URL under which a proxy has a node, without a slash at its end.

    MistServer's ``X-Mst-Path``. Empty if it is not an ``http`` or ``https`` URL of plain letters.
    """
    if len(text) > MAX_BASE or _BASE.fullmatch(text) is None or "/../" in f"{text}/":
        return ""
    return text.rstrip("/")
