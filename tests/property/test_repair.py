"""Whatever the network does, the edge's pages equal the origin's, or say what was lost.

Origin and edge are the real ones, with pages on disk; network and clock are made up. Messages of
the bus and of the control connection are lost, doubled, held back and cut off altogether.
"""

import heapq
import itertools
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from common.bus.answers import answer_pull, positions
from common.bus.pages import Pages
from common.bus.receiver import Message, Receiver
from common.media.track import INDEX_TRACK
from common.track.board import Board
from common.track.limits import Limits
from common.track.record import Flag
from common.track.store import StreamReader
from common.wire.bucket import TokenBucket
from common.wire.control import Control, Join, Joined, Pull, decode_control, encode_control
from common.wire.media import Item
from common.wire.messages import Heartbeat, Media
from common.wire.repair import RepairLimits
from tests.harness.bus import AUDIO, VIDEO, Asked, Source, catalog, content

FRAME_US = 40_000
MS = 1000


@dataclass(frozen=True)
class Faults:
    """What the network does to messages, while it is not well."""

    seed: int
    loss: float
    double: float
    delay_ms: int
    control_loss: float
    cuts: tuple[tuple[int, int], ...]
    """Frames (first, count) during which nothing gets through."""

    kill: int
    """Frame at which the worker dies and its successor adopts the pages; 0 for never."""


FAULTS = st.builds(
    Faults,
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0, 0.02, 0.3]),
    double=st.sampled_from([0, 0.2]),
    delay_ms=st.sampled_from([0, 10, 200, 900]),
    control_loss=st.sampled_from([0, 0.1, 0.5]),
    cuts=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 60)), max_size=2).map(tuple),
    kill=st.sampled_from([0, 0, 40, 110]),
)


class World:
    """A fake network between a real origin's pages and a real receiver."""

    def __init__(self, folder: Path, faults: Faults, deadline_us: int, *, deaf: bool) -> None:
        self.now = 1_000_000
        self.known = catalog()
        self.source = Source(folder / "origin", self.known, size=300, seed=faults.seed)
        self.pages = self.source.writer.reader()
        self.faults = faults
        self.deaf = deaf
        self.well = False
        self.cut = False
        self.limits = RepairLimits(deadline_us=deadline_us, pending_bytes=60_000)
        self._folder = folder / "edge"
        self._random = random.Random(faults.seed)
        self._queue: list[tuple[int, int, bool, object]] = []
        self._order = itertools.count()
        self.lost = 0
        self.receiver = self.start()

    def start(self) -> Receiver:
        made = Receiver(
            "live",
            Pages(self._folder, Board.create(self._folder), Limits()),
            TokenBucket(20_000_000, 1_000_000, self.now),
            limits=self.limits,
            wall_us=lambda: self.now,
        )
        made.sources.use([Asked(self.ask)], [])
        return made

    def restart(self) -> None:
        self.lost += self.receiver.tally.lost.total()
        started = self.receiver.shelf.started
        self.receiver.close()
        self.receiver = self.start()
        if started:
            assert self.receiver.adopt(self.known.epoch, self.now)
        self.receiver.connected(self.now)

    def put(self, message: object, to_edge: bool, loss: float) -> None:
        chance, faults = self._random.random, self.faults
        if not self.well and (self.cut or chance() < loss):
            return
        copies = 2 if not self.well and chance() < faults.double else 1
        for _ in range(copies):
            delay = 0 if self.well else self._random.randint(0, faults.delay_ms * MS)
            entry = (self.now + 1000 + delay, next(self._order), to_edge, message)
            heapq.heappush(self._queue, entry)

    def ask(self, message: Control) -> bool:
        if not self.deaf:
            wired = decode_control(encode_control(message))
            self.put(wired, to_edge=False, loss=self.faults.control_loss)
        return True

    def answer(self, question: object) -> None:
        answer: Control | None = None
        if isinstance(question, Join):
            places = positions(self.pages, self.known)
            answer = Joined(question.id, "live", self.known, places)
        elif isinstance(question, Pull):
            answer = answer_pull(self.pages, question, self.known.term)
        if answer is not None:
            wired = decode_control(encode_control(answer))
            self.put(wired, to_edge=True, loss=self.faults.control_loss)

    def advance(self, until: int) -> None:
        while self._queue and self._queue[0][0] <= until:
            self.now, _, to_edge, message = heapq.heappop(self._queue)
            if to_edge:
                delivered: Message = message  # type: ignore[assignment]
                self.receiver.deliver(delivered, self.now)
            else:
                self.answer(message)
        self.now = until
        self.receiver.tick(self.now)

    def publish(self, items: list[Item]) -> None:
        media = Media("live", self.known.epoch, self.known.term, items)
        self.put(media, to_edge=True, loss=self.faults.loss)
        if self.source.frame % 6 == 0:
            self.beat()

    def beat(self) -> None:
        writer, known = self.source.writer, self.known
        heads = {track: writer.head(track) for track in writer.tracks()}
        beat = Heartbeat("live", known.epoch, known.term, known.version, heads, {})
        self.put(beat, to_edge=True, loss=self.faults.loss)

    def run(self, frames: int, heal_seconds: int) -> None:
        self.receiver.connected(self.now)
        for number in range(frames):
            self.cut = any(a <= number < a + count for a, count in self.faults.cuts)
            if number and number == self.faults.kill:
                self.restart()
            self.publish(self.source.next(self.now))
            self.advance(self.now + FRAME_US)
        self.well = True
        self.deaf = False
        self.receiver.connected(self.now)
        for _ in range(heal_seconds * 4):
            self.beat()
            self.advance(self.now + 250 * MS)

    def close(self) -> None:
        self.receiver.close()
        self.pages.close()
        self.source.writer.close()

    def compare(self) -> int:
        """Compare both sides; return how many records the edge says it has lost."""
        self.lost += self.receiver.tally.lost.total()
        ours = StreamReader.open(self._folder, "live", self.known.epoch)
        lost = 0
        for track in (INDEX_TRACK, VIDEO, AUDIO):
            sent, held = content(self.pages, track), content(ours, track)
            assert sorted(held) == list(range(len(sent)))
            for seq, (record, payload) in held.items():
                if record.flags & Flag.LOST:
                    assert (record.size, payload) == (0, b"")
                    lost += 1
                else:
                    assert (record, payload) == sent[seq]
            times = [record.dts for record, _ in held.values()]
            assert times == sorted(times)
        ours.close()
        return lost


@given(FAULTS)
def test_while_a_path_heals_in_time_nothing_is_lost(faults: Faults) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        world = World(Path(folder), faults, deadline_us=60_000_000, deaf=False)
        world.run(160, heal_seconds=8)
        assert world.compare() == 0
        assert world.lost == 0
        world.close()


@given(FAULTS)
def test_what_is_lost_is_written_down_and_counted(faults: Faults) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        world = World(Path(folder), faults, deadline_us=400_000, deaf=True)
        world.deaf = False
        world.run(20, heal_seconds=2)
        world.well, world.deaf = False, True  # from now on nobody answers
        for _ in range(100):
            world.publish(world.source.next(world.now))
            world.advance(world.now + FRAME_US)
        world.well = True
        for _ in range(12):
            world.beat()
            world.advance(world.now + 250 * MS)
        assert world.compare() == world.lost
        world.close()
