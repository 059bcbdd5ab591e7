import asyncio
import re
from pathlib import Path

import pytest

from common.errors import StreamNotFound, TrackUnsupported
from common.media.codec import Codec
from common.track.reader import StreamReader
from edge.hub import Phase
from edge.selection import Selection
from tests.unit.edge.live import AUDIO, OTHER_INIT, FakeTransport, LiveStream
from tests.unit.edge.room import Room, got


@pytest.fixture
async def room(tmp_path: Path) -> Room:
    return Room(tmp_path, LiveStream(tmp_path))


async def test_a_viewer_begins_at_the_newest_keyframe_and_gets_every_frame_once(
    room: Room,
) -> None:
    room.stream.frames(45)
    _, transport = room.join()
    for _ in range(30):
        room.stream.frames(1)
        room.wake()
    assert got(transport) == list(range(40, 75))
    audio = got(transport, 2)
    assert audio == list(range(audio[0], len(room.stream.sent[2])))
    assert room.stream.sent[2][audio[0]].dts / 48_000 >= room.stream.sent[1][40].dts / 90_000
    assert room.stream.sent[2][audio[0] - 1].dts / 48_000 < room.stream.sent[1][40].dts / 90_000


async def test_viewers_who_join_at_any_moment_get_every_frame_from_their_keyframe_on(
    room: Room,
) -> None:
    room.stream.frames(45)
    viewers = []
    for step in range(60):
        viewers.append(room.join()[1])
        room.stream.frames(step % 3)
        if step % 4:
            room.wake()
    room.wake()
    last = len(room.stream.sent[1])
    for transport in viewers:
        frames = got(transport)
        assert frames == list(range(frames[0], last))
        assert frames[0] % 10 == 0
        sounds = got(transport, 2)
        assert sounds == list(range(sounds[0], len(room.stream.sent[2])))


