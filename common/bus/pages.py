"""The page folder of a node that takes streams in from the bus."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.runtime.config import StreamSettings, stream_settings
from common.track.board import Board
from common.track.limits import Limits
from common.track.store import StreamWriter


@dataclass(slots=True)
class Pages:
    """The page folder of this node: opens its streams for writing."""

    root: Path
    board: Board
    limits: Limits
    streams: Mapping[str, StreamSettings] = field(default_factory=dict)

    def open(self, stream: str, epoch: int) -> StreamWriter:
        """Become the writer of one epoch of a stream."""
        limits = self.limits
        if (known := stream_settings(self.streams, stream)) is not None:
            limits = replace(limits, bytes_per_stream=known.bytes_max)
        return StreamWriter.open(self.root, stream, epoch, limits, board=self.board)
