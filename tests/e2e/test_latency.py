"""What origin, bus and edge add, measured by payload identity (bench/latency.py)."""

import pytest

from bench import latency

pytestmark = [pytest.mark.e2e, pytest.mark.alone]


def test_two_frames_at_the_median() -> None:
    rows = latency.run(15)
    print(rows)
    for row in rows:
        assert row["missing"] == 0, row
        assert float(row["p50_frames"]) <= 2.0, row
