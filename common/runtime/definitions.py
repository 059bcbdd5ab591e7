"""The streams of a node: those of its file, and those that the registry defines for all nodes.

Where both define a stream the file holds, as a whole: what is set on a machine is changed there.
A definition in the registry reaches running nodes within a second.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from common.errors import ConfigError, HeadwaterError
from common.runtime.config import Settings, StreamSettings, build, dump, load
from common.runtime.logs import Log
from common.runtime.registry import Registry

POLL = 0.5
"""Seconds between two looks at what the registry knows; it answers from memory."""

MAX_DEFINITIONS = 20_000
"""Streams that the registry may define. Those listed after them are ignored."""

log = Log("definitions")


class Definitions(Mapping[str, StreamSettings]):
    """The settings of streams by name; its content follows the registry."""

    def __init__(self, file: Mapping[str, StreamSettings]) -> None:
        """``file`` holds the streams of the configuration file."""
        self._file = dict(file)
        self._written: Mapping[str, Mapping[str, Any]] = {}
        self._read: dict[str, StreamSettings] = {}
        self._all = dict(file)

    def __getitem__(self, name: str) -> StreamSettings:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def take(self, written: Mapping[str, Mapping[str, Any]]) -> bool:
        """Take in what the registry defines; return whether anything has changed.

        A definition that is no good leaves out its stream, not the others.
        """
        if written == self._written:
            return False
        self._written = dict(written)
        self._read = {}
        for name, tree in list(written.items())[:MAX_DEFINITIONS]:
            try:
                self._read[name] = checked(name, tree)
            except ConfigError as error:
                log.warning("definition not used", extra={"error": str(error)})
        return self._combine()

    def reload(self, file: Mapping[str, StreamSettings]) -> bool:
        """Take in another file; return whether anything has changed."""
        self._file = dict(file)
        return self._combine()

    def _combine(self) -> bool:
        before, self._all = self._all, {**self._read, **self._file}
        return before != self._all

    async def begin(self, registry: Registry) -> bool:
        """Take in what the registry defines before anything is served; return whether that is news.

        Else a stream that only some nodes may have would be everybody's for a moment.
        """
        try:
            return self.take(await registry.definitions())
        except HeadwaterError as error:
            log.warning("definitions not read", extra={"error": str(error)})
            return False

    async def follow(
        self, registry: Registry, changed: Callable[[], object] = lambda: None
    ) -> None:
        """Keep up with the registry until cancelled; ``changed`` is called after each change."""
        while True:
            try:
                if self.take(await registry.definitions()):
                    log.info("definitions changed", extra={"streams": len(self)})
                    changed()
            except HeadwaterError as error:
                log.warning("definitions not read", extra={"error": str(error)})
            await asyncio.sleep(POLL)


def checked(name: str, tree: Mapping[str, Any]) -> StreamSettings:
    """Return the settings of a definition.

    Raises:
        ConfigError: If one is unknown, has a wrong value, or may not stand in the registry.
    """
    settings: StreamSettings = build(StreamSettings, dict(tree), f"streams.{name}")
    if settings.source:
        # Else whoever may write into the registry could have any origin read its files.
        reason = "a source stands in the file of the origin that is to fetch it"
        raise ConfigError(f"streams.{name}.source", reason)
    return settings


class _One(Settings, frozen=True):
    streams: dict[str, StreamSettings] = msgspec.field(default_factory=dict)


def parse(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return the definition that ``key=value`` words of the command line make.

    Raises:
        ConfigError: If a word is none, or a setting is unknown or has a wrong value.
    """
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"streams.{name}", f"{pair!r} is not of the form setting=value")
        given[key] = text
    made = load(_One, None, {f"streams.{name}.{key}": text for key, text in given.items()})
    settings = made.streams.get(name, StreamSettings())
    tree = {key: dump(settings)[key] for key in given}
    checked(name, tree)
    return tree
