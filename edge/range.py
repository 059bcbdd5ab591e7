"""What a GET asks for: If-None-Match, single ranges, gzip (RFC 9110, 12 to 14)."""

import re
from collections.abc import Mapping

OK, PARTIAL, NOT_MODIFIED, UNSATISFIABLE = 200, 206, 304, 416

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)

Answer = tuple[int, bytes, dict[str, str]]
"""Status, body and headers to add."""


def ranged(body: bytes, etag: str, headers: Mapping[str, str]) -> Answer:
    """Return what to answer to a request with ``headers`` for ``body``.

    Several ranges at once are answered with everything, as a server may (14.2).
    """
    known = headers.get("If-None-Match")
    if known is not None and _has(known, etag):
        return NOT_MODIFIED, b"", {}
    match = _RANGE.fullmatch(headers.get("Range", "").replace(" ", ""))
    if match is None or match[0] == "bytes=-" or headers.get("If-Range", etag) != etag:
        return OK, body, {}
    size = len(body)
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return OK, body, {}
    else:
        start, stop = max(0, size - int(last)), size
    if start >= stop:
        return UNSATISFIABLE, b"", {"Content-Range": f"bytes */{size}"}
    return PARTIAL, body[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}


def _has(tags: str, etag: str) -> bool:
    given = (tag.strip().removeprefix("W/") for tag in tags.split(","))
    return any(tag in ("*", etag) for tag in given)


def takes_gzip(accept: str) -> bool:
    """Return whether a client with this Accept-Encoding takes gzip."""
    for item in accept.split(","):
        name, _, parameters = item.partition(";")
        if name.strip().lower() in ("gzip", "*"):
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
