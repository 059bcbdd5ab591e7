"""Bugs to plant in the product, each of which some seed must find."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from common.bus.broadcast import Broadcast
from common.bus.knock import Knocker
from common.bus.pulls import Pulls
from common.bus.receiver import Receiver
from common.bus.shelf import Shelf
from common.track.record import Flag
from common.wire.gaps import TrackGaps
from common.wire.media import Item
from common.wire.repair import LIVE, Commit, StreamRepair
from edge.packager import Packager
from origin.segmenter import Segmenter
from tests.sim.world import Plan, plan

Bug = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Makes a wrong method of the right one."""


class Planted(NamedTuple):
    """A bug, and what has to go wrong for it to show."""

    owner: type[Any]
    method: str
    make: Bug
    kind: str
    fault: str

    def plan(self, seed: int) -> Plan:
        """Return a plan in which it may show."""
        usual = plan(seed)
        if not self.fault:
            return usual
        repair = 0.6 if self.fault == "deaf" else usual.repair
        faults = ((3.0 + seed / 7, self.fault),)
        return replace(usual, kind=self.kind or usual.kind, repair=repair, faults=faults)


PLANTED: dict[str, Planted] = {}


def bug(owner: type[Any], method: str, kind: str = "", fault: str = "") -> Callable[[Bug], Bug]:
    """Enter a bug of a method."""

    def enter(make: Bug) -> Bug:
        PLANTED[make.__name__.replace("_", " ")] = Planted(owner, method, make, kind, fault)
        return make

    return enter


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Have a bug for a while."""
    owner, method, make, *_ = PLANTED[name]
    right = owner.__dict__[method]
    setattr(owner, method, make(right))
    try:
        yield
    finally:
        setattr(owner, method, right)


@bug(TrackGaps, "due", "", "loss")
def repair_forgets_the_last_record_of_a_hole(right: Callable[..., Any]) -> Callable[..., Any]:
    def due(self: Any, *more: Any) -> Any:
        run = right(self, *more)
        return (run[0], run[1] - 1) if run and run[1] - 1 > run[0] else None

    return due


@bug(StreamRepair, "tick")
def repair_gives_up_at_once(right: Callable[..., Any]) -> Callable[..., Any]:
    def tick(self: Any, now: int) -> None:
        right(self, now + 60_000_000)

    return tick


@bug(StreamRepair, "receive")
def nobody_looks_whether_a_record_came_before(_: Callable[..., Any]) -> Callable[..., Any]:
    def receive(self: Any, item: Item, now: int, source: str = LIVE, hopeful: bool = False) -> None:
        gaps = self._track(item.track)
        self._out.append(Commit(item.track, item.record, item.payload, source))
        gaps.committed(item.record)

    return receive


@bug(Shelf, "put")
def the_shelf_writes_out_of_order(right: Callable[..., Any]) -> Callable[..., Any]:
    kept: dict[int, Any] = {}

    def put(self: Any, instruction: Any) -> None:
        if id(self) in kept:
            right(self, instruction)
            right(self, kept.pop(id(self)))
        elif isinstance(instruction, Commit) and instruction.record.seq % 10 == 7:
            kept[id(self)] = instruction
        else:
            right(self, instruction)

    return put


@bug(Shelf, "_write", "one", "deaf")
def what_is_lost_is_not_counted(right: Callable[..., Any]) -> Callable[..., Any]:
    def write(self: Any, instruction: Any) -> Any:
        done = right(self, instruction)
        self.tally.lost.clear()
        return done

    return write


@bug(Shelf, "put", "", "loss")
def a_record_is_left_out_in_silence(right: Callable[..., Any]) -> Callable[..., Any]:
    def put(self: Any, instruction: Any) -> None:
        if isinstance(instruction, Commit) and instruction.source != LIVE:
            empty = instruction.record._replace(flags=int(Flag.LOST), size=0, crc32=0)
            instruction = instruction._replace(record=empty, payload=b"")
        right(self, instruction)

    return put


@bug(Pulls, "pull_past")
def the_past_is_not_fetched(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, epoch, now: None


@bug(Receiver, "_admit", "standby", "kill origin")
def an_epoch_is_shown_before_it_can_be_read(right: Callable[..., Any]) -> Callable[..., Any]:
    def admit(self: Any, epoch: int, term: int, now: int) -> Any:
        state = self.state
        admitted = right(self, epoch, term, now)
        self.state = state
        return admitted

    return admit


@bug(Packager, "_make_part")
def bytes_depend_on_the_edge(right: Callable[..., Any]) -> Callable[..., Any]:
    def make(self: Any, timelines: Any, *more: Any) -> Any:
        made = right(self, timelines, *more)
        return made and (made[0] + timelines.reader._folder.parent.name.encode()[-1:], made[1])

    return make


@bug(Segmenter, "resume", "dual", "kill origin")
def a_successor_opens_a_segment_of_its_own(right: Callable[..., Any]) -> Callable[..., Any]:
    def resume(self: Any, rows: Any, head: int, *more: Any) -> Any:
        return right(self, rows, head + 1, *more)

    return resume


@bug(Broadcast, "close")
def a_timer_goes_on(right: Callable[..., Any]) -> Callable[..., Any]:
    def close(self: Any) -> None:
        right(self)
        if self._beat.cancelled():
            self._beat = self._loop.call_later(600, lambda: None)

    return close


@bug(Knocker, "close", "", "island")
def a_task_goes_on(_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: None
