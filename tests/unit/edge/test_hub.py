import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from common.errors import FormatError, StreamNotFound, TrackUnsupported
from common.media.codec import Codec
from common.media.track import Track
from common.track.reader import StreamReader
from edge import flow
from edge.feed import Format, Item
from edge.hub import Hub, Phase, Viewer
from edge.mirrors import Mirror
from edge.selection import Selection
from edge.sessions import Session, Sessions
from tests.unit.edge.live import AUDIO, OTHER_INIT, FakeTransport, LiveStream


class Ledger(Format):
    """Writes down which frames a viewer got: ``H(1=0,2=0)`` and ``1:17:...;``."""

    protocol = "ledger"
    codecs = frozenset({Codec.H264, Codec.AAC})

    def __init__(self) -> None:
        self.muxed = 0
        self.fail = False

    def header(self, tracks: Sequence[Track], inits: Mapping[int, int]) -> bytes:
        known = ",".join(f"{number}={init}" for number, init in sorted(inits.items()))
        return f"H({known})".encode()

    def change(self, tracks: Sequence[Track], inits: Mapping[int, int], dts_us: int) -> bytes:
        return self.header(tracks, inits).replace(b"H", b"C")

    def media(self, items: Sequence[Item], number: int) -> bytes:
        if self.fail:
            raise FormatError("time goes backwards")
        self.muxed += len(items)
        return b"".join(item.payload + b";" for item in items)


def got(transport: FakeTransport, track: int = 1) -> list[int]:
    """Return the seqs of a track in the order in which they came."""
    return [int(seq) for seq in re.findall(rb"(?<!\d)%d:(\d+):" % track, bytes(transport.taken))]


class Room:
    """A hub with one stream."""

    def __init__(self, root: Path, stream: LiveStream) -> None:
        self.stream = stream
        self.mirror = Mirror(stream.name, StreamReader.open(root, stream.name, 7), 7)
        self.sessions = Sessions()
        self.hub = Hub(self.sessions)
        self.form = Ledger()

    def join(self, selection: Selection | None = None) -> tuple[Viewer, FakeTransport]:
        transport = FakeTransport()
        request = MagicMock(remote="peer", headers={})
        session: Session = self.sessions.open(self.stream.name, "ledger", request)
        choice = selection or Selection()
        return self.hub.join(self.mirror, choice, self.form, transport, session), transport

    def wake(self) -> None:
        self.mirror.advance()


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
    room.stream.frames(42)
    _, transport = room.join()
    room.stream.video(lost=True)
    room.stream.frames(12)
    room.wake()
    assert got(transport) == [40, 41, *range(50, 55)]
    sounds = got(transport, 2)
    assert sounds == list(range(sounds[0], len(room.stream.sent[2])))


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


async def test_when_the_stream_ends_viewers_get_the_rest_and_are_let_go(room: Room) -> None:
    room.stream.frames(45)
    viewer, transport = room.join()
    room.stream.frames(3)
    room.stream.publish(live=False)
    room.wake()
    assert got(transport) == list(range(40, 48))
    assert await viewer.done == "ended"
    assert not transport.aborted


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
