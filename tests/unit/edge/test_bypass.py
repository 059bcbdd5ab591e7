"""The short way of requests: the same answers as aiohttp's, to fewer of them."""

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from common.runtime.http import RETIRING
from edge import asked, bypass
from edge.around import Around, Peer
from tests.unit.edge.cuts import EPOCH
from tests.unit.edge.lines import AGENT, Line, Node, get, settle, until

BASE = f"/cmaf/live/1/{EPOCH}.1/"
MEDIA = "/cmaf/live/1.m3u8"

ORDINARY = {
    "playlist": get(MEDIA),
    "playlist with gzip": get(MEDIA, b"Accept-Encoding: gzip, deflate"),
    "playlist with fields of a browser": get(
        MEDIA, b"Accept: */*", b"Accept-Encoding: br;q=0.5, gzip;q=0", b"Origin: http://x.example"
    ),
    "playlist that has what is asked for": get(f"{MEDIA}?_HLS_msn=1&_HLS_part=0"),
    "delta playlist": get(f"{MEDIA}?_HLS_msn=1&_HLS_part=0&_HLS_skip=YES"),
    "keep-alive": get(MEDIA, b"Connection: Keep-Alive"),
    "init segment": get(f"{BASE}init-0.mp4"),
    "segment": get(f"{BASE}s1.m4s"),
    "part": get(f"{BASE}p3.m4s"),
    "part for who takes gzip": get(f"{BASE}p3.m4s", b"Accept-Encoding: gzip"),
    "audio": get(f"/cmaf/live/2/{EPOCH}.1/p3.m4s"),
}
"""What the bypass answers."""

OTHER = {
    "multivariant playlist": get("/cmaf/live/index.m3u8"),
    "HEAD": get(f"{BASE}s1.m4s").replace(b"GET", b"HEAD"),
    "OPTIONS": get(f"{BASE}s1.m4s").replace(b"GET", b"OPTIONS"),
    "HTTP/1.0": get(f"{BASE}s1.m4s").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no version": get(f"{BASE}s1.m4s").replace(b" HTTP/1.1", b""),
    "close": get(f"{BASE}s1.m4s", b"Connection: close"),
    "range": get(f"{BASE}s1.m4s", b"Range: bytes=10-19"),
    "range that is none": get(f"{BASE}s1.m4s", b"Range: bytes=9999999-"),
    "conditional": get(f"{BASE}s1.m4s", b"If-None-Match: *"),
    "another epoch": get("/cmaf/live/1/7.1/s1.m4s"),
    "another packaging": get(f"/cmaf/live/1/{EPOCH}.9/s1.m4s"),
    "another track": get("/cmaf/live/9.m3u8"),
    "another suffix": get(f"{BASE}s1.mp4"),
    "a segment that will not come": get(f"{BASE}s99.m4s"),
    "directives that make no sense": get(f"{MEDIA}?_HLS_part=1"),
    "a directive given twice": get(f"{MEDIA}?_HLS_msn=1&_HLS_msn=0"),
    "a number that is none": get(f"{MEDIA}?_HLS_msn=x"),
    "too far ahead": get(f"{MEDIA}?_HLS_msn=900"),
    "another query": get(f"{MEDIA}?session=1"),
    "percent": get("/cmaf/li%76e/1.m3u8"),
    "dots": get("/cmaf/./live/1.m3u8"),
    "a field given twice": get(MEDIA, b"Accept-Encoding: gzip", b"Accept-Encoding: identity"),
    "a second host": get(MEDIA, b"Host: other"),
    "no host": get(MEDIA).replace(b"Host: edge\r\n", b""),
    "a folded field": get(MEDIA, b"Accept: a,", b" b"),
    "a field without a colon": get(MEDIA, b"nonsense"),
    "a field with a space in its name": get(MEDIA, b"a b: c"),
    "a control character": get(MEDIA, b"A: \x01"),
    "letters beyond ASCII": get(MEDIA, "A: ü".encode()),
    "a body": get(MEDIA, b"Content-Length: 3") + b"abc",
    "a body in chunks": get(MEDIA, b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "an upgrade": get(MEDIA, b"Connection: Upgrade", b"Upgrade: websocket"),
    "two at once": get(f"{BASE}p3.m4s") + get(f"{BASE}p4.m4s"),
    "one and a piece": get(f"{BASE}p3.m4s") + b"GET /cmaf",
    "empty lines before it": b"\r\n\r\n" + get(f"{BASE}p3.m4s"),
    "spaces": get(f"{BASE}p3.m4s").replace(b" /", b"  /", 1),
    "garbage": b"\x00\x01\r\n\r\n",
    "many fields": get(MEDIA, *(b"A%d: b" % number for number in range(60))),
    "too many fields": get(MEDIA, *(b"A%d: b" % number for number in range(80))),
    "an absolute target": get("http://other.example/cmaf/live/1.m3u8"),
}
"""What it leaves to aiohttp."""

TABLE = ORDINARY | OTHER


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = await Node(tmp_path).start()
    yield made
    await made.close()


@pytest.fixture(scope="module")
def two_ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Node]]:
    async def make() -> Node:
        made = await Node(tmp_path_factory.mktemp("pages")).start()
        await made.known()
        return made

    with asyncio.Runner() as runner:
        made = runner.run(make())
        yield runner, made
        runner.run(made.close())


