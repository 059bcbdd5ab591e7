from types import SimpleNamespace
from typing import Any, cast

from origin.load import LoadMeter
from origin.streams import Streams


class Stage:
    """Streams with counts that a test sets."""

    def __init__(self) -> None:
        self.bytes = 0
        self.publishers: list[Any] = []

    def live(self) -> list[Any]:
        slot = SimpleNamespace(feeds={1: SimpleNamespace(bytes=self.bytes)})
        return [SimpleNamespace(name="s", slots={"main": slot}, publishers=self.publishers)]


def test_an_origin_reports_publishers_and_what_they_send() -> None:
    stage, times, cpu = Stage(), iter([0.0, 1.0, 3.0, 4.0]), iter([5.0, 5.5, 5.5, 5.5])
    meter = LoadMeter(
        cast(Streams, stage), lambda: next(times), lambda: next(cpu), memory=lambda: 0.25
    )
    stage.publishers = ["p"]
    first = meter()
    assert (first.sessions, first.cpu, first.memory, first.streams) == (1, 0.5, 0.25, ["s"])
    assert first.bandwidth == 0, "nothing is known of what was before"
    stage.bytes = 250_000
    second = meter()
    assert (second.bandwidth, second.bits, second.cpu) == (1e6, [1e6], 0.0)
    stage.bytes = 10
    assert meter().bandwidth == 0, "a publisher that begins anew sent nothing negative"
