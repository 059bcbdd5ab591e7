"""Logs for journald in its own protocol, so that each value is a field to search for.

``journalctl HEADWATER_STREAM=live``. See systemd's "Native Journal Protocol".
"""

import logging
import os
import socket
import struct
import sys
from typing import TextIO

from common.runtime.logs import redact, shown, words

SOCKET = "/run/systemd/journal/socket"

PREFIX = "HEADWATER_"

PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}

MAX_FIELDS = 64
"""Fields of a journal entry. Those after them are left out."""

MAX_ENTRY = 128 * 1024
"""Bytes of one journal entry; a datagram of this size passes everywhere. A longer one is cut."""


class JournalHandler(logging.Handler):
    """Sends events to journald; what it does not take goes to standard error."""

    def __init__(self, path: str = SOCKET) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one event."""
        text = words(record)
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        try:
            self._socket.sendto(entry(record, text), self._path)
        except OSError:
            sys.stderr.write(text + "\n")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def entry(record: logging.LogRecord, text: str) -> bytes:
    """Return an event as journald takes it; ``text`` is the line without secrets."""
    level = max((one for one in PRIORITY if one <= record.levelno), default=logging.DEBUG)
    fields = {
        "MESSAGE": text,
        "PRIORITY": str(PRIORITY[level]),
        "SYSLOG_IDENTIFIER": "headwater",
        f"{PREFIX}LOGGER": record.name,
        f"{PREFIX}EVENT": redact(record.getMessage()),
    }
    for key, value in list(shown(record).items())[:MAX_FIELDS]:
        name = "".join(c if c.isascii() and c.isalnum() else "_" for c in key.upper())
        fields[PREFIX + name] = str(value)
    return b"".join(field(name, value) for name, value in fields.items())[:MAX_ENTRY]


def field(name: str, value: str) -> bytes:
    """Return one field; a value of several lines has its length in front of it."""
    data = value.encode("utf-8", "replace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def connected(stream: TextIO) -> bool:
    """Return whether a stream leads to journald (``JOURNAL_STREAM``, systemd.exec(5))."""
    given = os.environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return given == f"{found.st_dev}:{found.st_ino}" and os.path.exists(SOCKET)
