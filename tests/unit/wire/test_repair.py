from common.track.record import Flag, Record
from common.wire.control import Position
from common.wire.media import Item
from common.wire.repair import (
    LIVE,
    PULLED,
    Commit,
    Lost,
    Rejoin,
    RepairLimits,
    Skip,
    StreamRepair,
)

MS = 1000


def item(seq: int, size: int = 1, flags: int = 0, track: int = 1) -> Item:
    record = Record(seq, seq * 100, 0, 0, 0, 100, 0, 0, 0, size, 0, flags, 0)
    return Item(track, record, bytes(size))


def joined(head: int = 0, gop: int = 0, limits: RepairLimits | None = None) -> StreamRepair:
    repair = StreamRepair(limits or RepairLimits())
    repair.join({1: Position(0, gop, head)}, 0, {})
    assert repair.take() == [Skip(1, gop)]
    return repair


def seqs(repair: StreamRepair) -> list[int]:
    return [out.record.seq for out in repair.take() if isinstance(out, Commit | Lost)]


def test_records_leave_in_order() -> None:
    repair = joined()
    for seq in (0, 2, 3, 1, 1, 5, 4):
        repair.receive(item(seq), 0)
    assert seqs(repair) == [0, 1, 2, 3, 4, 5]


def test_nothing_leaves_before_the_join() -> None:
    repair = StreamRepair(RepairLimits())
    repair.receive(item(7), 0)
    assert repair.take() == []
    assert repair.requests(0) == []
    repair.join({1: Position(0, 5, 7)}, 0, {})
    assert repair.take() == [Skip(1, 5)]
    assert repair.requests(0) == [(1, 5, 7)]


