"""What holds for every test."""

from collections.abc import Iterator

import pytest

from origin.videogen.encode import give_up_realtime


@pytest.fixture(autouse=True)
def ordinary_priority() -> Iterator[None]:
    """Keep SVT-AV1, used in this very process, from leaving it and its children real-time."""
    yield
    give_up_realtime()
