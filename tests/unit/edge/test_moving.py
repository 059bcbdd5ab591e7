"""What a viewer process does with its viewers when the edge drains."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from common.errors import NodeUnavailable
from edge.around import Around, Peer
from edge.hub import Phase
from edge.moving import MAX_HOPS, Mover
from edge.sessions import Sessions
from tests.unit.edge.live import LiveStream
from tests.unit.edge.room import Room, got

PEERS = (Peer("e1", "http://e1"), Peer("e2", "http://e2"))
DRAINING = Around("e0", "http://b", PEERS, draining=True, timeout=30.0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def request(path: str) -> web.Request:
    transport = MagicMock()
    transport.get_extra_info.return_value = ("10.0.0.1", 1)
    return make_mocked_request("GET", path, headers={"User-Agent": "p"}, transport=transport)


def mover(clock: Clock, sessions: Sessions | None = None, hub: object = None) -> Mover:
    visits = Sessions() if sessions is None else sessions
    return Mover(visits, hub or MagicMock(), clock, lambda: 0.5)  # type: ignore[arg-type]


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110 - timers of the loop change it
            await asyncio.sleep(0.001)


async def sent(one: Mover, path: str) -> str:
    """Return where a request is sent, an empty string if it is let in."""
    try:
        await one.guard(request(path), "live")
    except web.HTTPTemporaryRedirect as redirect:
        return str(redirect.location)
    return ""


async def test_everybody_is_let_in_while_nothing_drains(clock: Clock) -> None:
    one = mover(clock)
    one.look(Around("e0", "http://b", PEERS))
    assert await sent(one, "/cmaf/live/index.m3u8") == ""
    assert await sent(one, "/live.mp4") == ""


async def test_who_is_new_to_a_draining_edge_goes_to_the_balancer(clock: Clock) -> None:
    one = mover(clock)
    one.look(DRAINING)
    with pytest.raises(web.HTTPTemporaryRedirect) as redirect:
        await one.guard(request("/live.mp4"), "live")
    assert redirect.value.headers["Access-Control-Allow-Origin"] == "*"
    there = await sent(one, "/live+a.mp4?audio=1")
    assert there == "http://b/live+a.mp4?audio=1&not=e0"
    there = await sent(one, "/cmaf/live/1.m3u8?_HLS_msn=4&_HLS_part=0&not=e9")
    assert there == "http://b/cmaf/live/1.m3u8?_HLS_msn=4&_HLS_part=0&not=e9,e0"
    hops = ",".join(f"x{n}" for n in range(MAX_HOPS))
    with pytest.raises(NodeUnavailable):
        await one.guard(request(f"/live.mp4?not={hops}"), "live")
    one.close()


async def test_who_is_new_to_a_full_edge_is_sent_on_a_few_times_at_most(clock: Clock) -> None:
    one = mover(clock)
    one.crowded = True
    assert await sent(one, "/live.mp4") == "", "there is no balancer"
    one.look(Around("e0", "http://b", PEERS))
    assert await sent(one, "/live.mp4") == "http://b/live.mp4?not=e0"
    assert await sent(one, "/live.mp4?not=e9") == "http://b/live.mp4?not=e9,e0"
    hops = ",".join(f"x{n}" for n in range(MAX_HOPS))
    assert await sent(one, f"/live.mp4?not={hops}") == "", "nobody else would serve it"
    one.crowded = False
    assert await sent(one, "/live.mp4") == ""


async def test_an_edge_short_of_memory_takes_nobody_new_whoever_else_there_is(
    clock: Clock,
) -> None:
    sessions = Sessions(clock=clock)
    one = mover(clock, sessions)
    path = "/cmaf/live/index.m3u8"
    sessions.visit("live", "hls", request(path))
    one.refusing = True
    assert await sent(one, path) == "", "who is here goes on"
    with pytest.raises(NodeUnavailable):
        await one.guard(request("/live.mp4"), "live")
    one.look(Around("e0", "http://b", PEERS))
    assert await sent(one, "/live.mp4") == "http://b/live.mp4?not=e0"
    hops = ",".join(f"x{n}" for n in range(MAX_HOPS))
    with pytest.raises(NodeUnavailable):
        await one.guard(request(f"/live.mp4?not={hops}"), "live")
    one.refusing = False
    assert await sent(one, "/live.mp4") == ""


async def test_without_a_balancer_a_sibling_is_named_and_without_any_nobody(clock: Clock) -> None:
    one = mover(clock)
    one.look(Around("e0", "", PEERS, draining=True, timeout=30.0))
    there = {"http://e1/live.mp4?not=e0", "http://e2/live.mp4?not=e0"}
    assert await sent(one, "/live.mp4") in there, "and nobody sends it back to here"
    assert await sent(one, "/live.mp4?not=e1") == "http://e2/live.mp4?not=e1,e0"
    with pytest.raises(NodeUnavailable):
        await one.guard(request("/live.mp4?not=e1,e2"), "live")
    one.close()


async def test_hls_viewers_who_are_here_go_on_and_are_redirected_late(clock: Clock) -> None:
    sessions = Sessions(clock=clock)
    playlist = "/cmaf/live/1.m3u8"
    one = mover(clock, sessions)
    sessions.visit("live", "hls", request(playlist))
    one.look(DRAINING)
    assert await sent(one, playlist) == ""
    assert await sent(one, "/cmaf/live/1/7.1/s4.m4s") == ""
    assert (await sent(one, "/cmaf/live/index.m3u8")).startswith("http://b/")
    assert (await sent(one, "/live.mp4")).startswith("http://b/"), "another viewer of that peer"
    clock.now += 12.5
    aside = await sent(one, f"{playlist}?_HLS_msn=5")
    assert aside in {f"http://e1{playlist}?_HLS_msn=5", f"http://e2{playlist}?_HLS_msn=5"}
    assert await sent(one, f"{playlist}?_HLS_msn=5") == aside, "always the same place"
    assert await sent(one, "/cmaf/live/1/7.1/s4.m4s") == ""
    clock.now += 9
    sessions.sweep()
    assert len(sessions) == 0, "who has not come for so long has moved"
    one.look(Around("e0", "http://b", PEERS))
    assert await sent(one, playlist) == ""
    assert sessions.idle == 15.0


async def test_a_full_process_sends_newcomers_on(clock: Clock) -> None:
    sessions = Sessions(most=1, clock=clock)
    one = mover(clock, sessions)
    sessions.visit("live", "hls", request("/cmaf/live/1.m3u8"))
    one.look(Around("e0", "http://b", PEERS))
    assert await sent(one, "/cmaf/live/1.m3u8") == ""
    assert await sent(one, "/live.mp4") == "http://b/live.mp4?not=e0"


async def test_viewers_that_understand_are_told_to_move_and_the_rest_end_at_a_keyframe(
    tmp_path: Path, clock: Clock
) -> None:
    room = Room(tmp_path, LiveStream(tmp_path))
    room.stream.frames(45)
    (viewer, _), (other, transport) = room.join(), room.join()
    moved: list[str] = []
    viewer.on_move = moved.append
    one = mover(clock, room.sessions, room.hub)
    one.look(Around("e0", "http://b", PEERS, draining=True, timeout=0.4))
    late, _ = room.join()
    late.on_move = moved.append
    one.joined(late)
    await until(lambda: other.phase is Phase.LEAVING and len(moved) == 2)
    assert set(moved) <= {"http://e1", "http://e2"}
    room.stream.frames(10)
    room.wake()
    assert other.done.result() == "moved"
    frames = got(transport)
    assert frames == list(range(40, 50)), "everything up to the next keyframe, which is the 50th"
    one.close()


async def test_a_drain_that_is_taken_back_leaves_viewers_where_they_are(
    tmp_path: Path, clock: Clock
) -> None:
    room = Room(tmp_path, LiveStream(tmp_path))
    room.stream.frames(45)
    viewer, transport = room.join()
    one = mover(clock, room.sessions, room.hub)
    one.look(DRAINING)
    room.hub.end_at_keyframe()
    assert viewer.phase is Phase.LEAVING
    one.look(Around("e0", "http://b", PEERS))
    room.stream.frames(30)
    room.wake()
    assert got(transport) == list(range(40, 75))
    assert not viewer.done.done()


async def test_who_waits_for_a_keyframe_in_vain_is_ended_too(tmp_path: Path) -> None:
    room = Room(tmp_path, LiveStream(tmp_path))
    room.stream.frames(45)
    (held, _), (viewer, _) = room.join(), room.join()
    room.hub.hold(held)
    room.hub.end_at_keyframe()
    assert held.done.result() == "moved"
    assert not viewer.done.done()
    room.hub.end_now()
    assert viewer.done.result() == "moved"
    assert room.hub.viewers() == 0
