"""A hub with one stream, and a format that writes down which frames a viewer got."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import MagicMock

from common.errors import FormatError
from common.media.codec import Codec
from common.media.track import Track
from common.track.reader import StreamReader
from edge.feed import Format, Item
from edge.hub import Hub, Viewer
from edge.mirrors import Mirror
from edge.selection import Selection
from edge.sessions import Session, Sessions
from tests.unit.edge.live import FakeTransport, LiveStream


class Ledger(Format):
    """Writes down which frames a viewer got: ``H(1=0,2=0)`` and ``1:17:...;``."""

    protocol = "ledger"
    codecs = frozenset({Codec.H264, Codec.AAC})

    def __init__(self) -> None:
        self.muxed = 0
        self.fail = False

    def header(self, tracks: Sequence[Track], inits: Mapping[int, int]) -> bytes:
        known = ",".join(f"{number}={init}" for number, init in sorted(inits.items()))
        return f"H({known})".encode()

    def change(self, tracks: Sequence[Track], inits: Mapping[int, int], dts_us: int) -> bytes:
        return self.header(tracks, inits).replace(b"H", b"C")

    def media(self, items: Sequence[Item], number: int) -> bytes:
        if self.fail:
            raise FormatError("time goes backwards")
        self.muxed += len(items)
        return b"".join(item.payload + b";" for item in items)


def got(transport: FakeTransport, track: int = 1) -> list[int]:
    """Return the seqs of a track in the order in which they came."""
    return [int(seq) for seq in re.findall(rb"(?<!\d)%d:(\d+):" % track, bytes(transport.taken))]


class Room:
    """A hub with one stream."""

    def __init__(self, root: Path, stream: LiveStream) -> None:
        self.stream = stream
        self.mirror = Mirror(stream.name, StreamReader.open(root, stream.name, 7), 7)
        self.sessions = Sessions()
        self.hub = Hub(self.sessions)
        self.form = Ledger()

    def join(self, selection: Selection | None = None) -> tuple[Viewer, FakeTransport]:
        transport = FakeTransport()
        request = MagicMock(remote="peer", headers={})
        session: Session = self.sessions.open(self.stream.name, "ledger", request)
        choice = selection or Selection()
        return self.hub.join(self.mirror, choice, self.form, transport, session), transport

    def wake(self) -> None:
        self.mirror.advance()
