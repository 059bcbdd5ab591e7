"""The collector's timetable."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from edge import memory
from edge.memory import Collector


class Node:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_everything_is_set_aside_and_the_oldest_generation_left_alone() -> None:
    before = gc.get_freeze_count()
    Collector(Clock()).settle()
    assert gc.get_freeze_count() > before
    assert gc.get_threshold()[2] == memory.GEN2_NEVER


def test_what_has_come_is_looked_through_each_minute() -> None:
    clock = Clock()
    collector = Collector(clock)
    collector.settle()
    gone = weakref.ref(Node())
    collector.tick(1.0)
    assert gone() is not None, "not before it is due"
    clock.now += memory.SHORT
    collector.tick(1.0)
    assert gone() is None


def test_what_was_set_aside_is_looked_through_when_there_is_time() -> None:
    clock = Clock()
    collector = Collector(clock)
    node: Node | None = Node()
    gone = weakref.ref(node)
    collector.settle()
    node = None
    for load, later in ((0.0, memory.SHORT), (1.0, memory.LONG + 1)):
        clock.now += later
        collector.tick(load)
        assert gone() is not None
    clock.now += memory.SHORT
    collector.tick(0.0)
    assert gone() is None


def test_a_process_that_never_has_time_finds_it_in_the_end() -> None:
    clock = Clock()
    collector = Collector(clock)
    node: Node | None = Node()
    gone = weakref.ref(node)
    collector.settle()
    node = None
    clock.now += memory.OVERDUE + 1
    collector.tick(1.0)
    assert gone() is None
