"""Messages between a supervisor and its child: length-prefixed msgpack over a socketpair."""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgpack

from common.errors import ProtocolError

MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes of one message between supervisor and child. A longer one closes the channel, and the child
is started again."""

MAX_UNSENT = 64 * 1024 * 1024
"""Bytes that may wait for a peer that does not read. With more it counts as gone."""

MAX_UNREAD = 10_000
"""Messages received and not yet asked for. Then the peer has to wait."""

LEAVE_TIMEOUT = 1.0
"""Seconds that the peer may take to read what waits for it when this image of the program ends."""

_LENGTH = struct.Struct("<I")
_CHUNK = 256 * 1024


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new channel; give one to :class:`Channel`, the other to the child."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class Channel:
    """One end of the channel, in the running event loop.

    Iterate over it to receive; the iteration ends when the peer is gone.
    """

    def __init__(self, end: int | socket.socket, unread: bytes = b"") -> None:
        """Take over an end: a socket, or an inherited file descriptor.

        ``unread`` is what an earlier image of this program had read of an unfinished message.
        """
        self._socket = end if isinstance(end, socket.socket) else socket.socket(fileno=end)
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._received: deque[Any] = deque()
        self._unread = bytearray(unread)
        self._unsent = bytearray()
        self._news = asyncio.Event()
        self._paused = False
        self.closed = False
        self._loop.add_reader(self._socket, self._read)

    def send(self, message: Mapping[str, Any]) -> bool:
        """Send one message without waiting; return False if the peer is gone.

        Raises:
            ProtocolError: If the message is larger than ``MAX_MESSAGE``.
        """
        if self.closed:
            return False
        body = msgpack.packb(message)
        if len(body) > MAX_MESSAGE:
            raise ProtocolError(f"a control message of {len(body)} bytes is too large")
        waiting = bool(self._unsent)
        self._unsent += _LENGTH.pack(len(body)) + body
        if not waiting:
            self._write()
        if len(self._unsent) > MAX_UNSENT:
            self.close()
        return not self.closed

    def received(self) -> list[dict[str, Any]]:
        """Take all messages that have been received and not been asked for."""
        found = list(self._received)
        self._received.clear()
        return found

    def leave(self) -> tuple[int, bytes]:
        """Return the descriptor and what was read of an unfinished message: another image of this
        program goes on with both. What waits to be sent is sent before.

        Raises:
            OSError: If the peer is gone, or does not read.
        """
        self._socket.settimeout(LEAVE_TIMEOUT)
        self._socket.sendall(self._unsent)
        return self._socket.fileno(), bytes(self._unread)

    def close(self) -> None:
        """Close this end; what was received can still be read."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._news.set()

    def __aiter__(self) -> "Channel":
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self._received:
            if self.closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        message: dict[str, Any] = self._received.popleft()
        if self._paused and len(self._received) < MAX_UNREAD // 2 and not self.closed:
            self._paused = False
            self._loop.add_reader(self._socket, self._read)
        return message

    def _read(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._unread += data
        try:
            self._parse()
        except (ProtocolError, ValueError, msgpack.UnpackException):
            self.close()
        if len(self._received) > MAX_UNREAD and not self.closed:
            self._paused = True
            self._loop.remove_reader(self._socket)

    def _parse(self) -> None:
        position = 0
        while len(self._unread) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._unread, position)
            if length > MAX_MESSAGE:
                raise ProtocolError("a control message is too large")
            end = position + _LENGTH.size + length
            if len(self._unread) < end:
                break
            body = bytes(self._unread[position + _LENGTH.size : end])
            message = msgpack.unpackb(body, strict_map_key=False)
            if not isinstance(message, dict):
                raise ProtocolError("a control message is not a map")
            self._received.append(message)
            position = end
        if position:
            del self._unread[:position]
            self._news.set()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._socket, self._write)
        else:
            with contextlib.suppress(ValueError):
                self._loop.remove_writer(self._socket)
