import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from common.runtime.tasks import Backoff, spawn_child
from edge import children, supervisor
from edge.children import Child
from edge.supervisor import Supervisor

CHILD = """
import asyncio, sys
from common.runtime.control import Channel
async def main():
    channel = Channel(int(sys.argv[1]))
    channel.send({"t": "ready"})
    async for message in channel:
        if message["t"] == "stop":
            return
        if message["t"] == "sessions":
            channel.send({"t": "sessions", "id": message["id"], "list": [{"stream": "live"}]})
asyncio.run(main())
"""


async def spawn(control: socket.socket) -> Process:
    fd = control.fileno()
    return await spawn_child([sys.executable, "-c", CHILD, str(fd)], pass_fds=[fd])


class Recorder(Child):
    """A child that only notes what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name, name.rstrip("0123456789"), spawn)
        self.told: list[dict[str, Any]] = []
        self.ready = True

    def send(self, message: dict[str, Any]) -> None:
        self.told.append(message)


class Star:
    """A supervisor with children that record."""

    def __init__(self) -> None:
        self.worker = Recorder("worker")
        self.viewers = [Recorder("viewer1"), Recorder("viewer2")]
        self.hub = Supervisor(self.worker, list(self.viewers))

    def wants(self, viewer: int, *streams: str) -> None:
        self.hub.heard(self.viewers[viewer], {"t": "want", "streams": list(streams)})

    def state(self, stream: str, state: str = "live", epoch: int = 7) -> None:
        message = {"t": "state", "stream": stream, "state": state, "epoch": epoch}
        self.hub.heard(self.worker, message)


@pytest.fixture
async def star() -> Star:
    return Star()


def want(*streams: str) -> dict[str, Any]:
    return {"t": "want", "streams": list(streams)}


def live(stream: str) -> dict[str, Any]:
    return {"t": "state", "stream": stream, "state": "live", "epoch": 7}


async def test_the_worker_is_told_what_any_viewer_process_wants(star: Star) -> None:
    star.wants(0, "a", "b")
    star.wants(1, "b", "c")
    star.wants(1, "b", "c")
    star.wants(0)
    assert star.worker.told == [want("a", "b"), want("a", "b", "c"), want("b", "c")]


async def test_the_worker_hears_which_segment_a_viewer_waits_for(star: Star) -> None:
    wish = {"t": "segment", "stream": "a", "track": 1, "segment": 5}
    star.hub.heard(star.viewers[0], wish)
    assert star.worker.told == [], "nobody watches it there"
    star.wants(0, "a")
    star.hub.heard(star.viewers[0], wish)
    assert star.worker.told == [want("a"), wish]


async def test_states_go_to_the_viewers_that_want_the_stream(star: Star) -> None:
    star.wants(0, "a")
    star.state("a")
    assert star.viewers[0].told == [live("a")]
    assert star.viewers[1].told == []
    star.wants(1, "a")
    star.wants(1, "a")
    assert star.viewers[1].told == [live("a")]


async def test_what_a_dead_viewer_wanted_stays_wanted_until_its_successor_speaks(
    star: Star,
) -> None:
    star.wants(0, "a")
    star.state("a")
    star.hub.ended(star.viewers[0])
    assert star.hub.wanted() == {"a"}
    star.wants(0, "b")
    assert star.hub.wanted() == {"b"}


async def test_a_viewer_that_starts_again_is_told_what_is_live(star: Star) -> None:
    star.wants(0, "a")
    star.state("a")
    star.hub.ended(star.viewers[0])
    star.viewers[0].told.clear()
    star.hub.heard(star.viewers[0], {"t": "ready"})
    star.wants(0, "a")
    assert star.viewers[0].told == [live("a")]


async def test_a_worker_that_starts_again_is_told_what_is_wanted(star: Star) -> None:
    star.wants(0, "a")
    star.hub.ended(star.worker)
    star.worker.told.clear()
    star.hub.heard(star.worker, {"t": "ready"})
    assert star.worker.told == [want("a")]


async def test_a_stream_that_the_worker_let_go_is_forgotten_after_it_was_told(star: Star) -> None:
    star.wants(0, "a")
    star.state("a")
    star.state("a", "absent", 0)
    assert star.viewers[0].told[-1]["state"] == "absent"
    assert star.hub.states == {}


async def test_ready_means_every_child(star: Star) -> None:
    star.viewers[1].ready = False
    assert star.hub.missing() == "waiting for viewer2"
    star.hub.heard(star.viewers[1], {"t": "ready"})
    assert star.hub.missing() is None
    assert star.hub.complete.is_set()


async def test_the_load_adds_up_and_survives_a_restart(star: Star) -> None:
    def report(viewer: int, **figures: Any) -> None:
        star.hub.heard(star.viewers[viewer], {"t": "report", "metrics": {}, **figures})

    report(0, sessions=3, bytes=1000, opened=5, refused=1, cpu=0.2)
    report(1, sessions=4, bytes=0, opened=4, refused=0, cpu=0.9)
    star.state("a")
    load = star.hub.load(0.25)
    assert (load.sessions, load.accepted, load.refused) == (7, 9, 1)
    assert load.cpu == 0.9
    assert load.memory == 0.25
    assert load.streams == ["a"]
    star.viewers[0].report.at -= 1
    report(0, sessions=3, bytes=2000, opened=5, refused=1, cpu=0.2)
    assert star.hub.load(0.25).bandwidth == pytest.approx(8000, rel=0.2)
    star.hub.ended(star.viewers[0])
    load = star.hub.load(0.25)
    assert (load.sessions, load.accepted, load.refused) == (4, 9, 1)


async def test_nonsense_of_a_child_changes_nothing(star: Star) -> None:
    for message in ({}, {"t": "state"}, {"t": "want", "streams": 5}, {"t": "sessions", "id": 9}):
        star.hub.heard(star.worker, message)
    assert star.hub.states == {}
    assert star.worker.told == []


async def test_sessions_of_all_viewers_are_collected_and_a_silent_one_is_left_out(
    star: Star, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "ASK_TIMEOUT", 0.05)
    asked = asyncio.create_task(star.hub.sessions())
    await asyncio.sleep(0)
    number = star.viewers[0].told[-1]["id"]
    star.hub.heard(star.viewers[0], {"t": "sessions", "id": number, "list": [1, 2]})
    assert await asked == [1, 2]
    asked = asyncio.create_task(star.hub.sessions())
    await asyncio.sleep(0)
    number = star.viewers[0].told[-1]["id"]
    star.hub.heard(star.viewers[0], {"t": "sessions", "id": number, "list": [1]})
    star.hub.heard(star.viewers[1], {"t": "sessions", "id": number, "list": [3]})
    assert sorted(await asked) == [1, 3]


@pytest.fixture
async def running() -> AsyncIterator[Supervisor]:
    hub = Supervisor(Child("worker", "worker", spawn), [Child("viewer1", "viewer", spawn)])
    task = asyncio.create_task(hub.run())
    await asyncio.wait_for(hub.complete.wait(), 10)
    yield hub
    pids = [child.pid for child in hub.children]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_killed_child_is_back_within_a_second(running: Supervisor) -> None:
    viewer = running.viewers[0]
    first = viewer.pid
    running.complete.clear()
    began = asyncio.get_running_loop().time()
    os.kill(first, signal.SIGKILL)
    await asyncio.wait_for(running.complete.wait(), 10)
    assert viewer.pid not in (0, first)
    assert asyncio.get_running_loop().time() - began < 2  # with room for a busy machine
    assert running.worker.ready


async def test_a_child_that_hangs_is_killed_and_back(running: Supervisor) -> None:
    viewer, worker = running.viewers[0].pid, running.worker.pid
    os.kill(viewer, signal.SIGSTOP)
    for child in running.children:
        child.silent = 0  # the supervisor may have looked already
    for _ in range(supervisor.STUCK):
        running.look_for_hung()
    running.worker.silent = 0  # a real one reports each second
    assert running.viewers[0].pid == viewer
    running.complete.clear()
    running.look_for_hung()
    await asyncio.wait_for(running.complete.wait(), 10)
    assert running.viewers[0].pid not in (0, viewer)
    assert running.worker.pid == worker


async def test_a_child_that_always_dies_is_started_later_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    class Slow(Backoff):
        async def wait(self) -> None:
            waits.append(self.next())
            if len(waits) == 5:
                await asyncio.Event().wait()

    async def dies(_: socket.socket) -> Process:
        return await spawn_child([sys.executable, "-S", "-c", "raise SystemExit(3)"])

    monkeypatch.setattr(children, "Backoff", Slow)
    child = Child("worker", "worker", dies)
    task = asyncio.create_task(child.run(lambda *_: None, lambda _: None))
    async with asyncio.timeout(20):
        while len(waits) < 5:  # noqa: ASYNC110 - the task fills it
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(later > 1.19 * wait for wait, later in pairwise(waits)), waits
    assert waits[0] <= children.FIRST_DELAY * 1.25


async def test_real_children_answer_for_their_sessions(running: Supervisor) -> None:
    assert await running.sessions() == [{"stream": "live"}]


async def test_the_viewers_and_the_rate_of_each_stream_are_told_to_balancers(star: Star) -> None:
    star.state("a")
    star.state("b")
    report = {"t": "report", "at": 100.0, "sessions": 3, "bytes": 0}
    report["streams"] = {"a": [1, 0], "b": [2, 0]}
    for viewer in star.viewers:
        star.hub.heard(viewer, report)
    load = star.hub.load(0.0)
    assert (load.streams, load.viewers, load.bits) == (["b", "a"], [4, 2], [0, 0])
    streams = {"a": [1, 10_000]}
    star.hub.heard(star.viewers[0], {**report, "at": 101.0, "bytes": 9, "streams": streams})
    # What waited while the supervisor executed itself is heard in one go, and is no faster for it.
    star.hub.heard(star.viewers[0], {**report, "at": 102.0, "bytes": 18, "streams": streams})
    load = star.hub.load(0.0)
    assert dict(zip(load.streams, load.viewers, strict=True)) == {"a": 2, "b": 2}
    assert load.bits[load.streams.index("a")] == pytest.approx(8 * 10_000)
    assert load.bandwidth == pytest.approx(8 * 9)


async def test_an_edge_that_is_full_says_so_to_its_viewer_processes(star: Star) -> None:
    star.hub.most = (1e9, 100.0)
    crowded = [{"t": "crowded", "crowded": True}]
    for sessions, told in ((94, []), (96, crowded), (91, crowded), (89, [])):
        star.viewers[1].told.clear()
        star.hub.heard(star.viewers[0], {"t": "report", "sessions": sessions})
        assert star.hub.crowded == bool(told)
    assert star.viewers[1].told == [{"t": "crowded", "crowded": False}]


async def test_an_edge_short_of_memory_tells_its_children_what_to_give_up(star: Star) -> None:
    now = [0.0]
    star.hub.memory = lambda: now[0]
    refuse = {"t": "overload", "refuse": True}
    for full, worker, viewer in (
        (0.84, [], []),
        (0.86, [], [refuse]),
        (0.93, [{"t": "history", "share": 0.9}], []),
        (0.98, [{"t": "history", "share": 0.81}], [{"t": "cut"}]),
        (0.88, [], []),
        (0.80, [{"t": "history", "share": 1.0}], [{"t": "overload", "refuse": False}]),
    ):
        star.worker.told.clear()
        star.viewers[0].told.clear()
        now[0] = full
        star.hub.overload.look()
        assert [approximately(one) for one in star.worker.told] == worker
        assert star.viewers[0].told == viewer


def approximately(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "share": round(message["share"], 6)}


async def test_children_that_start_again_are_told_of_the_overload(star: Star) -> None:
    star.hub.memory = lambda: 0.95
    star.hub.overload.look()
    for child in (star.worker, star.viewers[1]):
        child.told.clear()
        star.hub.heard(child, {"t": "ready"})
    assert {"t": "history", "share": 0.9} in star.worker.told
    assert {"t": "overload", "refuse": True} in star.viewers[1].told
