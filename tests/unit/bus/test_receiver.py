"""The receiver against an origin's pages, without sockets and with a clock of our own."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from common.bus.answers import answer_pull, positions
from common.bus.pages import Pages
from common.bus.receiver import Receiver
from common.media.track import INDEX_TRACK
from common.track.board import Board
from common.track.catalog import Catalog
from common.track.limits import Limits
from common.track.record import Flag, Record
from common.track.store import StreamReader, StreamWriter
from common.wire.bucket import TokenBucket
from common.wire.control import Absent, Control, Gone, Join, Joined, Pull, Records
from common.wire.media import Item
from common.wire.messages import CatalogChange, Heartbeat, Media
from common.wire.repair import RepairLimits
from tests.harness.bus import AUDIO, GOP, VIDEO, Asked, Source, catalog, content

FRAME_US = 40_000


@dataclass
class Rig:
    """An origin's pages, an edge's receiver, and a wire that can be cut."""

    folder: Path
    known: Catalog = field(default_factory=catalog)
    now: int = 1_000_000
    cut: bool = False
    deaf: bool = False
    asked: list[Control] = field(default_factory=list)
    limits: RepairLimits = field(default_factory=RepairLimits)

    def __post_init__(self) -> None:
        self.source = Source(self.folder / "origin", self.known)
        self.pages = self.reader()
        self.receiver = self.start()

    def reader(self) -> StreamReader:
        return self.source.writer.reader()

    def start(self) -> Receiver:
        root = self.folder / "edge"
        made = Receiver(
            "live",
            Pages(root, Board.create(root), Limits()),
            TokenBucket(100_000_000, 4_000_000, self.now),
            limits=self.limits,
            wall_us=lambda: self.now,
        )
        made.sources.use([Asked(self.send)], [])
        return made

    def send(self, message: Control) -> bool:
        self.asked.append(message)
        return True

    def answer(self) -> None:
        """Let the origin answer what was asked, and what is asked in return."""
        while self.asked:
            question = self.asked.pop(0)
            if self.deaf:
                continue
            answer = self.reply(question)
            if answer is not None:
                self.receiver.deliver(answer, self.now)

    def reply(self, question: Control) -> Joined | Records | Gone | None:
        """Return what the origin answers."""
        if isinstance(question, Join):
            places = positions(self.pages, self.known)
            return Joined(question.id, "live", self.known, places)
        return (
            answer_pull(self.pages, question, self.known.term)
            if isinstance(question, Pull)
            else None
        )

    def publish(self, frames: int = 1, lose: bool = False) -> list[Item]:
        sent = []
        for _ in range(frames):
            items = self.source.next(self.now)
            sent += items
            self.now += FRAME_US
            if not (self.cut or lose):
                media = Media("live", self.known.epoch, self.known.term, items)
                self.receiver.deliver(media, self.now)
            self.receiver.tick(self.now)
            self.answer()
        return sent

    def heartbeat(self) -> None:
        writer = self.source.writer
        heads = {track: writer.head(track) for track in writer.tracks()}
        known = self.known
        beat = Heartbeat("live", known.epoch, known.term, known.version, heads, {})
        self.receiver.deliver(beat, self.now)
        self.answer()

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 20)):
            self.now += 50_000
            self.receiver.tick(self.now)
            self.answer()

    def held(self, track: int) -> dict[int, tuple[Record, bytes]]:
        reader = StreamReader.open(self.folder / "edge", "live", self.receiver.epoch)
        try:
            return content(reader, track)
        finally:
            reader.close()

    def assert_equal(self) -> None:
        for track in (INDEX_TRACK, VIDEO, AUDIO):
            assert self.held(track) == content(self.pages, track)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.receiver.close()
    made.pages.close()
    made.source.writer.close()


def test_an_edge_that_joins_late_gets_the_live_gop_first_and_then_the_window(rig: Rig) -> None:
    for _ in range(4 * GOP + 10):
        rig.source.next()
    rig.receiver.connected(rig.now)
    rig.answer()
    assert rig.receiver.state == "live"
    rig.run(1)
    rig.assert_equal()
    assert rig.receiver.tally.backfilled["owner"] > 0
    assert rig.receiver.tally.gaps == 0


def test_the_first_pulls_are_of_index_and_live_gop(rig: Rig) -> None:
    for _ in range(4 * GOP + 10):
        rig.source.next()
    rig.receiver.connected(rig.now)
    join = rig.asked.pop()
    assert isinstance(join, Join)
    rig.receiver.deliver(
        Joined(join.id, "live", rig.known, positions(rig.pages, rig.known)), rig.now
    )
    pulls = [question for question in rig.asked if isinstance(question, Pull)]
    assert [(p.track, p.first, p.newest_first) for p in pulls[:3]] == [
        (INDEX_TRACK, 0, False),
        (VIDEO, 4 * GOP, False),
        (AUDIO, positions(rig.pages, rig.known)[AUDIO].gop, False),
    ]
    past = [pull for pull in pulls if pull.newest_first]
    assert [(p.track, p.stop) for p in past] == [(VIDEO, 4 * GOP)]


def test_live_records_are_written_as_they_come(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.answer()
    rig.publish(60)
    rig.assert_equal()
    assert rig.receiver.tally.repaired.total() == 0
    assert rig.receiver.tally.delays


def test_a_hole_is_pulled_and_filled(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(30)
    rig.publish(10, lose=True)
    rig.publish(30)
    rig.assert_equal()
    assert rig.receiver.tally.gaps >= 1
    assert rig.receiver.tally.repaired["owner"] > 10
    assert not rig.receiver.tally.lost


def test_a_lost_tail_is_found_by_the_heartbeat(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(30)
    rig.publish(5, lose=True)
    rig.heartbeat()
    rig.assert_equal()


def test_duplicates_and_disorder_change_nothing(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(10)
    items = rig.publish(20, lose=True)
    for item in [*reversed(items), *items]:
        rig.receiver.deliver(Media("live", 1000, 2000, [item]), rig.now)
    rig.publish(5)
    rig.assert_equal()


def test_what_does_not_come_in_time_is_written_down_as_lost(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(30)
    rig.deaf = True
    missing = rig.publish(3, lose=True)
    rig.publish(95)
    assert rig.receiver.tally.lost.total() == 0
    rig.publish(20)
    held = rig.held(VIDEO)
    assert sorted(held) == list(range(148))
    lost = [seq for seq, (record, _) in held.items() if record.flags & Flag.LOST]
    assert lost == [30, 31, 32]
    assert rig.receiver.tally.lost["deadline"] == len(missing)


def test_a_lost_record_lies_between_its_neighbours(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(30)
    rig.deaf = True
    rig.publish(3, lose=True)
    rig.publish(120)
    reader = StreamReader.open(rig.folder / "edge", "live", 1000)
    records = reader.track(VIDEO).records(29, 34)
    dts = [record.dts for record in records]
    assert dts == sorted(set(dts))
    assert {record.segment for record in records[1:4]} == {records[0].segment}
    assert {record.size for record in records[1:4]} == {0}
    reader.close()


def test_a_damaged_payload_is_pulled_again(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(10)
    items = rig.publish(1, lose=True)
    bad = [item._replace(payload=bytes(len(item.payload))) for item in items]
    rig.receiver.deliver(Media("live", 1000, 2000, bad), rig.now)
    rig.publish(5)
    rig.assert_equal()
    assert rig.receiver.tally.dropped["damaged"] == len(items)


def test_messages_of_an_older_term_are_ignored(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(10)
    items = rig.publish(1, lose=True)
    rig.receiver.deliver(Media("live", 1000, 1999, items), rig.now)
    assert len(rig.held(VIDEO)) == 10
    assert rig.receiver.tally.dropped["fenced"] == 1


def test_a_newer_epoch_has_pages_of_its_own_and_the_old_ones_stay_a_while(
    rig: Rig, tmp_path: Path
) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(30)
    rig.known = replace(rig.known, epoch=1001, term=2001)
    rig.source = Source(tmp_path / "origin", rig.known)
    old, rig.pages = rig.pages, rig.reader()
    rig.publish(30)
    rig.assert_equal()
    assert rig.receiver.epoch == 1001
    assert StreamWriter.existing(tmp_path / "edge") == [("live", 1000), ("live", 1001)]
    rig.run(80)
    assert StreamWriter.existing(tmp_path / "edge") == [("live", 1001)]
    old.close()


def test_a_higher_term_of_the_same_epoch_goes_on(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(30)
    rig.known = replace(rig.known, term=2001)
    rig.publish(30)
    rig.assert_equal()
    assert rig.receiver.term == 2001


def test_a_successor_may_send_again_what_came_to_it_at_another_time(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.answer()
    rig.publish(10)
    again = rig.publish(5)
    rig.known = replace(rig.known, term=rig.known.term + 1)
    late = [item._replace(record=item.record._replace(capture_us=7, ingest_us=9)) for item in again]
    head = rig.receiver.shelf.heads()
    rig.receiver.deliver(Media("live", rig.known.epoch, rig.known.term, late), rig.now)
    assert rig.receiver.shelf.heads() == head
    before = rig.receiver.tally.dropped.copy()
    other = [item._replace(record=item.record._replace(crc32=0, part=99)) for item in again]
    rig.known = replace(rig.known, term=rig.known.term + 1)
    rig.receiver.deliver(Media("live", rig.known.epoch, rig.known.term, other), rig.now)
    assert rig.receiver.tally.dropped - before == {"restart": 1}
    assert "restart" not in before


def test_a_record_waits_until_the_catalog_knows_its_setup_bytes(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(5)
    item = rig.source.next(rig.now)[-1]
    changed = item._replace(record=item.record._replace(init=1))
    rig.deaf = True
    rig.receiver.deliver(Media("live", 1000, 2000, [changed]), rig.now)
    assert len(rig.held(VIDEO)) == 5
    video, audio = rig.known.tracks
    newer = rig.known.evolve(tracks=(replace(video, inits=(b"avcC", b"new")), audio))
    rig.receiver.deliver(CatalogChange("live", newer), rig.now)
    assert len(rig.held(VIDEO)) == 6


def test_a_restarted_worker_adopts_the_pages_and_goes_on(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(40)
    rig.receiver.close()
    rig.publish(1, lose=True)
    rig.receiver = rig.start()
    assert rig.receiver.adopt(1000, rig.now)
    assert rig.receiver.state == "live"
    rig.publish(20, lose=True)
    rig.receiver.connected(rig.now)
    rig.answer()
    rig.publish(10)
    rig.assert_equal()
    assert not rig.receiver.tally.lost


def test_an_edge_far_behind_goes_on_at_the_live_gop_and_fills_the_hole_afterwards(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, limits=RepairLimits(max_behind=50))
    rig.receiver.connected(rig.now)
    rig.publish(30)
    rig.receiver.close()
    for _ in range(200):
        rig.source.next(rig.now)
    rig.receiver = rig.start()
    rig.receiver.adopt(1000, rig.now)
    rig.receiver.connected(rig.now)
    join = rig.asked.pop()
    assert isinstance(join, Join)
    joined = Joined(join.id, "live", rig.known, positions(rig.pages, rig.known))
    rig.receiver.deliver(joined, rig.now)
    first = next(q for q in rig.asked if isinstance(q, Pull) and q.track == VIDEO)
    assert first.first == 225
    rig.answer()
    rig.run(2)
    rig.assert_equal()


def test_an_origin_that_lost_part_of_the_epoch_makes_the_edge_start_anew(
    rig: Rig, tmp_path: Path
) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(60)
    rig.source.writer.remove()
    rig.source = Source(tmp_path / "origin", replace(rig.known, term=2001), seed=2)
    rig.known = rig.source.catalog
    rig.pages = rig.reader()
    rig.publish(30)
    rig.run(1)
    rig.assert_equal()


def test_an_absent_stream_is_asked_for_again(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    join = rig.asked.pop()
    assert isinstance(join, Join)
    rig.receiver.deliver(Absent(join.id, "live"), rig.now)
    assert rig.receiver.state == "absent"
    rig.run(1)
    rig.publish(5)
    assert rig.receiver.state == "live"
    rig.assert_equal()


def test_a_wanted_segment_comes_before_the_rest_of_the_past(rig: Rig) -> None:
    for _ in range(8 * GOP):
        rig.source.next()
    rig.receiver.connected(rig.now)
    join = rig.asked.pop()
    assert isinstance(join, Join)
    joined = Joined(join.id, "live", rig.known, positions(rig.pages, rig.known))
    rig.receiver.deliver(joined, rig.now)
    index = next(q for q in rig.asked if isinstance(q, Pull) and q.track == INDEX_TRACK)
    rows = answer_pull(rig.pages, index, 2000)
    assert rows is not None
    rig.receiver.deliver(rows, rig.now)
    past = next(q for q in rig.asked if isinstance(q, Pull) and q.newest_first)
    for track in (VIDEO, AUDIO):
        rig.receiver.want_segment(track, 2, rig.now)
    rig.asked.clear()
    answer = answer_pull(rig.pages, past, 2000)
    assert answer is not None
    rig.receiver.deliver(answer, rig.now)
    wanted = [q for q in rig.asked if isinstance(q, Pull) and q.newest_first]
    assert [(q.track, q.first, q.stop) for q in wanted] == [
        (AUDIO, 94, 141)  # its video came with the pull that was under way
    ]
    rig.answer()
    rig.run(12)
    rig.assert_equal()


def test_a_wanted_segment_comes_although_the_rate_is_used_up(rig: Rig) -> None:
    for _ in range(8 * GOP):
        rig.source.next()
    bucket = rig.receiver._pulls._bucket = TokenBucket(1, 4_000_000, rig.now)
    rig.receiver.connected(rig.now)
    while not any(isinstance(q, Pull) and q.newest_first for q in rig.asked):
        answer = rig.reply(rig.asked.pop(0))
        assert answer is not None
        rig.receiver.deliver(answer, rig.now)
    under_way = [q for q in rig.asked if isinstance(q, Pull)]
    rig.asked.clear()
    bucket.charge(5_000_000)
    for late in [rig.reply(question) for question in under_way]:
        assert late is not None
        rig.receiver.deliver(late, rig.now)
    assert rig.asked == [], "no rate is left"
    rig.receiver.want_segment(AUDIO, 0, rig.now)
    assert [(q.track, q.first, q.stop) for q in rig.asked if isinstance(q, Pull)] == [
        (AUDIO, 0, 47)
    ]


def test_the_end_of_a_stream_is_told(rig: Rig) -> None:
    rig.receiver.connected(rig.now)
    rig.publish(10)
    rig.receiver.deliver(CatalogChange("live", rig.known.evolve(live=False)), rig.now)
    assert rig.receiver.state == "ended"


def test_what_leaves_the_window_is_evicted(tmp_path: Path) -> None:
    rig = Rig(tmp_path, known=replace(catalog(), window_us=5_000_000))
    rig.receiver.connected(rig.now)
    rig.publish(25 * 40)
    held = rig.held(VIDEO)
    assert max(held) == 999
    assert 25 * 10 < min(held) < 25 * 30
    rig.receiver.remove()
    assert StreamWriter.existing(tmp_path / "edge") == []
