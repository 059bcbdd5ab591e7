"""Viewers that are slow, held, gone, or at the end of a stream."""

import asyncio
from pathlib import Path

import pytest

from edge import flow
from edge.hub import Phase
from tests.unit.edge.live import OTHER_INIT, LiveStream
from tests.unit.edge.room import Room, got


@pytest.fixture
async def room(tmp_path: Path) -> Room:
    return Room(tmp_path, LiveStream(tmp_path))


async def test_a_viewer_that_takes_nothing_skips_to_a_keyframe_and_is_counted(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    monkeypatch.setattr(flow, "LEAST_LIMIT", 100)
    skipped = []
    room.hub.on_skip = lambda protocol, reason, frames: skipped.append((protocol, reason, frames))
    room.stream.frames(45)
    viewer, transport = room.join()
    transport.blocked = True
    for _ in range(50):
        now[0] += 0.04
        room.stream.frames(1)
        room.wake()
    assert viewer.phase is Phase.SKIPPING
    transport.blocked = False
    transport.drain()
    for _ in range(20):
        now[0] += 0.04
        room.stream.frames(1)
        room.wake()
    frames = got(transport)
    gap = next(n for n in range(1, len(frames)) if frames[n] != frames[n - 1] + 1)
    assert frames[gap] % 10 == 0
    assert frames[:gap] == list(range(40, frames[gap - 1] + 1))
    assert frames[gap:] == list(range(frames[gap], len(room.stream.sent[1])))
    assert viewer.session.dropped > 0
    assert sum(frames for _, _, frames in skipped) == viewer.session.dropped
    assert {(protocol, reason) for protocol, reason, _ in skipped} == {("ledger", "slow")}


async def test_a_viewer_that_skipped_past_new_setup_bytes_gets_them_with_its_keyframe(
    room: Room,
) -> None:
    room.stream.frames(45)
    viewer, transport = room.join()
    viewer.phase = Phase.SKIPPING
    room.stream.new_init(OTHER_INIT)
    room.stream.video(key=True)
    room.wake()
    assert transport.taken.endswith(b";C(1=1,2=0)" + room.stream.payloads[1][45] + b";")


async def test_a_viewer_whose_connection_takes_nothing_for_long_is_cut(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    room.stream.frames(45)
    viewer, transport = room.join()
    transport.blocked = True
    room.stream.frames(1)
    room.wake()
    for _ in range(9):
        now[0] += 1
        room.hub.tick(0.1)
        assert room.hub.viewers() == 1
    now[0] += 2
    room.hub.tick(0.1)
    assert transport.aborted
    assert await viewer.done == "stalled"
    assert room.hub.viewers() == 0


async def test_a_connection_that_drains_a_burst_slowly_loses_nothing(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    monkeypatch.setattr(flow, "LEAST_LIMIT", 100)
    room.stream.frames(49)
    viewer, transport = room.join()
    transport.blocked = True
    room.stream.frames(90)  # a repair brings 3.6 s at once
    room.wake()
    while transport.waiting or len(room.stream.sent[1]) < 300:
        now[0] += 0.04
        room.stream.frames(1)
        room.wake()
        transport.drain(100)  # a little more than a frame takes
        assert viewer.phase is Phase.LIVE
        assert now[0] < 2000
    assert got(transport) == list(range(40, len(room.stream.sent[1])))


async def test_a_viewer_with_unsent_bytes_at_the_end_is_let_go_when_it_took_them(
    room: Room,
) -> None:
    room.stream.frames(45)
    viewer, transport = room.join()
    transport.blocked = True
    room.stream.frames(1)
    room.stream.publish(live=False)
    room.wake()
    room.hub.tick(0.1)
    assert not viewer.done.done()
    transport.drain()
    room.hub.tick(0.1)
    assert viewer.done.done()


async def test_a_held_viewer_gets_nothing_and_goes_on_at_the_live_point(room: Room) -> None:
    room.stream.frames(45)
    viewer, transport = room.join()
    room.hub.hold(viewer)
    room.stream.frames(20)
    room.wake()
    room.hub.resume(viewer)
    room.stream.frames(1)
    room.wake()
    assert got(transport) == [*range(40, 45), *range(60, 66)]


async def test_the_last_viewer_takes_the_feed_with_it(room: Room) -> None:
    room.stream.frames(45)
    viewer, transport = room.join()
    room.hub.leave(viewer)
    size = len(transport.taken)
    room.stream.frames(1)
    room.wake()
    assert len(transport.taken) == size
    assert room.hub.viewers() == 0
    assert len(room.sessions) == 0


async def test_a_transport_that_closed_is_dropped_at_the_next_flush(room: Room) -> None:
    room.stream.frames(45)
    viewer, transport = room.join()
    transport.closing = True
    room.stream.frames(1)
    room.wake()
    assert await viewer.done == "left"


async def test_a_busy_process_flushes_less_often(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    room.stream.frames(45)
    _, transport = room.join()
    room.hub.tick(0.95)
    room.stream.frames(1)
    room.wake()
    flushed = len(transport.taken)
    for _ in range(2):
        now[0] += 0.04
        room.stream.frames(1)
        room.wake()
    assert len(transport.taken) == flushed
    now[0] += 0.04
    room.stream.frames(1)
    room.wake()
    assert got(transport) == list(range(40, 49))


async def test_an_ended_feed_that_closes_late_leaves_its_successor_alone(room: Room) -> None:
    room.stream.frames(45)
    old, transport = room.join()
    transport.blocked = True
    room.stream.frames(1)
    room.stream.publish(live=False)
    room.wake()
    room.stream.publish()
    room.wake()
    room.join()
    room.hub.leave(old)
    assert room.hub.viewers() == 1


async def test_records_that_cannot_be_muxed_cost_a_jump_and_not_the_process(room: Room) -> None:
    room.stream.frames(45)
    viewer, transport = room.join()
    room.form.fail = True
    room.stream.frames(2)
    room.wake()
    room.form.fail = False
    room.stream.frames(10)
    room.wake()
    assert viewer.phase is Phase.LIVE
    assert got(transport) == [*range(40, 45), *range(50, 57)]


async def test_the_viewer_of_one_connection_is_cut_and_the_others_go_on(room: Room) -> None:
    room.stream.frames(45)
    slow, blocked = room.join()
    _, transport = room.join()
    assert room.hub.cut(blocked, "overload")
    assert blocked.aborted
    assert await slow.done == "overload"
    assert not room.hub.cut(blocked, "overload"), "it is gone"
    room.stream.frames(1)
    room.wake()
    assert got(transport)[-1] == 45
    assert room.hub.viewers() == 1