def test_a_hole_is_asked_for_at_once_and_again_after_300_ms_then_600() -> None:
    repair = joined()
    repair.receive(item(0), 0)
    repair.receive(item(3), 10 * MS)
    asked = []
    for now in range(10 * MS, 2000 * MS, 10 * MS):
        for track, first, stop in repair.requests(now):
            repair.asked(track, first, stop, now)
            asked.append((now // MS, first, stop))
    assert asked == [(10, 1, 3), (310, 1, 3), (910, 1, 3)]


def test_with_a_second_path_a_hole_is_asked_for_after_the_skew() -> None:
    repair = joined(limits=RepairLimits(skew_us=20 * MS))
    repair.receive(item(1), 0)
    assert repair.requests(19 * MS) == []
    assert repair.requests(20 * MS) == [(1, 0, 1)]


def test_an_answer_that_is_cut_is_continued_at_once() -> None:
    repair = joined(head=10)
    repair.asked(1, 0, 10, 0)
    for seq in range(4):
        repair.receive(item(seq), 0, PULLED)
    repair.answered(1, 10)
    assert repair.requests(0) == [(1, 4, 10)]


def test_an_answer_that_brings_nothing_is_waited_out() -> None:
    repair = joined(head=10)
    repair.asked(1, 0, 10, 0)
    repair.answered(1, 10)
    assert repair.requests(299 * MS) == []
    assert repair.requests(300 * MS) == [(1, 0, 10)]


def test_holes_close_together_are_one_request() -> None:
    repair = joined()
    for seq in (0, 2, 4, 6, 30):
        repair.receive(item(seq), 0)
    assert repair.requests(0) == [(1, 1, 30)]
    repair = joined()
    for seq in (0, *range(2, 30), 31):
        repair.receive(item(seq), 0)
    assert repair.requests(0) == [(1, 1, 2)]


def test_a_record_is_waited_for_until_its_own_deadline() -> None:
    repair = joined(limits=RepairLimits(deadline_us=1000 * MS))
    repair.receive(item(1), 0)
    repair.receive(item(3), 500 * MS)
    repair.tick(999 * MS)
    assert repair.take() == []
    repair.tick(1000 * MS)
    out = repair.take()
    assert [
        (type(step), step.record.seq) for step in out if not isinstance(step, Skip | Rejoin)
    ] == [
        (Lost, 0),
        (Commit, 1),
    ]
    repair.tick(1499 * MS)
    assert repair.take() == []
    repair.tick(1500 * MS)
    assert seqs(repair) == [2, 3]


def test_pulls_that_bring_something_extend_the_wait() -> None:
    repair = joined(head=100, limits=RepairLimits(deadline_us=1000 * MS))
    for step in range(10):
        now = step * 900 * MS
        repair.receive(item(step), now, PULLED)
        repair.tick(now)
    assert seqs(repair) == list(range(10))
    repair.tick(8100 * MS + 1000 * MS)
    assert seqs(repair) == list(range(10, 100))


def test_what_has_been_given_up_does_not_extend_the_wait() -> None:
    repair = joined(limits=RepairLimits(deadline_us=1000 * MS))
    for seq in range(1, 200, 2):
        repair.receive(item(seq), 0)
    repair.tick(1000 * MS)
    assert seqs(repair) == list(range(200))


def test_nothing_is_lost_while_nobody_can_be_asked() -> None:
    repair = joined()
    repair.receive(item(1), 0)
    for now in range(0, 20_000 * MS, 50 * MS):
        repair.unreachable(now)
        repair.tick(now)
    assert seqs(repair) == []
    repair.tick(23_949 * MS)
    assert seqs(repair) == []
    repair.tick(23_950 * MS)
    assert seqs(repair) == [0, 1]


def test_a_heartbeat_shows_a_lost_tail() -> None:
    repair = joined()
    repair.receive(item(0), 0)
    repair.heads({1: 3}, 0)
    assert repair.requests(0) == [(1, 1, 3)]
    assert repair.gaps == 1
    repair.heads({1: 3}, 0)
    assert repair.gaps == 1


def test_a_track_that_began_after_the_join_starts_at_its_beginning() -> None:
    repair = joined()
    repair.receive(item(1, track=2), 0)
    assert repair.requests(0) == [(2, 0, 1)]


def test_what_the_sender_never_had_is_lost_at_once() -> None:
    repair = joined()
    repair.receive(item(0, 0, Flag.LOST), 0)
    assert repair.take() == [Lost(1, item(0, 0, Flag.LOST).record, "upstream")]


def test_what_the_sender_has_no_more_is_lost_at_once() -> None:
    repair = joined(head=10)
    repair.gone(1, 4)
    out = repair.take()
    assert [(step.record.seq, step.reason) for step in out if isinstance(step, Lost)] == [
        (seq, "gone") for seq in range(4)
    ]
    assert repair.requests(0) == [(1, 4, 10)]


def test_too_many_lost_records_are_not_written_down() -> None:
    repair = joined(head=1000, limits=RepairLimits(max_lost=10))
    repair.gone(1, 500)
    (step,) = repair.take()
    assert isinstance(step, Rejoin)
    assert not step.wipe


def test_who_is_far_behind_goes_on_at_the_live_gop_on_all_tracks() -> None:
    repair = StreamRepair(RepairLimits(max_behind=100), {1: 50, 2: 90})
    repair.join({1: Position(0, 200, 210), 2: Position(0, 150, 160)}, 0, {})
    assert repair.take() == [Skip(1, 200), Skip(2, 150)]
    assert repair.positions() == {1: 200, 2: 150}


def test_who_is_a_little_behind_misses_nothing() -> None:
    repair = StreamRepair(RepairLimits(), {1: 50})
    repair.join({1: Position(0, 200, 210)}, 0, {})
    assert repair.requests(0) == [(1, 50, 210)]


def test_a_sender_behind_what_we_had_when_we_asked_has_lost_the_epoch() -> None:
    repair = joined()
    repair.receive(item(0), 0)
    repair.receive(item(1), 0)
    repair.take()
    repair.join({1: Position(0, 0, 1)}, 0, {1: 1})
    assert repair.take() == []  # the answer is older than our last record, that is all
    repair.join({1: Position(0, 0, 1)}, 0, {1: 2})
    assert repair.take() == [Rejoin("track 1 went back", wipe=True)]


def test_what_waits_is_bounded_and_comes_again_by_pull() -> None:
    repair = joined(limits=RepairLimits(pending_bytes=3000))
    for seq in range(1, 10):
        repair.receive(item(seq, 1000), 0)
    repair.heads({1: 10}, 0)
    repair.receive(item(0), 0)
    assert seqs(repair) == [0, 1]
    pulled = []
    while runs := repair.requests(0):
        ((track, first, stop),) = runs
        repair.asked(track, first, stop, 0)
        for seq in range(first, min(stop, first + 3)):
            repair.receive(item(seq, 1000), 0, PULLED)
        repair.answered(track, stop)
        pulled += seqs(repair)
    assert pulled == list(range(2, 10))


def test_a_seq_out_of_all_proportion_is_ignored() -> None:
    repair = joined()
    repair.receive(item(2**40), 0, LIVE)
    assert repair.requests(10_000 * MS) == []
