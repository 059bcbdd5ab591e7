"""What an output is: the whole contract between a viewer process and a protocol.

One file in ``edge/outputs`` is one output. It says what it carries (:class:`Capability`), which
settings it has (``schema``, read from ``[edge.outputs.<file name>]``) and which URLs it answers.
Routes that several outputs share are told apart by the Upgrade header (``edge/http.py``).
"""

from abc import ABC
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from aiohttp import web

from common.errors import ConfigError
from common.media.codec import Codec
from common.runtime import loader
from common.runtime.plugins import discover
from edge import outputs

if TYPE_CHECKING:
    from edge.config import EdgeSettings
    from edge.hub import Hub
    from edge.mirrors import Mirrors
    from edge.moving import Mover
    from edge.published import Published
    from edge.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Capability:
    """What the player, the info document and the API need to know to choose an output."""

    description: str
    url: str
    """Where a viewer finds it, with ``{stream}``; empty: not offered to players."""

    type: str = ""
    """MistServer's name for it, such as ``html5/video/mp4`` or ``ws/video/mp4``."""

    mime: str = ""
    codecs: frozenset[Codec] = frozenset()
    priority: int = 0
    """The higher one is offered first."""

    upgrade: str = ""
    """``websocket``: its routes answer only requests that ask for this upgrade."""


class NoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For an output with nothing to set."""


@dataclass(slots=True)
class ViewerContext:
    """What a viewer process gives to each of its outputs."""

    mirrors: "Mirrors"
    sessions: "Sessions"
    hub: "Hub"
    mover: "Mover"
    settings: "EdgeSettings"
    node: str = "edge"
    outputs: "dict[str, Output]" = field(default_factory=dict)
    """Every output of the process by file name; complete once the process has started."""


class Output(ABC):
    """One way of serving viewers."""

    capability: ClassVar[Capability]
    schema: ClassVar[type[msgspec.Struct]] = NoSettings

    def __init__(self, context: ViewerContext, settings: Any = None) -> None:
        self.context = context
        self.settings = settings if settings is not None else self.schema()

    def routes(self) -> Iterable[web.RouteDef]:
        """Return the URLs this output answers."""
        return ()

    def published(self, target: str, gzip: bool) -> "Published | None":
        """Return what a GET for ``target`` is answered with, if that is known without waiting.

        ``target`` is what stands in the request line; ``gzip``: whether the client takes that. It
        must be what the handler would answer to somebody who watches already. None: ask that.
        """
        return None

    async def start(self) -> None:
        """Open what the output needs besides its routes."""

    async def close(self) -> None:
        """Give back what :meth:`start` opened."""


def configured(
    given: Mapping[str, Mapping[str, Any]],
) -> dict[str, tuple[type[Output], msgspec.Struct]]:
    """Return every output there is with its settings, by file name.

    ``given`` is ``[edge.outputs]`` of the configuration.

    Raises:
        ConfigError: If a setting, or an output that is given settings, does not exist.
    """
    found = discover(outputs, Output)
    for name in given:
        if name not in found:
            known = loader.suggestion(name, found)
            raise ConfigError(f"edge.outputs.{name}", f"no such output{known}")
    return {
        name: (cls, loader.build(cls.schema, given.get(name, {}), f"edge.outputs.{name}"))
        for name, cls in found.items()
    }
