from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from common.wire.bucket import TokenBucket
from common.wire.ranges import RangeSet

NUMBERS = st.integers(0, 40)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans()), max_size=12), NUMBERS, NUMBERS)
def test_a_range_set_is_a_set(steps: list[tuple[int, int, bool]], first: int, stop: int) -> None:
    ranges, model = RangeSet(), set[int]()
    for low, high, drop in steps:
        if drop:
            ranges.drop_below(low)
            model = {value for value in model if value >= low}
        else:
            ranges.add(low, high)
            model |= set(range(low, high))
    assert [value for value in range(42) if value in ranges] == sorted(model)
    runs = list(ranges)
    assert all(low < high for low, high in runs)
    assert all(high < low for (_, high), (low, _) in pairwise(runs))
    missing = [value for low, high in ranges.missing(first, stop) for value in range(low, high)]
    assert missing == [value for value in range(first, stop) if value not in model]


def test_a_bucket_lets_its_rate_through() -> None:
    bucket = TokenBucket(rate=1000, burst=500, now_us=0)
    moved, now = 0, 0
    while now < 10_000_000:
        if bucket.open(now):
            bucket.charge(300)
            moved += 300
        now += 10_000
    assert 9_800 <= moved <= 10_800


def test_a_bucket_says_how_long_to_wait() -> None:
    bucket = TokenBucket(rate=1000, burst=500, now_us=0)
    assert bucket.wait_us(0) == 0
    bucket.charge(1500)
    wait = bucket.wait_us(0)
    assert not bucket.open(wait - 10_000)
    assert bucket.open(wait)


def test_a_bucket_lends_to_who_is_in_a_hurry_up_to_a_limit() -> None:
    bucket = TokenBucket(rate=1000, burst=500, now_us=0)
    bucket.charge(1000)
    assert not bucket.open(0)
    assert not bucket.open(0, ahead=500)
    assert bucket.open(0, ahead=501)
