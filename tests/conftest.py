"""What holds for every test.

Hypothesis tries as many examples as ``HYPOTHESIS_PROFILE`` says: ``quick`` (unless told otherwise),
``ci`` or ``long``.
"""

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

from origin.videogen.encode import give_up_realtime

STATE = tempfile.TemporaryDirectory(prefix="headwater-tests-")
os.environ["STATE_DIRECTORY"] = STATE.name  # keys and the like go nowhere else

settings.register_profile("quick", max_examples=30, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.register_profile("long", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True)
def ordinary_priority() -> Iterator[None]:
    """Keep SVT-AV1, used in this very process, from leaving it and its children real-time."""
    yield
    give_up_realtime()
