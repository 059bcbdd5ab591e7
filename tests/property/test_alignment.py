"""Two origins that take in the same frames find out which of them are the same."""

import random

from hypothesis import given
from hypothesis import strategies as st

from origin.alignment import MAX_STRIKES, Alignment, Mark, find_shift

FRAME = 3600
TOLERANCE = 1400


def frames(count: int, alphabet: int, seed: int) -> list[Mark]:
    """Return marks of frames of which there are ``alphabet`` different ones; 40 ms apart."""
    chosen = random.Random(seed)
    return [
        Mark(n * FRAME, 100, chosen.randrange(alphabet), 1_000_000 + n * 40_000)
        for n in range(count)
    ]


def moved(marks: list[Mark], ticks: int, late_us: int) -> list[Mark]:
    return [one._replace(dts=one.dts + ticks, arrival_us=one.arrival_us + late_us) for one in marks]


def without(marks: list[Mark], lost: set[int]) -> list[Mark]:
    return [one for number, one in enumerate(marks) if number not in lost]


@given(
    seed=st.integers(0, 1000),
    alphabet=st.sampled_from([1, 2, 3, 1000]),
    shift=st.integers(-(10**9), 10**9),
    late_us=st.integers(-15_000, 15_000),
    ours=st.tuples(st.integers(0, 12), st.integers(28, 40)),
    theirs=st.tuples(st.integers(0, 12), st.integers(28, 40)),
    lost=st.tuples(
        st.sets(st.integers(0, 39), max_size=3), st.sets(st.integers(0, 39), max_size=2)
    ),
)
def test_the_shift_is_found_whatever_part_of_the_stream_each_side_knows(
    seed: int,
    alphabet: int,
    shift: int,
    late_us: int,
    ours: tuple[int, int],
    theirs: tuple[int, int],
    lost: tuple[set[int], set[int]],
) -> None:
    marks = frames(40, alphabet, seed)
    mine = without(marks, lost[0])[slice(*ours)]
    others = without(moved(marks, shift, late_us), lost[1])[slice(*theirs)]
    assert find_shift(mine, others, TOLERANCE, None) == shift


@given(seed=st.integers(0, 1000))
def test_other_frames_are_not_taken_for_ours(seed: int) -> None:
    others = [one._replace(size=99) for one in frames(50, 5, seed)]
    assert find_shift(frames(50, 5, seed), others, TOLERANCE, None) is None
    mixed = frames(50, 1000, seed)
    mixed[30] = mixed[30]._replace(crc32=5000)
    assert find_shift(frames(50, 1000, seed), mixed, TOLERANCE, None) is None


@given(
    seed=st.integers(0, 1000),
    order=st.lists(st.booleans(), min_size=60, max_size=60),
    start=st.integers(0, 20),
    lost=st.sets(st.integers(0, 59), max_size=3),
    unsent=st.sets(st.integers(0, 39), max_size=3),
)
def test_what_remains_is_what_the_other_side_has_not_published(
    seed: int, order: list[bool], start: int, lost: set[int], unsent: set[int]
) -> None:
    marks = frames(60, 1000, seed)
    published = [n for n in range(40) if n not in unsent]
    theirs = iter([moved(marks, 77, 0)[n] for n in published])
    ours = iter(one for n, one in enumerate(marks) if n >= start and n not in lost)
    alignment = Alignment()
    aligned = False
    for mine in [*order, *([True, False] * 60)]:
        one = next(ours if mine else theirs, None)
        if one is None:
            continue
        (alignment.add if mine else alignment.record)(one)
        alignment.align(TOLERANCE)
        alignment.settle(TOLERANCE)
        aligned = aligned or alignment.shift is not None
    assert aligned
    assert alignment.shift == 77
    newest = published[-1]
    held = [one for n, one in enumerate(marks) if n > newest and n not in lost]
    assert list(alignment.ours) == held


def test_a_shift_that_fits_no_more_is_given_up_and_found_anew() -> None:
    marks = frames(200, 1000, 1)
    alignment = Alignment()
    for one in marks[:100]:
        alignment.add(one)
        alignment.record(one)
        alignment.align(TOLERANCE)
        alignment.settle(TOLERANCE)
    assert alignment.shift == 0
    jumped = moved(marks, 50 * FRAME, 0)
    for n in range(100, 200):
        alignment.add(marks[n])
        alignment.record(jumped[n])
        alignment.align(TOLERANCE)
        alignment.settle(TOLERANCE)
    assert alignment.shift == 50 * FRAME
    assert alignment.unmatched <= 2 * MAX_STRIKES + 2


def test_silence_is_paired_by_when_it_came_and_near_what_is_known() -> None:
    silence = frames(60, 1, 1)
    theirs = moved(silence, 1000, 3_000)[10:50]
    assert find_shift(silence, theirs, TOLERANCE, None) == 1000
    near = (1000 + 5 * FRAME, FRAME)
    found = find_shift(silence, theirs, TOLERANCE, near)
    assert found is not None
    assert abs(found - near[0]) <= FRAME
