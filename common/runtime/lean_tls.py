"""TLS on asyncio and on uvloop, in a sixth of the memory that they take for it, or less.

asyncio gives each TLS connection a read buffer of 256 kB, and both encrypt all that is written to
one at once into a buffer of OpenSSL's that never gets smaller: a connection that rests after a
segment of 1 MB holds 1.3 MB, with uvloop 0.5 MB after one of 230 kB. Here all connections read into
one buffer, and what is written stays shared plaintext until the socket takes it; it is encrypted in
pieces.

Uses what is not public in :mod:`asyncio.sslproto`; a test says so if a version of Python differs.
"""

import asyncio
import socket
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import Any

RECORD = 16 * 1024
"""Bytes that are encrypted at a time: the most that fits into a record of TLS."""

BATCH = 256 * 1024
"""Bytes that are encrypted before the socket is offered them: one system call for many records."""

_READ = bytearray(256 * 1024)
"""What comes from a socket is copied out of here before another socket is read."""


class LeanProtocol(sslproto.SSLProtocol):
    """One server-side connection."""

    max_size = RECORD
    _outgoing: ssl.MemoryBIO
    _process_outgoing: Callable[[], None]
    _ssl_writing_paused: bool
    _sslobj: ssl.SSLObject
    _transport: Any
    _write_backlog: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ssl_buffer = _READ
        self._ssl_buffer_view = memoryview(_READ)

    def resume_writing(self) -> None:
        """Go on with what waits, now that the socket takes more."""
        super().resume_writing()
        if self._write_backlog:
            self._do_write()

    def _do_write(self) -> None:
        """Encrypt and send what waits, for as long as the socket takes it."""
        try:
            while self._write_backlog and not self._ssl_writing_paused:
                batch = self._encrypt()
                if batch:
                    self._transport.writelines(batch)
        except sslproto.SSLAgainErrors:  # the peer has to say something first
            pass
        self._process_outgoing()

    def _encrypt(self) -> list[bytes]:
        """Return the next records; the plaintext of which is done with."""
        batch, room = [], BATCH
        while self._write_backlog and room > 0:
            data = self._write_backlog[0]
            count = self._sslobj.write(data if len(data) <= RECORD else memoryview(data)[:RECORD])
            if count < len(data):
                self._write_backlog[0] = memoryview(data)[count:]
            else:
                del self._write_backlog[0]
            self._write_buffer_size -= count
            room -= count
            batch.append(self._outgoing.read())
        return batch


async def accept(
    loop: asyncio.AbstractEventLoop,
    app: asyncio.BaseProtocol,
    sock: socket.socket,
    context: ssl.SSLContext,
    handshake: float,
    shutdown: float,
) -> None:
    """Serve ``app`` over TLS on an accepted socket; return when the handshake is done.

    ``handshake`` and ``shutdown``: seconds that beginning and ending may take.

    Raises:
        OSError: If the handshake fails (``ssl.SSLError`` is one) or takes too long.
    """
    shaken = loop.create_future()
    protocol = LeanProtocol(
        loop,
        app,
        context,
        shaken,
        server_side=True,
        ssl_handshake_timeout=handshake,
        ssl_shutdown_timeout=shutdown,
    )
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock)
    try:
        await shaken
    except BaseException:
        transport.abort()
        raise
