"""Two paths bring one stream, in any interleaving and with losses: each record is written once."""

import random
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from common.bus.answers import positions
from common.bus.pages import Pages
from common.bus.receiver import Receiver
from common.media.track import INDEX_TRACK
from common.track.board import Board
from common.track.limits import Limits
from common.wire.bucket import TokenBucket
from common.wire.control import Control, Join, Joined, Pull
from common.wire.messages import Media, decode_bus, encode_media
from common.wire.repair import RepairLimits
from tests.harness.bus import AUDIO, VIDEO, Asked, Source, catalog, content

FRAME_US = 40_000
FRAMES = 60

FATES = st.lists(
    st.tuples(
        st.sampled_from(["both", "both", "first", "second"]),
        st.integers(0, 400_000),
        st.integers(0, 400_000),
    ),
    min_size=FRAMES,
    max_size=FRAMES,
)
"""For each message: which path brings it, and how late each of them is, in microseconds."""


class World:
    """An origin's pages and an edge's receiver with two paths; nothing can be pulled."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_000_000
        self.known = catalog()
        self.source = Source(folder / "origin", self.known, size=300)
        self.pages = self.source.writer.reader()
        self.pulls = 0
        self.passed: list[list[bytes]] = []
        self.late: list[tuple[int, int]] = []
        root = folder / "edge"
        self.receiver = Receiver(
            "live",
            Pages(root, Board.create(root), Limits()),
            TokenBucket(20_000_000, 1_000_000, self.now),
            limits=RepairLimits(),
            wall_us=lambda: self.now,
            pass_on=self._pass_on,
        )
        paths = [Asked(self.ask, "relay", name) for name in ("first", "second")]
        self.receiver.sources.use(paths, [])
        self.receiver.connected(self.now)

    def _pass_on(self, stream: str, epoch: int, term: int, items: list) -> None:  # type: ignore[type-arg]
        self.passed.append(encode_media(stream, epoch, term, items))

    def ask(self, message: Control) -> bool:
        if isinstance(message, Join):
            answer = Joined(message.id, "live", self.known, positions(self.pages, self.known))
            self.receiver.deliver(answer, self.now)
        elif isinstance(message, Pull):
            self.pulls += 1
        return True

    def bring(self, frames: list[bytes]) -> None:
        message = decode_bus(frames)
        assert isinstance(message, Media)
        if self.receiver.deliver(message, self.now):
            self.passed.append(frames)

    def close(self) -> None:
        self.receiver.close()
        self.pages.close()
        self.source.writer.close()


@given(FATES, st.integers(0, 2**32))
def test_what_either_path_brings_is_written_once_and_in_order(
    fates: list[tuple[str, int, int]], seed: int
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        world = World(folder)
        due: list[tuple[int, int, list[bytes]]] = []
        for number, (who, first, second) in enumerate(fates):
            frames = encode_media("live", 1000, 2000, world.source.next(world.now))
            sent = world.now + number * FRAME_US
            due += [(sent + first, 0, frames)] if who != "second" else []
            due += [(sent + second, 1, frames)] if who != "first" else []
        random.Random(seed).shuffle(due)
        for at, _, frames in sorted(due, key=lambda entry: entry[0]):
            world.now = max(world.now, at)
            world.bring(frames)
            world.receiver.tick(world.now)
        check(world, folder)


def check(world: World, folder: Path) -> None:
    reader = world.receiver.shelf.pages()
    assert reader is not None
    for track in (INDEX_TRACK, VIDEO, AUDIO):
        assert content(reader, track) == content(world.pages, track)
    assert world.receiver.tally.lost.total() == 0
    passed: dict[tuple[int, int], bytes] = {}
    for frames in world.passed:
        message = decode_bus(frames)
        assert isinstance(message, Media)
        for item in message.items:
            place = (item.track, item.record.seq)
            assert place not in passed, "a relay would have passed a record on twice"
            passed[place] = item.payload
    assert len(passed) == sum(
        len(content(world.pages, track)) for track in (INDEX_TRACK, VIDEO, AUDIO)
    )
    world.close()
