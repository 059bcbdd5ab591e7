"""Questions to a relay that wait for what it is still fetching: answered, bounded, forgotten."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import zmq

from common.bus.access import EVERYBODY
from common.bus.answers import Reach
from common.bus.backfill import Run
from common.bus.controls import MAX_PARKED, PARK_US, Controls
from common.runtime.curve import PLAIN, Authenticator
from common.wire.control import Control, Join, Pull, encode_control


@dataclass
class Nothing:
    """Pages that hold nothing yet, and a relay that awaits everything."""

    now: int = 0
    coming: bool = True
    looked: list[str] = field(default_factory=list)

    def find(self, stream: str, epoch: int) -> None:
        self.looked.append(stream)

    def awaited(self, stream: str) -> bool:
        return self.coming

    def reach(self, stream: str) -> Reach:
        return {}

    def fetch(self, stream: str, run: Run) -> bool:
        return False


@dataclass
class Desk:
    shelf: Nothing
    controls: Controls
    said: list[tuple[bytes, Control]] = field(default_factory=list)

    def ask(self, question: Control, edge: bytes = b"edge~1") -> None:
        self.controls._deliver([edge, *encode_control(question)])
        while self.controls._timer is not None:
            self.controls._timer.cancel()
            self.shelf.now += 100  # answers have a rate
            self.controls._serve()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    shelf = Nothing()
    controls = Controls(
        context,
        "127.0.0.1:0",
        shelf.find,
        Authenticator(context, PLAIN),
        access=EVERYBODY,
        node="relay",
        rate=10**9,
        now_us=lambda: shelf.now,
        beyond=shelf,
    )
    made = Desk(shelf, controls)

    def send(identity: bytes, message: Control) -> bool:
        made.said.append((identity, message))
        return True

    controls._send = send  # type: ignore[method-assign]
    yield made
    controls.close()
    context.destroy(linger=0)


async def test_a_join_waits_for_its_stream_alone(desk: Desk) -> None:
    desk.ask(Join(1, "a"))
    desk.ask(Join(2, "b"))
    assert desk.said == []
    desk.shelf.looked.clear()
    desk.shelf.coming = False
    desk.controls.arrived("a")
    desk.ask(Pull(3, "c", 1, 1, 0, 5))
    assert [type(message).__name__ for _, message in desk.said] == ["Absent", "Gone"]
    assert desk.shelf.looked == ["a", "c"]


async def test_what_waits_is_bounded_and_forgotten(desk: Desk) -> None:
    for number in range(MAX_PARKED + 500):
        desk.ask(Join(number, f"made-up{number}"), f"edge~{number % 7}".encode())
    assert desk.controls._waiting == MAX_PARKED
    assert sum(map(len, desk.controls._parked.values())) == MAX_PARKED
    for number in range(MAX_PARKED):
        desk.ask(Pull(number, "one", 1, 1, number, number + 1))
    assert desk.controls._waiting <= MAX_PARKED
    desk.shelf.now += PARK_US + 1
    desk.controls.prune()
    assert (desk.controls._waiting, desk.controls._parked) == (0, {})
