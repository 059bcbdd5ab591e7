"""What an edge gives up as its memory fills, in order, and what never."""

from unittest.mock import MagicMock

import pytest

from edge.overload import LEAST, WORTH, Overload, Stage, slowest


class Memory:
    """An overload with a memory that a test fills."""

    def __init__(self) -> None:
        self.full = 0.0
        self.worker, self.viewer = MagicMock(), MagicMock()
        self.overload = Overload(lambda: self.full, lambda: self.worker, [self.viewer])

    def at(self, full: float, times: int = 1) -> Stage:
        self.full = full
        for _ in range(times):
            self.overload.look()
        return self.overload.stage


@pytest.fixture
def memory() -> Memory:
    return Memory()


def test_a_stage_ends_a_little_below_where_it_began(memory: Memory) -> None:
    stages = [memory.at(full) for full in (0.84, 0.85, 0.83, 0.81, 0.91, 0.92, 0.90, 0.88, 0.97)]
    none, refuse, history, cut = Stage
    assert stages == [none, refuse, refuse, none, refuse, history, history, refuse, cut]
    assert memory.at(0.95) is cut
    assert memory.at(0.1) is none


def test_history_shrinks_to_a_least_part_until_all_is_over(memory: Memory) -> None:
    memory.at(0.93, times=100)
    assert memory.overload.history == LEAST
    told = memory.worker.send.call_count
    memory.at(0.93)
    assert memory.worker.send.call_count == told, "what does not change is not told again"
    memory.at(0.84)
    assert memory.overload.history == LEAST, "not while newcomers are still refused"
    memory.at(0.5)
    assert memory.overload.history == 1.0


def test_nobody_is_cut_before_the_last_stage(memory: Memory) -> None:
    memory.at(0.969, times=10)
    assert {"t": "cut"} not in [call.args[0] for call in memory.viewer.send.call_args_list]
    memory.at(0.97, times=3)
    assert [call.args[0] for call in memory.viewer.send.call_args_list].count({"t": "cut"}) == 3


def test_those_go_for_whom_most_waits_until_half_of_it_is_free() -> None:
    million = 1_000_000
    waiting = [(0, "keeps up"), (million, "c"), (6 * million, "a"), (WORTH - 1, "d"), (0, "too")]
    assert slowest(waiting) == [(6 * million, "a")]
    assert slowest([(3 * million, "a"), (3 * million, "b"), (3 * million, "c")]) == [
        (3 * million, "a"),
        (3 * million, "b"),
    ]


def test_who_keeps_up_or_has_a_burst_before_it_is_never_cut() -> None:
    assert slowest([]) == []
    assert slowest([(0, "a"), (0, "b")]) == []
    assert slowest([(WORTH - 1, "a"), (WORTH - 1, "b")]) == []