async def test_a_viewer_keeps_nothing_of_the_request_that_it_began_with(node: Node) -> None:
    line = await node.known()
    await line.feed(get(MEDIA))  # the short way: what aiohttp keeps is let go
    assert node.bypass.answered == 1
    gc.collect()
    connection = line.connection
    assert not [
        kept
        for kept in gc.get_objects()
        if isinstance(kept, web.BaseRequest) and kept.protocol is connection
    ]


@pytest.mark.parametrize("turns", range(4))
async def test_a_request_for_aiohttp_right_after_that_is_answered(node: Node, turns: int) -> None:
    line = await node.known()
    line.connection.data_received(get(MEDIA))
    await settle(turns)
    line.connection.data_received(get(MEDIA).replace(b"HTTP/1.1", b"HTTP/1.0"))
    await settle()
    assert line.taken.count(b"200 OK") == 2
    assert line.transport.closing


async def test_a_viewer_who_leaves_right_after_that_is_forgotten(node: Node) -> None:
    line = await node.known()
    line.connection.data_received(get(MEDIA))
    line.drop()
    await settle()
    assert line.connection._task_handler is None or line.connection._task_handler.done()


@given(data=st.data())
def test_both_ways_give_the_same_bytes_however_requests_are_cut(
    two_ways: tuple[asyncio.Runner, Node], data: st.DataObject
) -> None:
    runner, node = two_ways
    names = data.draw(st.lists(st.sampled_from(sorted(TABLE)), min_size=1, max_size=4))
    pieces = []
    for name in names:
        request = TABLE[name]
        cuts = data.draw(st.lists(st.integers(1, len(request) - 1), max_size=3, unique=True))
        edges = [0, *sorted(cuts), len(request)]
        pieces += [request[a:b] for a, b in itertools.pairwise(edges)]

    async def both() -> tuple[Line, Line]:
        return (
            await Line(node.quick).feed(*pieces),
            await Line(node.slow).feed(*pieces),
        )

    quick, slow = runner.run(both())
    assert quick.taken == slow.taken
    assert quick.transport.closing == slow.transport.closing


@pytest.mark.parametrize("name", TABLE)
async def test_what_is_ordinary_takes_the_short_way_and_gets_the_same_bytes(
    node: Node, name: str
) -> None:
    quick, slow = await node.known(), Line(node.slow)
    before = node.bypass.answered
    await quick.feed(TABLE[name])
    await slow.feed(TABLE[name])
    assert quick.taken == slow.taken
    assert quick.taken or name in ("one and a piece",)
    assert node.bypass.answered - before == (name in ORDINARY)


async def test_the_first_request_of_a_viewer_is_one_for_the_guards(node: Node) -> None:
    line = await Line(node.quick).feed(ORDINARY["segment"])
    assert node.bypass.answered == 0
    assert [session.peer for session in node.sessions] == ["192.0.2.1"]
    await line.feed(ORDINARY["segment"])
    assert node.bypass.answered == 1
    await line.feed(ORDINARY["segment"].replace(AGENT, b"User-Agent: another\r\n"))
    assert len(node.sessions) == 2, "another agent is another viewer"


async def test_what_the_bypass_sends_is_counted_like_anything_else(node: Node) -> None:
    line = await node.known()
    (session,) = node.sessions
    before, seen = session.bytes, session.seen
    await line.feed(ORDINARY["segment"])
    body = line.taken.partition(b"\r\n\r\n")[2]
    assert session.bytes - before == len(body)
    assert node.sessions.bytes["hls"] == session.bytes
    assert session.seen > seen


