"""The measurements of ``headwater bench``, with real sockets, but too short to be exact."""

import pytest

from edge import calibrate


async def test_a_write_to_every_viewer_is_measured() -> None:
    assert await calibrate.writes(2_000, 0.1) > 0.5


async def test_answers_are_counted_and_measured() -> None:
    small = await calibrate.answers(1_500, 0.2)
    assert 1 < small < 1e5


def test_parts_are_made_and_measured() -> None:
    assert calibrate.packaging(0.01) > 0


def test_two_sizes_tell_a_write_from_its_bytes() -> None:
    megabit, write = calibrate.line((125_000, 1_250_000), (15.0, 105.0))
    assert (megabit, write) == pytest.approx((10.0, 5.0))
