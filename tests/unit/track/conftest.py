"""A page folder, and a writer in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.track.store import Limits, StreamWriter
from tests.unit.track.build import EPOCH, STREAM, catalog


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[StreamWriter]:
    opened = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    opened.set_catalog(catalog())
    yield opened
    opened.close()
