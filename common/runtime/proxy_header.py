"""Take the header of the PROXY protocol off a connection, before TLS or HTTP begin."""

import asyncio
import contextlib
import socket

from common.errors import FormatError
from common.formats.proxy_protocol import MAX_BODY, Header, Reader


async def read(connection: socket.socket, seconds: float) -> Header:
    """Return the header with which a connection begins, and take no byte more.

    Raises:
        FormatError: If there is none, or not within ``seconds``.
    """
    reader = Reader()
    try:
        async with asyncio.timeout(seconds):
            while reader.header is None:
                await _readable(connection)
                with contextlib.suppress(BlockingIOError, InterruptedError):
                    _take(connection, reader)
    except TimeoutError as error:
        raise FormatError("no PROXY header came in time") from error
    except OSError as error:
        raise FormatError(f"no PROXY header came: {error}") from error
    return reader.header


def _take(connection: socket.socket, reader: Reader) -> None:
    data = connection.recv(MAX_BODY, socket.MSG_PEEK)  # what follows belongs to TLS, or to HTTP
    if not data:
        raise FormatError("the connection ended before its PROXY header")
    connection.recv(reader.feed(data))


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def there() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection, there)
    try:
        await ready
    finally:
        loop.remove_reader(connection)
