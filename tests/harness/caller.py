"""A client of HTTP/1.1 that costs little: a thousand requests a second beside what is measured.

It is strict: whatever else than a whole answer is an error. Only a request on a connection that was
kept, and that the server closed before the first byte of an answer, is sent again, once, as every
client does (RFC 9112 9.3.1); how many there were is counted.
"""

import asyncio
import re
from types import TracebackType
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
_LAST = re.compile(rb"\r\nconnection: *close", re.I)


class Line(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self.open = True
        self.used = False
        """Whether a request has been answered on it."""

        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._begin(whole=False)

    @property
    def head(self) -> bytes:
        """The status line and the fields of the last answer."""
        return self._head

    @property
    def begun(self) -> bool:
        """Whether anything of the answer has come."""
        return bool(self._head) or self._left is not None

    def _begin(self, whole: bool) -> None:
        self._whole = whole
        self._head = b""
        self._body: list[bytes] = []
        self._status = 0
        self._last = False
        self._left: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of where to write."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self, request: bytes, whole: bool) -> tuple[int, bytes]:
        """Return the status and the body; of one that is not wanted ``whole``, nothing.

        Raises:
            OSError, EOFError: If the connection ends before the answer does.
        """
        assert self._transport is not None
        self._begin(whole)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        answer = await self._answer
        self.used = True
        return answer

    def data_received(self, data: bytes) -> None:
        """Read on, and stop at the end of the answer."""
        if self._left is None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            length = _LENGTH.search(head)
            self._status = int(head[9:12])
            self._whole |= self._status >= 400
            self._left = int(length[1]) if length else 0
            self._last = _LAST.search(head) is not None
        self._left -= len(data)
        if self._whole:
            self._body.append(data)
        if self._left <= 0 and self._answer is not None and not self._answer.done():
            if self._last:
                self.close()
            self._answer.set_result((self._status, b"".join(self._body)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to who waits for an answer."""
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or EOFError("closed before the end of an answer"))

    def close(self) -> None:
        """Let go of it."""
        self.open = False
        if self._transport is not None:
            self._transport.close()


class Caller:
    """One client: a connection to each host, kept for the next request or not."""

    def __init__(self, agent: str, keep: bool = True) -> None:
        self.again = 0
        """Requests that were sent a second time."""

        self.head = b""
        """The status line and the fields of the last answer."""

        last = "" if keep else "Connection: close\r\n"
        self._rest = f"User-Agent: {agent}\r\n{last}\r\n"
        self._lines: dict[str, Line] = {}

    async def get(self, url: str, whole: bool = True) -> tuple[int, bytes]:
        """Return the status and the body of an answer; a redirect is not followed.

        Raises:
            OSError, EOFError: If there is none.
        """
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{self._rest}".encode()
        line = self._lines.pop(parts.netloc, None)
        if line is None or not line.open:
            line = await self._dial(parts.hostname or "", parts.port or 80)
        try:
            answer = await line.ask(request, whole)
        except (OSError, EOFError):
            if not line.used or line.begun:
                raise
            self.again += 1
            line = await self._dial(parts.hostname or "", parts.port or 80)
            answer = await line.ask(request, whole)
        except BaseException:
            line.close()
            raise
        self.head = line.head
        if line.open:
            self._lines[parts.netloc] = line
        return answer

    async def _dial(self, host: str, port: int) -> Line:
        return (await asyncio.get_running_loop().create_connection(Line, host, port))[1]

    def __enter__(self) -> "Caller":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for line in self._lines.values():
            line.close()
        self._lines.clear()