async def test_viewers_who_join_together_are_given_the_same_bytes_not_copies(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    monkeypatch.setattr(FakeTransport, "write", lambda self, data: given.append(data))
    room.stream.frames(45)
    for _ in range(3):
        room.join()
    first = given[: len(given) // 3]
    assert len(given) == 3 * len(first) > 0
    assert all(given[place] is first[place % len(first)] for place in range(len(given)))
    room.stream.frames(1)
    room.wake()
    assert len({id(data) for data in given[-3:]}) == 1


async def test_frames_come_in_dts_order_across_tracks_also_after_a_repair(room: Room) -> None:
    room.stream.frames(45)
    _, transport = room.join()
    for _ in range(60):
        room.stream.video()
    while len(room.stream.sent[2]) < 190:
        room.stream.audio()
    room.wake()
    order = re.findall(rb"([12]):(\d+):", bytes(transport.taken))
    scale = {1: 90_000, 2: 48_000}
    times = [room.stream.sent[int(t)][int(s)].dts / scale[int(t)] for t, s in order]
    assert times == sorted(times)


async def test_a_frame_is_muxed_once_however_many_watch(room: Room) -> None:
    room.stream.frames(45)
    transports = [room.join()[1] for _ in range(50)]
    burst = room.form.muxed
    assert burst < 30
    room.stream.frames(1)
    room.wake()
    assert room.form.muxed - burst <= 3
    assert len({bytes(transport.taken) for transport in transports}) == 1


async def test_those_who_begin_with_the_same_keyframe_share_what_was_made_for_the_first(
    room: Room,
) -> None:
    room.stream.frames(41)
    room.join()
    made = room.form.muxed
    transports = []
    for _ in range(8):
        room.stream.frames(1)
        room.wake()
        transports.append(room.join()[1])
    frames = len(room.stream.sent[1]) - 41
    assert room.form.muxed - made <= 3 * frames
    for transport in transports:
        assert got(transport) == list(range(40, 49))[: len(got(transport))]
    assert len(got(transports[-1])) == 9


async def test_a_stream_that_has_just_begun_is_sent_from_its_first_frame(tmp_path: Path) -> None:
    room = Room(tmp_path, LiveStream(tmp_path, gop=5))
    room.stream.frames(18)
    assert got(room.join()[1]) == list(range(18))


async def test_a_viewer_before_the_first_keyframe_gets_it_when_it_comes(tmp_path: Path) -> None:
    room = Room(tmp_path, LiveStream(tmp_path))
    viewer, transport = room.join()
    room.wake()
    assert not transport.taken
    assert viewer.phase is Phase.PENDING
    room.stream.frames(3)
    room.wake()
    assert transport.taken.startswith(b"H(1=0,2=0)1:0:")
    assert got(transport) == [0, 1, 2]


async def test_audio_waits_a_moment_for_a_picture_to_ride_with(room: Room) -> None:
    room.stream.frames(45)
    room.wake()
    _, transport = room.join()
    before = len(transport.taken)
    room.stream.audio()
    room.wake()
    assert len(transport.taken) == before
    room.stream.video()
    room.wake()
    assert len(transport.taken) > before
    room.stream.audio()
    room.wake()
    await asyncio.sleep(0.08)  # the time it waits for a picture is what is tested
    assert got(transport, 2)[-1] == len(room.stream.sent[2]) - 1


async def test_new_setup_bytes_go_before_the_first_frame_that_needs_them(room: Room) -> None:
    room.stream.frames(42)
    _, early = room.join()
    room.stream.frames(3)
    room.stream.new_init(OTHER_INIT)
    room.stream.video(key=True)
    room.wake()
    assert b"C(1=1,2=0)1:45:" in early.taken
    assert early.taken.count(b"C(") == 1
    _, late = room.join()
    assert late.taken.startswith(b"H(1=1,2=0)1:45:")


async def test_after_a_lost_picture_nothing_is_sent_until_the_next_keyframe(room: Room) -> None:
    skipped: list[tuple[str, str, int]] = []
    room.hub.on_skip = lambda *what: skipped.append(what)
    room.stream.frames(42)
    viewer, transport = room.join()
    room.join()
    room.stream.video(lost=True)
    room.stream.frames(12)
    room.wake()
    assert got(transport) == [40, 41, *range(50, 55)]
    assert skipped == [("ledger", "lost", 2 * 8)], "eight frames, for two viewers"
    assert viewer.session.dropped == 8
    sounds = got(transport, 2)
    assert sounds == list(range(sounds[0], len(room.stream.sent[2])))


async def test_when_the_stream_ends_viewers_get_the_rest_and_are_let_go(room: Room) -> None:
    room.stream.frames(45)
    viewer, transport = room.join()
    room.stream.frames(3)
    room.stream.publish(live=False)
    room.wake()
    assert got(transport) == list(range(40, 48))
    assert await viewer.done == "ended"
    assert not transport.aborted


async def test_a_new_epoch_ends_the_feed(room: Room, tmp_path: Path) -> None:
    room.stream.frames(45)
    viewer, _ = room.join()
    other = LiveStream(tmp_path, epoch=8)
    other.frames(3)
    room.mirror.switch(StreamReader.open(tmp_path, "live", 8), 8)
    room.mirror.advance(changed=True)
    assert await viewer.done == "ended"
    _, transport = room.join()
    assert got(transport) == [0, 1, 2]


async def test_a_folder_made_anew_ends_the_feed(room: Room, tmp_path: Path) -> None:
    room.stream.frames(45)
    viewer, _ = room.join()
    room.stream.writer.remove()
    LiveStream(tmp_path).frames(3)
    room.mirror.switch(StreamReader.open(tmp_path, "live", 7), 7)
    room.mirror.advance(changed=True)
    assert await viewer.done == "ended"
    _, transport = room.join()
    assert got(transport) == [0, 1, 2]


async def test_a_track_that_comes_late_joins_the_feed(tmp_path: Path) -> None:
    room = Room(tmp_path, LiveStream(tmp_path, audio=False))
    room.stream.frames(60)
    _, transport = room.join()
    room.stream.tracks.append(AUDIO)
    room.stream.publish()
    room.wake()
    room.stream.audio()
    room.stream.video()
    room.wake()
    assert b"C(1=0,2=0)" in transport.taken
    assert got(transport, 2) == [0]
    assert got(transport) == list(range(50, 61))


async def test_selectors_choose_tracks(room: Room) -> None:
    room.stream.frames(45)
    _, silent = room.join(Selection(audio="none"))
    _, blind = room.join(Selection(video="none"))
    room.stream.frames(2)
    room.wake()
    assert silent.taken.startswith(b"H(1=0)")
    assert not got(silent, 2)
    assert blind.taken.startswith(b"H(2=0)")
    assert not got(blind, 1)
    assert got(blind, 2)


async def test_a_video_only_stream_is_ready_once_audio_is_overdue(tmp_path: Path) -> None:
    room = Room(tmp_path, LiveStream(tmp_path, audio=False))
    room.stream.frames(10)
    ready = asyncio.create_task(room.hub.ready(room.mirror, Selection(), room.form))
    await asyncio.sleep(0)
    room.wake()
    await asyncio.sleep(0)
    assert not ready.done()
    room.stream.frames(20)
    room.wake()
    await ready


async def test_a_stream_without_tracks_is_not_found_and_foreign_codecs_are_refused(
    tmp_path: Path,
) -> None:
    empty = Room(tmp_path, LiveStream(tmp_path, audio=False))
    empty.stream.tracks.clear()
    empty.stream.publish()
    empty.wake()
    with pytest.raises(StreamNotFound):
        await empty.hub.ready(empty.mirror, Selection(), empty.form, 0.01)
    empty.form.codecs = frozenset({Codec.HEVC})
    empty.stream.tracks.append(LiveStream(tmp_path, "other").tracks[0])
    empty.stream.publish()
    empty.wake()
    with pytest.raises(TrackUnsupported):
        await empty.hub.ready(empty.mirror, Selection(), empty.form, 0.01)
