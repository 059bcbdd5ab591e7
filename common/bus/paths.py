"""The ways over which a stream can be had: paths that bring it, siblings that can be asked."""

from collections.abc import Callable
from dataclasses import dataclass

from common.bus.link import Endpoints, Link
from common.bus.upstream import Upstream
from common.errors import AccessDenied
from common.wire.control import Control

SILENCE_US = 1_000_000
"""A path that has brought nothing about a stream for so long is not counted on."""


@dataclass(eq=False, slots=True)
class Path:
    """One stream's way over the link to one upstream."""

    upstream: Upstream
    link: Link
    added_us: int
    heard_us: int = 0
    """When it last brought something about the stream; 0 for never."""

    unwanted_us: int = 0

    @property
    def kind(self) -> str:
        """What the upstream is."""
        return self.upstream.kind

    @property
    def node(self) -> str:
        """The upstream's name."""
        return self.upstream.node

    def good(self, now: int) -> bool:
        """Return whether it brings the stream, or may be about to."""
        recent = now - max(self.heard_us, self.added_us) <= SILENCE_US
        return recent and self.link.alive(now)

    def send(self, message: Control) -> bool:
        """Ask the upstream something."""
        return self.link.send(message)


@dataclass(eq=False, slots=True)
class Sibling:
    """A node that publishes nothing to us; a link to it is made when it is first asked."""

    upstream: Upstream
    connect: Callable[[Endpoints], Link]

    @property
    def kind(self) -> str:
        """What it is."""
        return self.upstream.kind

    @property
    def node(self) -> str:
        """Its name."""
        return self.upstream.node

    def send(self, message: Control) -> bool:
        """Ask it something."""
        try:
            return self.connect(self.upstream.endpoints).send(message)
        except AccessDenied:
            return False