async def test_a_guard_that_wants_to_be_asked_each_time_is(node: Node) -> None:
    line = await node.known()
    asked_for = []

    async def ask(request: web.Request, stream: str) -> None:
        asked_for.append(stream)

    node.sessions.guard(ask)
    await line.feed(ORDINARY["segment"])
    assert asked_for == ["live"]
    assert node.bypass.answered == 0


async def test_a_viewer_whose_session_has_ended_begins_anew(node: Node) -> None:
    line = await node.known()
    await line.feed(ORDINARY["segment"])
    (first,) = node.sessions
    first.close("kicked")
    await line.feed(ORDINARY["segment"])
    (second,) = node.sessions
    assert second is not first
    assert node.bypass.answered == 1


async def test_a_playlist_is_the_newest_one_after_each_wake(node: Node) -> None:
    line = await node.known()
    await line.feed(ORDINARY["playlist"])
    node.run(2)
    line.transport.taken.clear()
    await line.feed(ORDINARY["playlist"])
    slow = await Line(node.slow).feed(ORDINARY["playlist"])
    assert line.taken == slow.taken
    assert node.bypass.answered == 2


async def test_parked_requests_are_answered_together_with_one_text(node: Node) -> None:
    count = bypass.BATCH * 2 + 50
    lines = [await node.known() for _ in range(count)]
    for line in lines:
        line.connection.data_received(get(f"{MEDIA}?_HLS_msn=2&_HLS_part=6"))
    assert node.waiting == 1
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += not all(line.transport.taken for line in lines)
        asyncio.get_running_loop().call_soon(turn)

    node.run(2)
    turn()
    assert not any(line.transport.taken for line in lines)
    await settle()
    assert {line.taken for line in lines} == {lines[0].taken}
    assert b"#EXTM3U" in lines[0].taken
    assert turns > 2, "the loop had its turn between"
    assert node.waiting == 0
    assert node.bypass.answered == count


async def test_a_parked_part_goes_out_when_it_is_there(node: Node) -> None:
    line = await node.known()
    text = (await Line(node.slow).feed(ORDINARY["playlist"])).taken.decode()
    hint = text.partition('#EXT-X-PRELOAD-HINT:TYPE=PART,URI="')[2].partition('"')[0]
    await line.feed(get(f"/cmaf/live/{hint}"))
    assert (node.waiting, line.taken) == (1, b"")
    node.run(1)
    await settle()
    slow = await Line(node.slow).feed(get(f"/cmaf/live/{hint}"))
    assert line.taken == slow.taken
    assert b"200 OK" in line.taken
    assert node.bypass.answered == 1


async def test_both_ways_wait_together(node: Node) -> None:
    request = get(f"{MEDIA}?_HLS_msn=2&_HLS_part=6")
    lines = [await node.known(), Line(node.slow)]
    for line in lines:
        await line.feed(request)
    node.run(2)
    await settle()
    assert lines[0].taken == lines[1].taken
    assert b"#EXTM3U" in lines[0].taken


async def test_viewers_who_leave_while_they_wait_leave_nothing(node: Node) -> None:
    lines = [await node.known() for _ in range(3)]
    for line in lines:
        await line.feed(get(f"{MEDIA}?_HLS_msn=2&_HLS_part=6"))
    for line in lines[:2]:
        line.drop()
    assert node.waiting == 1
    lines[2].drop()
    assert node.waiting == 0
    assert not node.bypass._plain.keys() & {f"{MEDIA}?_HLS_msn=2&_HLS_part=6".encode()}
    node.run(2)
    await settle()
    assert not any(line.transport.taken for line in lines)


async def test_who_leaves_between_two_batches_is_left_out(node: Node) -> None:
    lines = [await node.known() for _ in range(bypass.BATCH + 2)]
    for line in lines:
        line.connection.data_received(get(f"{MEDIA}?_HLS_msn=2&_HLS_part=6"))
    node.run(2)
    for _ in range(10):
        await asyncio.sleep(0)
        if lines[0].transport.taken:
            break
    lines[-2].drop()
    await settle()
    assert not lines[-2].transport.taken
    assert lines[-1].taken == lines[0].taken


async def test_what_comes_behind_a_parked_request_is_answered_behind_it(node: Node) -> None:
    line = await node.known()
    await line.feed(get(f"{MEDIA}?_HLS_msn=2&_HLS_part=6"), ORDINARY["part"])
    assert not line.taken
    node.run(2)
    await settle()
    first, second = line.taken.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert b"#EXTM3U" in first
    assert b"video/mp4" in second
    line.transport.taken.clear()
    for _ in range(2):
        await line.feed(ORDINARY["part"])
    assert node.bypass.answered == 1, "and the one after the next one takes the short way again"


