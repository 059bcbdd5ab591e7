"""A stream from its first frame to its removal."""

from itertools import pairwise
from pathlib import Path

import pytest

from common.errors import StoreFull, TrackUnsupported
from common.media.codec import Codec
from common.media.frame import Frame
from common.track.record import Flag
from origin.live import LiveStream
from origin.publisher import Publisher
from tests.unit.media.samples import AVCC_BASELINE, AVCC_HIGH, HVCC_MAIN
from tests.unit.origin.stage import UNIX_US, Encoder, Stage, settings


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


async def enter(stage: Stage, slot: str = "main") -> Publisher:
    return await stage.streams.publish("live", "sesame", slot=slot)


def live(stage: Stage) -> LiveStream:
    return stage.streams.live()[0]


def states(stage: Stage) -> list[bool]:
    """Return whether the stream was live, catalog by catalog."""
    return [catalog.live for catalog in stage.bus.catalogs]


async def test_frames_become_records_in_pages_and_on_the_bus(stage: Stage) -> None:
    encoder = Encoder(stage, await enter(stage))
    encoder.send(7)
    bus = stage.bus
    catalog = bus.catalogs[-1]
    assert [track.codec for track in catalog.tracks] == [Codec.H264, Codec.AAC]
    assert (catalog.target_duration, catalog.part_target_us) == (2, 220_000)
    assert bus.catalogs[0].part_target_us == 220_000, "no record before the part target is known"
    assert catalog.independent
    assert [one.version for one in bus.catalogs] == list(range(1, len(bus.catalogs) + 1))
    video = bus.records[1]
    assert len(video) == 175
    assert bus.payloads[1] == [b"video %d" % n for n in range(175)]
    assert [record.dts for record in video] == [900_000 + 3600 * n for n in range(175)]
    assert [record.segment for record in video] == [n // 50 for n in range(175)]
    assert {record.part for record in video[:50]} == set(range(10))
    assert all(b.dts - a.dts == 1024 for a, b in pairwise(bus.records[2]))
    assert [row.segment for row in bus.opened] == [0, 1, 2, 3]
    assert [row.opened.segment for row in bus.closed] == [0, 1, 2]
    assert [row.duration_us for row in bus.closed] == [2_000_000] * 3
    assert set(bus.flushed) == {1}
    reader = live(stage).writer.reader()
    assert reader.track(1).payloads(0, 175) == bus.payloads[1]
    assert reader.track(2).head == len(bus.records[2])


async def test_the_wall_clock_of_a_segment_is_its_arrival(stage: Stage) -> None:
    start = stage.clock.now()
    encoder = Encoder(stage, await enter(stage))
    encoder.send(9)
    for row in stage.bus.opened:
        assert abs(row.wall_us - start - (row.start_us - 10_000_000)) < 50_000
    assert start > UNIX_US


async def test_frames_before_the_first_keyframe_are_left_out(stage: Stage) -> None:
    publisher = await enter(stage)
    encoder = Encoder(stage, publisher)
    encoder.sent = 40
    encoder.send(1)
    assert stage.bus.payloads[1][0] == b"video 50"
    first = stage.bus.records[1][0]
    assert stage.bus.records[2][0].dts * 1_000_000 // 48_000 >= first.dts * 100 // 9 - 11_000


async def test_a_reconnecting_encoder_goes_on_in_its_tracks_after_a_discontinuity(
    stage: Stage,
) -> None:
    encoder = Encoder(stage, await enter(stage))
    encoder.send(3)
    encoder.publisher.close("reset by peer")
    assert [row.opened.segment for row in stage.bus.closed] == [0, 1]
    stage.clock.wait(5)
    again = Encoder(stage, await enter(stage))
    assert (again.video, again.audio) == (encoder.video, encoder.audio)
    again.send(3)
    records = stage.bus.records[1]
    assert [record.seq for record in records] == list(range(150))
    first = records[75]
    assert first.flags & (Flag.KEY | Flag.DISCONTINUITY) == Flag.KEY | Flag.DISCONTINUITY
    assert first.segment == 2
    assert abs(first.dts - records[74].dts - 5 * 90_000) < 18_000, "time went on meanwhile"
    row = stage.bus.opened[2]
    assert row.breaks
    assert row.discontinuity == 1
    assert next(r for r in stage.bus.records[2] if r.segment == 2).flags & Flag.DISCONTINUITY
    track = stage.bus.catalogs[-1].track(1)
    assert track is not None
    assert track.inits == (AVCC_BASELINE,)
    assert stage.bus.catalogs[-1].live


async def test_other_setup_bytes_after_a_reconnect_are_a_new_init_of_the_same_track(
    stage: Stage,
) -> None:
    first = Encoder(stage, await enter(stage))
    first.send(1)
    first.publisher.close("bye")
    again = Encoder(stage, await enter(stage), AVCC_HIGH)
    again.send(1)
    track = stage.bus.catalogs[-1].track(again.video)
    assert track is not None
    assert track.inits == (AVCC_BASELINE, AVCC_HIGH)
    assert {record.init for record in stage.bus.records[1][25:]} == {1}


async def test_setup_bytes_that_change_midstream_hold_from_the_next_keyframe(
    stage: Stage,
) -> None:
    encoder = Encoder(stage, await enter(stage))
    encoder.send(1)
    encoder.publisher.set_init(encoder.video, AVCC_BASELINE)
    encoder.publisher.set_init(encoder.video, AVCC_HIGH)
    encoder.send(3)
    records = stage.bus.records[1]
    assert [record.init for record in records] == [0] * 50 + [1] * 50
    assert records[50].flags & Flag.DISCONTINUITY
    assert stage.bus.opened[1].breaks
    assert stage.bus.catalogs[-1].independent


async def test_another_codec_ends_the_track_and_gets_a_new_id(stage: Stage) -> None:
    encoder = Encoder(stage, await enter(stage))
    encoder.send(1)
    encoder.publisher.close("bye")
    publisher = await enter(stage)
    number = publisher.add_track(Codec.HEVC, HVCC_MAIN, clock=1000, wrap_bits=32)
    assert number == 3
    for n in range(25):
        publisher.write(Frame(number, n * 40, b"hevc", keyframe=n == 0))
    catalog = stage.bus.catalogs[-1]
    assert [(track.id, track.ended) for track in catalog.tracks] == [
        (1, True),
        (2, False),
        (3, False),
    ]
    stage.clock.wait(6)
    await stage.streams.tick()
    assert [track.ended for track in stage.bus.catalogs[-1].tracks] == [True, True, False]


async def test_a_jump_of_the_timestamps_breaks_all_tracks_at_the_next_keyframe(
    stage: Stage,
) -> None:
    encoder = Encoder(stage, await enter(stage))
    encoder.send(3)
    encoder.send(3, start_ms=5_000_000)
    opened = stage.bus.opened
    assert [row.breaks for row in opened] == [False, False, True]
    for track in (1, 2):
        flagged = [r for r in stage.bus.records[track] if r.flags & Flag.DISCONTINUITY]
        assert [record.segment for record in flagged] == [2]
        assert all(a.dts < b.dts for a, b in pairwise(stage.bus.records[track]))
    assert stage.bus.catalogs[-1].independent


async def test_a_stream_waits_for_its_publisher_then_ends_then_is_removed(stage: Stage) -> None:
    encoder = Encoder(stage, await enter(stage))
    encoder.send(3)
    encoder.publisher.close("gone")
    stage.clock.wait(29)
    await stage.streams.tick()
    assert states(stage)[-1] is True
    stage.clock.wait(2)
    await stage.streams.tick()
    assert states(stage)[-2:] == [True, False]
    stage.clock.wait(59)
    await stage.streams.tick()
    assert stage.streams.live()
    stage.clock.wait(2)
    await stage.streams.tick()
    assert not stage.streams.live()
    assert stage.bus.removed == [("live", stage.bus.catalogs[-1].epoch)]
    assert await stage.registry.owner("live") is None


async def test_an_ended_stream_can_begin_again(stage: Stage) -> None:
    encoder = Encoder(stage, await enter(stage))
    encoder.send(1)
    encoder.publisher.close("over", ended=True)
    assert states(stage)[-1] is False
    again = Encoder(stage, await enter(stage))
    again.send(1)
    assert states(stage)[-1] is True
    assert len({catalog.epoch for catalog in stage.bus.catalogs}) == 1


async def test_video_without_keyframes_is_refused(stage: Stage) -> None:
    publisher = await enter(stage)
    track = publisher.add_track(Codec.H264, AVCC_BASELINE, clock=1000)
    for n in range(251):
        publisher.write(Frame(track, n * 40, b"P"))
    with pytest.raises(TrackUnsupported, match="no keyframe in 10 s"):
        publisher.write(Frame(track, 251 * 40, b"P"))


async def test_tracks_that_cannot_be_carried_are_refused(stage: Stage) -> None:
    publisher = await enter(stage)
    with pytest.raises(TrackUnsupported, match="unusable setup data"):
        publisher.add_track(Codec.H264, b"nonsense", clock=1000)
    with pytest.raises(TrackUnsupported, match="ticks a second"):
        publisher.add_track(Codec.H264, AVCC_BASELINE, clock=0)
    for _ in range(16):
        publisher.add_track(Codec.JSON, b"", clock=1000)
    with pytest.raises(TrackUnsupported, match="at most 16"):
        publisher.add_track(Codec.JSON, b"", clock=1000)
    with pytest.raises(TrackUnsupported, match="not this publisher's"):
        publisher.write(Frame(99, 0, b"x"))


async def test_a_full_store_drops_frames_and_goes_on_at_a_keyframe(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(stage, await enter(stage))
    encoder.send(3)
    held = len(stage.bus.records[1])
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StoreFull("no room")

        patch.setattr(live(stage).writer, "append", full)
        encoder.send(2)
    assert len(stage.bus.records[1]) == held
    encoder.send(3)
    records = stage.bus.records[1]
    assert records[held].flags & (Flag.KEY | Flag.DISCONTINUITY) == 3
    assert [record.seq for record in records] == list(range(len(records)))
    assert stage.bus.payloads[1][held] == b"video 150"
    segments = [row.segment for row in stage.bus.opened]
    assert segments == list(range(len(segments)))
    assert [row.opened for row in stage.bus.closed] == stage.bus.opened[:-1]


async def test_pages_older_than_the_window_are_evicted(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"live": settings(window=10)})
    encoder = Encoder(stage, await enter(stage))
    for _ in range(30):
        encoder.send(1)
        await stage.streams.tick()
    writer = live(stage).writer
    oldest = writer.reader().track(1).record(writer.oldest(1))
    newest = stage.bus.records[1][-1]
    assert 12 * 90_000 <= newest.dts - oldest.dts < 20 * 90_000


async def test_two_slots_share_the_timeline_of_their_stream(stage: Stage) -> None:
    main = Encoder(stage, await enter(stage))
    main.send(3)
    notes = await enter(stage, "notes")
    track = notes.add_track(Codec.JSON, b"", clock=1000)
    notes.write(Frame(track, 77_000_000, b"{}", keyframe=True))
    main.send(1)
    record = stage.bus.records[track][0]
    assert abs(record.dts - 13_000) < 300
    assert record.segment == 1
    assert stage.bus.catalogs[-1].track(track).slot == "notes"  # type: ignore[union-attr]


async def test_an_origin_that_crashed_goes_on_in_the_same_epoch(stage: Stage) -> None:
    encoder = Encoder(stage, await enter(stage))
    encoder.send(5)
    before, old = stage.bus, live(stage).catalog
    stage.crash()
    stage.clock.wait(3)
    await stage.streams.adopt()
    assert live(stage).catalog.epoch == old.epoch
    assert stage.bus.catalogs[-1].term > old.term
    assert [row.opened.segment for row in stage.bus.closed] == [2]
    assert stage.bus.closed[0].opened == before.opened[2]
    piece = stage.bus.closed[0].piece(1)
    assert piece is not None
    assert (piece.first, piece.count) == (100, 25)
    again = Encoder(stage, await enter(stage))
    again.send(3)
    first = stage.bus.records[1][0]
    last = before.records[1][-1]
    assert (first.seq, first.segment) == (125, 3)
    assert first.part == last.part + 1
    assert first.flags & Flag.DISCONTINUITY
    assert abs(first.dts - last.dts - 3 * 90_000) < 18_000
    assert stage.bus.opened[0].discontinuity == 1
    wall = stage.bus.opened[0].wall_us - before.opened[0].wall_us
    assert abs(wall - 8_000_000) < 200_000
    assert stage.bus.records[0][0].seq == len(before.records[0])


async def test_an_origin_without_its_pages_begins_an_epoch_whose_numbers_go_on(
    stage: Stage, tmp_path: Path
) -> None:
    encoder = Encoder(stage, await enter(stage))
    encoder.send(5)
    epoch = live(stage).catalog.epoch
    live(stage).writer.remove()
    stage.crash()
    stage.clock.wait(1)
    again = Encoder(stage, await enter(stage))
    again.send(1)
    assert live(stage).catalog.epoch > epoch
    assert stage.bus.opened[0].segment >= 3
    assert stage.bus.records[1][0].seq == 0


async def test_tracks_of_a_slot_that_stays_empty_end_while_the_stream_goes_on(
    stage: Stage,
) -> None:
    main = Encoder(stage, await enter(stage))
    second = await enter(stage, "backup")
    track = second.add_track(Codec.JSON, b"", clock=1000)
    main.send(2)
    second.write(Frame(track, 0, b"{}", keyframe=True))
    second.close("bye")
    main.send(29)
    await stage.streams.tick()
    ended = {one.id: one.ended for one in live(stage).catalog.tracks}
    assert ended == {1: False, 2: False, 3: False}
    main.send(2)
    await stage.streams.tick()
    ended = {one.id: one.ended for one in stage.bus.catalogs[-1].tracks}
    main.send(3)
    assert ended == {1: False, 2: False, 3: True}
    assert not any(row.breaks for row in stage.bus.opened)
