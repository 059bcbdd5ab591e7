"""What an output is: the whole contract between a viewer process and a protocol.

One file in ``edge/outputs`` is one output. It says what it carries (:class:`Capability`), which
settings it has (``schema``, read from ``[edge.outputs.<file name>]``) and which URLs it answers.
Routes that several outputs share are told apart by the Upgrade header (``edge/http.py``).
"""

from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from aiohttp import web

from common.media.codec import Codec

if TYPE_CHECKING:
    from edge.config import EdgeSettings
    from edge.hub import Hub
    from edge.mirrors import Mirrors
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

    async def start(self) -> None:
        """Open what the output needs besides its routes."""

    async def close(self) -> None:
        """Give back what :meth:`start` opened."""
