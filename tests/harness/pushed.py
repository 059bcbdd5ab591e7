"""Viewers of push protocols, hundreds of them: what they get is looked at, not kept."""

import asyncio
import base64
import os
import re
from collections import Counter
from urllib.parse import urlsplit

from tests.harness.hlsjs import Lane, Refused

_MOVE = re.compile(rb'"type":"move","data":\{"url":"([^"]+)"')


class _Taken(asyncio.Protocol):
    """Takes everything until the end, or until the viewer is told to move."""

    def __init__(self) -> None:
        self.head = b""
        self.tail = b""
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if b"\r\n\r\n" not in self.head:
            self.head += data
        found = _MOVE.search(data) if b'"move"' in data else None
        if found is not None and not self.done.done():
            self.done.set_result(found[1].decode())
        self.tail = (self.tail + data)[-5:]
        if self.tail == b"0\r\n\r\n" and not self.done.done():
            self.done.set_result("ended")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result("broken")


async def _take(url: str, headers: str) -> tuple[int, str]:
    """Return the status and how it ended: a URL to go on at, ``ended`` or ``broken``."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}"
    host, port = parts.hostname or "", parts.port or 80
    transport, taken = await asyncio.get_running_loop().create_connection(_Taken, host, port)
    try:
        transport.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}\r\n".encode())
        end = await taken.done
        return int(taken.head[9:12] or 0), end
    finally:
        transport.close()


async def websocket(url: str, codes: Counter[str]) -> None:
    """Watch over a WebSocket and follow the message to move, as the player page does."""
    while True:
        key = base64.b64encode(os.urandom(16)).decode()
        headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        status, end = await _take(url, f"{headers}Sec-WebSocket-Key: {key}\r\n")
        codes["moved" if end.startswith("ws://") else f"{status} {end}"] += 1
        url = end if end.startswith("ws://") else url


async def progressive(url: str, retry: str, codes: Counter[str]) -> None:
    """Watch a progressive stream; what ends is asked for anew at ``retry``, a balancer."""
    while True:
        status, end = await _take(url, "")
        codes["ended" if (status, end) == (200, "ended") else f"{status} {end}"] += 1
        url = await _where(retry)


async def _where(url: str) -> str:
    """Return where a balancer sends a viewer."""
    lane = Lane("progressive")
    try:
        _, location = await lane.once(url)
    except (OSError, EOFError) as error:
        raise Refused(url) from error
    finally:
        lane.close()
    return location
