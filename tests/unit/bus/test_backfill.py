from common.bus.backfill import RETRY_US, Backfill, Run
from common.track.record import Record

SECOND = 1_000_000


def records(first: int, stop: int, ticks: int = SECOND) -> list[Record]:
    """Records that last one second each."""
    return [
        Record(seq, seq * ticks, 0, 0, 0, ticks, 0, 0, 0, 0, 0, 0, 0) for seq in range(first, stop)
    ]


def drain(fill: Backfill, size: int, since_us: int = 0) -> list[Run]:
    """Answer every pull with the newest ``size`` records of it."""
    asked = []
    while run := fill.request(0, since_us):
        fill.asked(run, 0)
        asked.append(run)
        assert fill.answered(run, records(max(run.first, run.stop - size), run.stop))
    return asked


def test_the_past_comes_newest_first_and_all_tracks_down_together() -> None:
    fill = Backfill()
    fill.start(1, 20, 0, SECOND)
    fill.start(2, 20, 0, SECOND)
    asked = drain(fill, 5)
    assert [(run.track, run.stop) for run in asked] == [
        (1, 20), (2, 20), (1, 15), (2, 15), (1, 10), (2, 10), (1, 5), (2, 5),
    ]  # fmt: skip
    assert not fill.busy


def test_one_pull_is_under_way_and_repeated_if_nothing_comes() -> None:
    fill = Backfill()
    fill.start(1, 20, 0, SECOND)
    run = fill.request(0, 0)
    assert run == Run(1, 0, 20)
    fill.asked(run, 0)
    assert fill.request(RETRY_US - 1, 0) is None
    assert fill.request(RETRY_US, 0) == run
    fill.asked(run, RETRY_US)
    assert fill.request(2 * RETRY_US, 0) is None
    assert fill.request(3 * RETRY_US, 0) == run
    fill.asked(run, 3 * RETRY_US)
    fill.retry()
    assert fill.request(3 * RETRY_US, 0) == run


def test_what_is_held_is_not_fetched() -> None:
    fill = Backfill()
    fill.start(1, 20, 0, SECOND, held=[(3, 8), (15, 40)])
    assert drain(fill, 100) == [Run(1, 8, 15), Run(1, 0, 3)]


def test_nothing_older_than_the_window_is_fetched() -> None:
    fill = Backfill()
    fill.start(1, 100, 0, SECOND)
    asked = drain(fill, 10, since_us=62 * SECOND)
    assert [run.stop for run in asked] == [100, 90, 80, 70]


def test_a_wanted_run_comes_first() -> None:
    fill = Backfill()
    fill.start(1, 100, 0, SECOND, held=[(42, 44)])
    fill.want(Run(1, 40, 50))
    asked = drain(fill, 5)
    assert asked[:3] == [Run(1, 40, 42), Run(1, 44, 50), Run(1, 44, 45)]
    assert asked[3].stop == 100


def test_what_the_sender_has_no_more_is_not_asked_for_again() -> None:
    fill = Backfill()
    fill.start(1, 100, 0, SECOND)
    fill.want(Run(1, 10, 20))
    run = fill.request(0, 0)
    assert run == Run(1, 10, 20)
    fill.asked(run, 0)
    fill.gone(run, 60)
    assert drain(fill, 100) == [Run(1, 60, 100)]


def test_an_answer_to_another_question_is_not_taken() -> None:
    fill = Backfill()
    fill.start(1, 100, 50, SECOND)
    run = fill.request(0, 0)
    assert run is not None
    fill.asked(run, 0)
    assert not fill.answered(run, records(40, 100))
    assert not fill.answered(run, records(60, 90))
    assert not fill.answered(Run(9, 0, 1), records(0, 1))
    assert fill.answered(run, records(60, 100))


def test_without_room_nothing_more_is_fetched() -> None:
    fill = Backfill()
    fill.start(1, 100, 0, SECOND)
    fill.want(Run(1, 10, 20))
    fill.stop()
    assert fill.request(0, 0) is None
    assert not fill.busy


def test_what_is_wanted_twice_is_fetched_once() -> None:
    fill = Backfill()
    fill.start(1, 20, 0, SECOND)
    fill.want(Run(1, 2, 4))
    fill.want(Run(1, 2, 4))
    assert fill.pressing
    assert drain(fill, 100)[:2] == [Run(1, 2, 4), Run(1, 4, 20)]
    assert not fill.pressing
