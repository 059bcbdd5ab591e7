"""What an edge keeps of a stream when memory is short."""

from dataclasses import replace
from pathlib import Path

import pytest

from common.bus.shelf import LEAST_US
from tests.harness.bus import FPS, GOP, VIDEO, catalog
from tests.unit.bus.test_receiver import Rig

WINDOW = 60
MARGIN = 15
"""Seconds beyond the window that are kept."""

PAGE = 5
"""Seconds of a page, which goes as a whole."""


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path, known=replace(catalog(), window_us=WINDOW * 1_000_000))
    made.receiver.connected(made.now)
    made.publish(FPS * (WINDOW + 3 * MARGIN))
    return made


def seconds(rig: Rig) -> float:
    held = rig.held(VIDEO)
    assert max(held) == rig.source.frame - 1
    return len(held) / FPS


def test_the_oldest_pages_go_at_once_and_are_not_fetched_again(rig: Rig) -> None:
    shelf = rig.receiver.shelf
    assert WINDOW + MARGIN <= seconds(rig) <= WINDOW + MARGIN + PAGE
    before = sum(len(data) for _, data in rig.held(VIDEO).values())
    freed = shelf.keep(0.5)
    after = sum(len(data) for _, data in rig.held(VIDEO).values())
    assert freed >= before - after > 0
    kept = (WINDOW + MARGIN / 2) / 2 + MARGIN / 2
    assert kept <= seconds(rig) <= kept + PAGE
    rig.run(5)
    rig.publish(GOP * 10)
    assert kept <= seconds(rig) <= kept + PAGE
    assert shelf.keep(0.5) == 0


def test_a_least_part_is_always_kept_and_the_whole_is_there_again_with_time(rig: Rig) -> None:
    rig.receiver.shelf.keep(0.0)
    least = LEAST_US / 1e6 + MARGIN / 2
    assert least <= seconds(rig) <= least + PAGE
    assert rig.receiver.shelf.keep(1.0) == 0
    rig.publish(FPS * WINDOW)
    assert seconds(rig) >= WINDOW + MARGIN


def test_a_window_shorter_than_the_least_is_kept_whole(tmp_path: Path) -> None:
    rig = Rig(tmp_path, known=replace(catalog(), window_us=5_000_000))
    rig.receiver.connected(rig.now)
    rig.publish(FPS * 40)
    before = seconds(rig)
    rig.receiver.shelf.keep(0.0)
    assert seconds(rig) == before
