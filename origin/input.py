"""What an input is: one way for streams to come into an origin.

One file in ``origin/inputs`` is one protocol; dropping it in adds the protocol, deleting it
removes the protocol. Inputs know :class:`origin.streams.Streams` and nothing else of the origin.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from common.errors import TrackUnsupported
from origin.streams import Streams


class NoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of an input that has none."""


@dataclass(frozen=True, slots=True)
class InputContext:
    """What the node tells an input about itself."""

    node: str
    announce: Callable[[str, str], None]
    """Called with (endpoint name, URL) once the input listens, e.g.
    ``("rtmp", "rtmp://127.0.0.1:1935")``; the address is where it really listens (port 0!)."""


class Input(ABC):
    """One protocol through which streams come in.

    An input asks ``streams.publish`` for a publisher per stream and writes frames into it. It may
    listen (:meth:`run`), fetch (:meth:`pull`), or both.
    """

    description: ClassVar[str]
    """A few words for people, e.g. ``"RTMP publish"``."""

    schemes: ClassVar[tuple[str, ...]] = ()
    """Schemes of a stream's ``source`` that :meth:`pull` understands, e.g. ``("videogen",)``."""

    endpoint: ClassVar[str] = ""
    """The name it will announce an address under; the node is ready only after that."""

    schema: ClassVar[type[Any]] = NoSettings
    """Its own settings: a frozen msgspec Struct, read from ``[origin.inputs.<file name>]``. Its
    ``listen`` is taken from ``[origin] <endpoint>`` where such a setting exists."""

    def __init__(self, streams: Streams, settings: Any, context: InputContext) -> None:
        self.streams = streams
        self.settings = settings
        self.context = context

    @classmethod
    def check(cls, source: str) -> None:
        """Refuse a stream's ``source`` that :meth:`pull` could never fetch, however it is repeated.

        Called at start, with a source of one of :attr:`schemes`. What may come right by itself, as
        a file that is not there yet, is no reason.

        Raises:
            ConfigError: If it cannot be read.
        """

    @abstractmethod
    async def run(self) -> None:
        """Accept publishers until cancelled; return at once if the protocol only fetches."""

    async def pull(self, stream: str, source: str) -> None:
        """Fetch ``source`` and publish it as ``stream`` until it ends or the task is cancelled.

        The caller starts it again after an error, with a growing delay; a source that returns is
        over. Publish with ``key=None``: a source from
        the configuration needs no key.

        Raises:
            TrackUnsupported: If this input only listens.
            HeadwaterError: If the source cannot be had.
        """
        raise TrackUnsupported(f"{source}: {self.description} cannot fetch, it only listens")
