"""How the children of an edge that restarted are replaced."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import Process
from typing import Any

import pytest

from common.errors import ConfigError, NodeUnavailable
from common.runtime import wake
from common.runtime.control import Channel, pair
from common.runtime.tasks import spawn_child
from edge import succession as module
from edge.children import Child, Report
from edge.succession import Succession, Will, bequeath, inherited
from edge.supervisor import Supervisor
from tests.unit.edge.test_supervisor import Recorder, live, want


async def spawn(_: socket.socket) -> Process:
    return await spawn_child([sys.executable, "-c", "import time; time.sleep(60)"])


class Heir(Recorder):
    """A child of the earlier image that notes what it is told."""

    @property
    def inherited(self) -> bool:
        return True


class Change:
    """A supervisor with a worker and a viewer of its own, and those of an earlier image."""

    def __init__(self) -> None:
        self.new = [Recorder("worker"), Recorder("viewer1")]
        for child in self.new:
            child.ready = False
        self.old = [Heir("worker-1"), Heir("viewer-2")]
        self.old[0].kind, self.old[1].kind = "worker", "viewer"
        self.old[1].wants = frozenset({"a"})
        self.old[1].wake = wake.create()
        self.hub = Supervisor(self.new[0], [self.new[1]])
        self.succession = Succession(self.hub, list(self.old), Will([], {"a": ("live", 7)}))
        self.task = asyncio.create_task(self.succession.run(9.0))

    async def hear(self, child: Child, kind: str) -> None:
        self.hub.heard(child, {"t": kind})
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def change() -> Change:
    return Change()


async def test_the_old_worker_lets_go_before_the_new_one_begins(change: Change) -> None:
    new, viewer = change.new
    old = change.old[0]
    assert change.hub.missing() is None, "others serve"
    change.hub.heard(viewer, want("b"))
    assert old.told == [want("a", "b")], "it writes the pages still"
    await change.hear(new, "waiting")
    assert old.told[-1] == {"t": "stop"}
    assert new.told == []
    await change.hear(old, "released")
    assert new.told == [{"t": "go"}]
    await change.hear(new, "ready")
    assert new.told[-1] == want("a", "b")


async def test_old_viewers_retire_when_all_new_processes_are_ready(change: Change) -> None:
    new, viewer = change.new
    await change.hear(viewer, "ready")
    await change.hear(new, "waiting")
    await change.hear(change.old[0], "released")
    assert change.old[1].told == []
    await change.hear(new, "ready")
    assert change.old[1].told == [{"t": "retire", "timeout": 9.0}]
    change.hub.ended(change.old[1])
    assert change.hub.viewers == [viewer]
    assert new.told[-1] == want(), "what it wanted is wanted no more"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(change.old[1].wake)


async def test_a_new_viewer_process_hears_at_once_what_is_live(change: Change) -> None:
    change.hub.heard(change.new[1], want("a"))
    assert change.new[1].told == [live("a")]


async def test_a_worker_that_waits_for_its_turn_after_all_is_told_to_go(change: Change) -> None:
    new = change.new[0]
    await change.hear(new, "waiting")
    await change.hear(change.old[0], "released")
    new.told.clear()
    await change.hear(new, "waiting")  # it died, and was started before its turn had come
    assert new.told == [{"t": "go"}]


async def test_a_worker_that_does_not_let_go_is_killed(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.01)
    old = change.old[0]
    old.process = await spawn_child(
        [sys.executable, "-c", "import signal, time; signal.pause()"],
    )
    change.hub.heard(change.new[0], {"t": "waiting"})
    async with asyncio.timeout(10):
        await old.process.wait()
        while not change.new[0].told:  # noqa: ASYNC110 - a task of the succession tells it
            await asyncio.sleep(0.001)
    assert change.new[0].told == [{"t": "go"}]


async def test_nothing_is_left_while_an_earlier_restart_is_under_way(change: Change) -> None:
    with pytest.raises(NodeUnavailable, match="under way"):
        bequeath(change.hub)


async def test_the_next_image_talks_on_over_the_same_channel() -> None:
    ours, theirs = pair()
    peer = Channel(theirs)
    viewer = Child("viewer1", "viewer", spawn, wake.create())
    viewer.channel = Channel(ours.detach())
    viewer.process = await spawn(theirs)
    hub = Supervisor(Recorder("worker"), [viewer])
    hub.states["a"] = ("live", 7)
    hub.complete.set()
    viewer.report = Report(at=5.0, sessions=3, cpu=0.5, streams={"a": (3, 8e6)})
    peer.send(want("b"))  # not heard yet when the image ends
    for _ in range(5):
        await asyncio.sleep(0)
    legacy = bequeath(hub)
    [left] = legacy.state["children"]
    left["control"] = os.dup(left["control"])  # the end of the image closes ours
    viewer.channel.close()
    children, will = inherited(legacy.state)
    assert will.states == {"a": ("live", 7)}
    [child] = children
    assert (child.kind, child.pid, child.wants) == ("viewer", viewer.pid, frozenset({"b"}))
    assert child.inherited
    assert child.report == viewer.report, "the balancers are to see no idle edge"
    child.send({"t": "retire", "timeout": 1.0})
    heard: dict[str, Any] = await anext(peer)
    assert heard == {"t": "retire", "timeout": 1.0}
    viewer.process.kill()
    await viewer.process.wait()
    assert child.channel is not None
    for channel in (child.channel, peer):
        channel.close()
    os.close(child.wake)


def test_what_another_version_wrote_is_refused() -> None:
    with pytest.raises(ConfigError, match="another version"):
        inherited({"children": [{"pid": "x"}]})
