"""One viewer of a push output: its transport, and what it is to get next."""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from edge.flow import Flow
from edge.sessions import Session

if TYPE_CHECKING:
    from edge.hub import Fan


class Phase(Enum):
    """What a viewer gets from a flush."""

    PENDING = "pending"
    """Everything from the next keyframe on, the header first."""

    SKIPPING = "skipping"
    """Everything from the next keyframe on: it was too slow."""

    LIVE = "live"
    HELD = "held"
    """Nothing, by its own wish."""

    LEAVING = "leaving"
    """Everything up to the next keyframe, and that is the end."""

    GONE = "gone"


class Viewer:
    """One transport that a feed writes to."""

    __slots__ = (
        "done",
        "fan",
        "flow",
        "inits",
        "on_move",
        "phase",
        "reason",
        "session",
        "transport",
    )

    def __init__(self, transport: asyncio.Transport, session: Session, flow: Flow) -> None:
        self.transport = transport
        self.session = session
        self.flow = flow
        self.fan: Fan
        self.phase = Phase.PENDING
        self.inits: dict[int, int] = {}
        """Setup bytes that it has, by track."""

        self.reason = ""
        """Why it ended."""

        self.on_move: Callable[[str], None] | None = None
        """Tells the viewer to go on at the edge with this URL; None: it would not understand."""

        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Set to the reason when nothing more will be written; cancelled with its handler."""

    def write(self, data: bytes) -> None:
        """Write shared bytes; they are never copied here."""
        self.transport.write(data)
        self.flow.written += len(data)
        self.session.bytes += len(data)

    def finish(self, reason: str) -> None:
        """End the viewer; its handler goes on."""
        if self.phase is not Phase.GONE:
            self.phase, self.reason = Phase.GONE, reason
        if not self.done.done():
            self.done.set_result(reason)
