import asyncio
from pathlib import Path

import pytest

from common.errors import FormatError, NodeUnavailable, StreamNotFound
from common.track.limits import Limits
from common.track.store import StreamWriter
from edge import mirrors as module
from edge.cmaf_stream import CmafStream
from edge.mirrors import Mirrors
from edge.packager import Packager
from edge.playlists import WAIT, Wait
from tests.unit.edge.live import LiveStream


class Followed:
    """Collects what a follower is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[set[int], bool]] = []

    def __call__(self, moved: set[int], changed: bool) -> None:
        self.calls.append((moved, changed))


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


@pytest.fixture
async def mirrors(tmp_path: Path, clock: list[float]) -> Mirrors:
    return Mirrors(tmp_path, wait=0.05, linger=10, clock=lambda: clock[0])


async def get(mirrors: Mirrors, stream: str = "live", epoch: int = 7) -> module.Mirror:
    task = asyncio.create_task(mirrors.get(stream, 5))
    await asyncio.sleep(0)
    mirrors.state(stream, "live", epoch)
    return await task


async def test_the_first_viewer_asks_for_the_stream_and_waits_until_it_is_live(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    asked: list[list[str]] = []
    mirrors.on_want = lambda: asked.append(mirrors.wanted())
    LiveStream(tmp_path)
    mirror = await get(mirrors)
    assert asked == [["live"]]
    assert mirror.catalog.stream == "live"
    assert mirrors.peek("live") is mirror
    assert await mirrors.get("live", 0) is mirror


async def test_a_stream_that_does_not_come_is_not_found_and_no_longer_asked_for(
    mirrors: Mirrors,
) -> None:
    with pytest.raises(StreamNotFound):
        await mirrors.get("nobody")
    assert mirrors.wanted() == []


async def test_a_name_that_is_none_is_refused(mirrors: Mirrors) -> None:
    with pytest.raises(FormatError):
        await mirrors.get("../etc")


async def test_there_is_a_limit_to_what_is_asked_for(
    mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WANTED", 2)
    waiting = [asyncio.create_task(mirrors.get(name)) for name in ("a", "b")]
    await asyncio.sleep(0)
    with pytest.raises(NodeUnavailable):
        await mirrors.get("c")
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_followers_hear_once_per_wake_which_tracks_moved(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    stream = LiveStream(tmp_path)
    other = LiveStream(tmp_path, "other")
    first, second = await get(mirrors), await get(mirrors, "other")
    heard, elsewhere = Followed(), Followed()
    first.subscribe(heard)
    second.subscribe(elsewhere)
    stream.video()
    stream.video()
    mirrors.advance()
    mirrors.advance()
    assert heard.calls == [({1}, False)]
    assert elsewhere.calls == []
    stream.audio()
    other.video()
    mirrors.advance()
    assert heard.calls[1:] == [({2}, False)]
    assert elsewhere.calls == [({1}, False)]


async def test_a_new_catalog_and_the_end_are_told(mirrors: Mirrors, tmp_path: Path) -> None:
    stream = LiveStream(tmp_path)
    mirror = await get(mirrors)
    heard = Followed()
    unsubscribe = mirror.subscribe(heard)
    stream.publish()
    mirrors.advance()
    assert heard.calls == [(set(), True)]
    mirrors.state("live", "ended", 7)
    assert mirror.ended
    assert heard.calls[1:] == [(set(), True)]
    unsubscribe()
    stream.video()
    mirrors.advance()
    assert len(heard.calls) == 2


async def test_a_newer_epoch_is_followed_and_the_old_one_can_still_be_read(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    LiveStream(tmp_path).frames(3)
    mirror = await get(mirrors)
    heard = Followed()
    mirror.subscribe(heard)
    newer = LiveStream(tmp_path, epoch=8)
    newer.video()
    mirrors.state("live", "live", 8)
    assert mirror.epoch == 8
    assert heard.calls == [({0, 1, 2}, True)]
    assert mirror.readers[7].track(1).head == 3
    newer.video()
    mirrors.advance()
    assert heard.calls[1:] == [({1}, False)]


async def test_an_origin_that_is_away_does_not_end_the_stream(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    LiveStream(tmp_path).frames(3)
    mirror = await get(mirrors)
    mirrors.state("live", "absent", 7)
    assert not mirror.ended
    assert mirrors.peek("live") is mirror


async def test_when_the_worker_lets_go_the_pages_are_closed_and_opened_anew(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    stream = LiveStream(tmp_path)
    mirror = await get(mirrors)
    heard = Followed()
    mirror.subscribe(heard)
    stream.writer.remove()
    mirrors.state("live", "absent", 0)
    assert mirror.closed
    assert heard.calls == [(set(), True)]
    assert mirrors.peek("live") is None
    LiveStream(tmp_path).frames(2)
    again = await get(mirrors)
    assert again is not mirror
    assert again.reader.track(1).head == 2


async def test_a_folder_made_anew_in_the_same_epoch_is_followed(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    stream = LiveStream(tmp_path)
    stream.frames(9)
    mirror = await get(mirrors)
    heard = Followed()
    mirror.subscribe(heard)
    stream.writer.remove()
    mirrors.advance()
    assert mirror.reader.removed
    fresh = StreamWriter.open(tmp_path, "live", 7, Limits())
    before = mirror.reader
    mirrors.advance()
    assert mirror.reader is before, "there is no catalog yet"
    fresh.close()
    LiveStream(tmp_path).frames(2)
    heard.calls.clear()
    mirrors.advance()
    assert heard.calls == [({0, 1, 2}, True)]
    assert mirror.epoch == 7
    assert mirror.readers == {7: mirror.reader}
    assert mirror.reader.track(1).head == 2
    mirrors.advance()
    assert len(heard.calls) == 1


async def test_a_stream_is_given_up_some_time_after_its_last_viewer(
    mirrors: Mirrors, tmp_path: Path, clock: list[float]
) -> None:
    LiveStream(tmp_path)
    mirror = await get(mirrors)
    clock[0] += 9
    assert mirrors.wanted({"live"}) == ["live"]
    clock[0] += 9
    assert mirrors.wanted() == ["live"]
    clock[0] += 2
    assert mirrors.wanted() == []
    assert mirror.closed


async def test_live_pages_that_are_not_there_are_waited_for(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    waiting = asyncio.create_task(mirrors.get("live", 5))
    await asyncio.sleep(0)
    mirrors.state("live", "live", 7)
    await asyncio.sleep(0)
    assert not waiting.done()
    LiveStream(tmp_path)
    mirrors.state("live", "live", 7)
    assert (await waiting).epoch == 7
    mirrors.close()


async def test_a_stream_is_kept_while_a_viewer_waits_for_its_first_playlist(
    mirrors: Mirrors, tmp_path: Path, clock: list[float]
) -> None:
    LiveStream(tmp_path)
    mirror = await get(mirrors)
    with mirror.awaited():
        clock[0] += 60
        assert mirrors.wanted() == ["live"]
    clock[0] += 11
    assert mirrors.wanted() == []


async def test_who_waits_for_tracks_or_an_object_counts_as_waiting(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    LiveStream(tmp_path)
    mirror = await get(mirrors)
    seen: list[int] = []

    def look() -> Wait:
        seen.append(mirror.waiting)
        return WAIT

    stream = CmafStream(mirror, Packager(1), lambda track, segment: None)
    waiting = asyncio.create_task(stream.wait("it", look, 0.3))
    while not seen:
        await asyncio.sleep(0)
        mirror.advance(changed=True)
    assert seen[0] == 1
    assert await waiting is WAIT
    stream.close()
    assert mirror.waiting == 0
