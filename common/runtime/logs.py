"""Logging: one line per event, ``event key=value``, or JSON for machines.

An event is two to four lower-case words, never interpolated; what varies goes into ``extra``.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO

_SECRET = re.compile(r"(key|token|password|secret)=[^&\s]+", re.IGNORECASE)
_BEARER = re.compile(r"(Bearer) [^\s\"']+", re.IGNORECASE)
_PREFIX = re.compile(r"/~[^/\s?]+")
"""A token in front of a path."""

_NAMES = frozenset(("key", "token", "password", "secret", "authorization"))
_HIDDEN = "***"

BURST = 100
"""Times a second that the same event of the same logger is written. What is more is counted in the
next line."""
_PLAIN = re.compile(r"[^\s\"=]+")


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that carries context: ``Log("edge.hls", stream="live+alice")``."""

    def __init__(self, name: str, **context: object) -> None:
        super().__init__(logging.getLogger(name), context)
        self.context = context

    def bind(self, **more: object) -> "Log":
        """Return this logger with more context."""
        return Log(self.logger.name, **{**self.context, **more})

    @property
    def debugging(self) -> bool:
        """Whether debug events are shown: ask before building a costly one."""
        return self.logger.isEnabledFor(logging.DEBUG)

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[object, MutableMapping[str, Any]]:
        """Hand the context to the formatter."""
        more = kwargs.pop("extra", None) or {}
        kwargs["extra"] = {"context": {**self.context, **more}}
        return msg, kwargs


class Limited:
    """Say the same thing at most once every ``seconds``, and how often it was held back.

    One per cause: ``drops = Limited(log)`` and ``drops.warning("frame dropped", stream, extra)``
    where the second argument tells causes apart.
    """

    def __init__(
        self, log: Log, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._seconds = seconds
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def warning(
        self, event: str, cause: str = "", extra: Mapping[str, object] | None = None
    ) -> None:
        """Log a warning, unless the same was logged just now."""
        now = self._clock()
        last, held = self._said.get((event, cause), (-1e9, 0))
        if now - last < self._seconds:
            self._said[event, cause] = (last, held + 1)
            return
        if len(self._said) > 1000:
            self._said.clear()
        self._said[event, cause] = (now, 0)
        more = {**(extra or {}), **({"repeated": held} if held else {})}
        self._log.warning(event, extra=more)


class TextFormatter(logging.Formatter):
    """``12:00:01.250 INFO edge.hls session opened stream=live+alice``."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        clock = f"{self.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03d}"
        line = f"{clock} {record.levelname} {record.name} {words(record)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """The same, one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        entry = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": redact(record.getMessage()),
            **shown(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class Flood(logging.Filter):
    """Lets the same event of the same logger pass ``BURST`` times a second, and counts the rest."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._passed: dict[tuple[str, str], int] = {}
        self._held: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether an event is to be written."""
        if int(record.created) != self._second:
            self._second, self._passed = int(record.created), {}
        what = record.name, str(record.msg)
        self._passed[what] = self._passed.get(what, 0) + 1
        if self._passed[what] > BURST and record.levelno < logging.ERROR:
            self._held[what] = self._held.get(what, 0) + 1
            return False
        if held := self._held.pop(what, 0):
            record.context = {**getattr(record, "context", {}), "held": held}
        return True


def redact(text: str) -> str:
    """Return ``text`` without the values of keys and tokens."""
    text = _SECRET.sub(r"\1=***", text)
    return _PREFIX.sub("/~***", _BEARER.sub(r"\1 ***", text))


def shown(record: logging.LogRecord) -> dict[str, object]:
    """Return the values of an event, without secrets."""
    context: dict[str, object] = getattr(record, "context", {})
    return {k: _HIDDEN if k.lower() in _NAMES else _redacted(v) for k, v in context.items()}


def words(record: logging.LogRecord) -> str:
    """Return ``event key=value``, without secrets."""
    pairs = " ".join(f"{k}={_quote(v)}" for k, v in shown(record).items())
    return redact(f"{record.getMessage()} {pairs}".rstrip())


def configure(level: str = "info", style: str = "text", stream: TextIO | None = None) -> None:
    """Send all logs to ``stream`` (standard error).

    ``style`` is ``text``, ``json``, ``journal``, or ``auto``: what fits where the stream leads.
    """
    from common.runtime import journal  # which needs this module

    stream = stream or sys.stderr
    if style == "auto":
        style = "text" if stream.isatty() else "journal" if journal.connected(stream) else "json"
    handler: logging.Handler = logging.StreamHandler(stream)
    if style == "journal":
        handler = journal.JournalHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    handler.addFilter(Flood())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _quote(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _redacted(value: object) -> object:
    return redact(value) if isinstance(value, str) else value