async def test_who_has_waited_long_enough_is_told_so(tmp_path: Path) -> None:
    node = await Node(tmp_path, wait=0.2).start()
    line = await node.known()
    _, stream = node.output._streams["live"]
    hinted = stream.current.playlists.listing(1)
    assert hinted is not None
    await line.feed(get(f"{BASE}p{hinted.next_part}.m4s"))
    began = asyncio.get_running_loop().time()
    await until(lambda: bool(line.transport.taken))
    assert 0.15 < asyncio.get_running_loop().time() - began < 0.35, "and not twice as long"
    assert b" 404 " in line.taken
    await node.close()


async def test_parked_requests_of_a_stream_that_is_given_up_are_refused(node: Node) -> None:
    line = await node.known()
    await line.feed(get(f"{MEDIA}?_HLS_msn=2&_HLS_part=6"))
    node.mirrors._forget("live")
    node.mirrors.wait = 0.01
    await until(lambda: bool(line.transport.taken))
    assert b" 404 " in line.taken


async def test_nothing_is_served_of_a_stream_that_is_given_up(node: Node) -> None:
    line = await node.known()
    for name in ("segment", "playlist"):
        await line.feed(ORDINARY[name])
    node.mirrors._forget("live")
    node.mirrors.wait = 0.01
    line.transport.taken.clear()
    await line.feed(ORDINARY["segment"])
    await until(lambda: bool(line.transport.taken))
    assert b" 404 " in line.taken
    assert node.bypass.answered == 2
    node.bypass.sweep()
    assert not node.bypass._plain


async def test_a_draining_edge_redirects_and_one_that_retires_ends_connections(
    node: Node,
) -> None:
    lines = [await node.known() for _ in range(2)]
    await lines[1].feed(get(f"{MEDIA}?_HLS_msn=2&_HLS_part=6"))
    assert node.runner.app is not None
    node.runner.app[RETIRING].set()
    await lines[0].feed(ORDINARY["segment"])
    node.run(2)
    await lines[1].feed()
    for line in lines:
        assert b"\r\nConnection: close\r\n" in line.taken
        assert line.transport.closing
    node.runner.app[RETIRING].clear()
    line = await node.known()
    await line.feed(get(f"{MEDIA}?_HLS_msn=4&_HLS_part=0"))
    around = Around(peers=(Peer("other", "http://other"),), draining=True)
    node.mover.around = around
    node.run(4)
    await settle()
    assert b" 307 " in line.taken
    assert node.bypass.answered == 0


async def test_connections_that_only_take_the_short_way_are_closed_when_idle(
    node: Node,
) -> None:
    line = await node.known()
    line.connection._keepalive_timeout = 0.2
    loop = asyncio.get_running_loop()
    for _ in range(4):
        await line.feed(ORDINARY["part"])
        line.connection._process_keepalive()
        await asyncio.sleep(0.1)  # time has to pass
        assert not line.transport.closing
    assert node.bypass.answered == 4
    began = loop.time()
    await until(lambda: bool(line.transport.closing))
    assert loop.time() - began < 0.3


async def test_a_viewer_who_takes_an_answer_slowly_is_not_idle(node: Node) -> None:
    line = await node.known()
    line.transport.blocked = True
    await line.feed(ORDINARY["segment"])
    for waiting in (True, False):
        line.connection._next_keepalive_close_time = 0.0
        line.connection._process_keepalive()
        assert line.transport.closing != waiting
        line.transport.drain()
    assert b"200 OK" in line.taken


async def test_a_connection_that_has_not_taken_its_last_answer_gets_no_more(node: Node) -> None:
    line = await node.known()
    line.connection.pause_writing()
    await line.feed(ORDINARY["segment"])
    assert node.bypass.answered == 0
    line.connection.resume_writing()


async def test_what_is_remembered_is_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "MAX_BLOCKS", 3)
    monkeypatch.setattr(bypass, "MAX_TARGETS", 2)
    line = await node.known()
    for number in range(5):
        await line.feed(get(f"{BASE}p{number}.m4s", b"A: %d" % number))
    assert len(node.bypass._blocks) == 3
    assert len(node.bypass._plain) == 2
    assert node.bypass.answered == 2, "the others were answered by aiohttp"
    assert line.taken.count(b"200 OK") == 5
    long = get(MEDIA, b"A: " + b"a" * asked.MAX_BLOCK)
    assert node.bypass._blocks.read(long[long.index(b"\r\n") :]) is None
