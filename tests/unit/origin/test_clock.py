"""The wall clock of a stream."""

import pytest

from origin.clock import FAR_PPM, FAR_US, RIGHT_US, SECOND_US, SLEW_PPM, WallClock

START = 10 * SECOND_US
UNIX = 1_700_000_000 * SECOND_US


def feed(
    clock: WallClock, first: int, seconds: float, delay_us: int = 0, ppm: int = 0, rate: int = 25
) -> int:
    """Send ``rate`` frames a second from stream time ``first``; return where it ends."""
    step = SECOND_US // rate
    for n in range(round(seconds * rate)):
        stream = first + n * step
        drift = (stream - START) * ppm // 1_000_000
        clock.observe(stream, UNIX + stream - START + delay_us + drift)
    return first + round(seconds * rate) * step


def test_the_first_frame_sets_the_clock() -> None:
    clock = WallClock()
    clock.observe(START, UNIX)
    assert clock.wall(START) == UNIX
    assert clock.wall(START + 2 * SECOND_US) == UNIX + 2 * SECOND_US


def test_late_frames_move_nothing() -> None:
    clock = WallClock()
    end = feed(clock, START, 20)
    for n in range(10):
        clock.observe(end + n * 40_000, UNIX + end - START + 3 * SECOND_US - n * 300_000)
    assert clock.wall(end) == UNIX + end - START


@pytest.mark.parametrize("ppm", [-200, 200])
def test_a_drifting_encoder_is_followed(ppm: int) -> None:
    clock = WallClock()
    end = feed(clock, START, 1000, ppm=ppm)
    true = UNIX + end - START + (end - START) * ppm // 1_000_000
    assert abs(clock.wall(end) - true) < RIGHT_US + 5_000


@pytest.mark.parametrize("delay_us", [-RIGHT_US, -21_000, 30_000, 4 * RIGHT_US])
def test_dates_follow_the_media_exactly_although_the_first_frame_came_late(delay_us: int) -> None:
    clock = WallClock()
    end = feed(clock, START, 1)
    for _ in range(60):
        end = feed(clock, end, 1, delay_us=delay_us if delay_us < 0 else 0)
        end = feed(clock, end, 1, delay_us=delay_us)
        assert clock.wall(end) == UNIX + end - START


def test_a_burst_at_the_start_is_made_up_for_slowly() -> None:
    clock = WallClock()
    end = feed(clock, START, 2)
    last = clock.wall(end) - end
    for _ in range(5_000):
        end = feed(clock, end, 2, delay_us=-SECOND_US, rate=1)
        now = clock.wall(end) - end
        assert 0 <= last - now <= 2 * SLEW_PPM + 1
        last = now
    assert UNIX - START - last == SECOND_US - RIGHT_US


def test_what_is_wrong_by_much_moves_faster() -> None:
    clock = WallClock()
    end = feed(clock, START, 20)
    for _ in range(920):
        end = feed(clock, end, 10, delay_us=-20 * SECOND_US, rate=1)
        assert clock.wall(end) - clock.wall(end - 10 * SECOND_US) >= (1_000_000 - FAR_PPM) * 10
    assert abs(clock.wall(end) - (UNIX + end - START - 20 * SECOND_US)) <= FAR_US


@pytest.mark.parametrize("jump", [-3_600 * SECOND_US, 86_400 * SECOND_US])
def test_a_clock_that_is_set_does_not_make_the_stream_jump(jump: int) -> None:
    clock = WallClock()
    middle = feed(clock, START, 20)
    before = clock.wall(middle)
    end = feed(clock, middle, 20, delay_us=jump)
    assert abs(clock.wall(end) - before - (end - middle)) <= 20 * 2_000


def test_a_break_takes_the_arrival_but_never_goes_back() -> None:
    clock = WallClock()
    end = feed(clock, START, 10)
    said = clock.wall(end)
    clock.step()
    clock.observe(end + 40_000, said + 5 * SECOND_US)
    assert clock.wall(end + 40_000) == said + 5 * SECOND_US
    clock.step()
    clock.observe(end + 80_000, said - 3_600 * SECOND_US)
    assert clock.wall(end + 80_000) == said + 5 * SECOND_US


def test_it_goes_on_after_a_restart() -> None:
    clock = WallClock()
    clock.resume(START, UNIX)
    assert clock.wall(START + 7) == UNIX + 7


@pytest.mark.parametrize("ppm", [-200, 200])
def test_a_successor_says_what_the_clock_before_it_would_have_said(ppm: int) -> None:
    clock, successor = WallClock(), WallClock()
    end = START
    for _ in range(20):
        end = feed(clock, end, 2, ppm=ppm)
        said = clock.wall(end)
        successor.succeed(end, said, clock.drift_us)
        end = feed(clock, end, 2, ppm=ppm)
        feed(successor, end - 2 * SECOND_US, 2, ppm=ppm)
        assert successor.wall(end) == clock.wall(end)
    far = feed(successor, end, 600, ppm=ppm)
    true = UNIX + far - START + (far - START) * ppm // 1_000_000
    successor.wall(far - 2 * SECOND_US)
    assert abs(successor.wall(far) - true) < RIGHT_US + 5_000
