"""Where segments and parts begin, case by case."""

from itertools import pairwise

from common.track.index import Closed, Opened
from common.track.record import Flag
from origin.segmenter import Cuts, Segmenter
from tests.property.test_segmenter import KINDS, SCALES, START, Store, audio, sample, video


def make(*tracks: int, cuts: Cuts | None = None) -> tuple[Store, Segmenter]:
    store = Store()
    segmenter = Segmenter(cuts or Cuts(), lambda us: us, store.emit)
    for track in tracks:
        segmenter.add_track(track, KINDS[track], SCALES[track])
    return store, segmenter


def opened(store: Store) -> list[Opened]:
    return [row for row in store.rows if isinstance(row, Opened)]


def closed(store: Store) -> list[Closed]:
    return [row for row in store.rows if isinstance(row, Closed)]


def test_a_gop_longer_than_the_greatest_segment_is_cut_and_said_to_be() -> None:
    store, segmenter = make(1)
    for one in video(1, 21, 25, 10):
        segmenter.push(one)
    assert segmenter.promises.target_duration == 6
    assert not segmenter.promises.independent
    lengths = [row.duration_us / 1e6 for row in closed(store)]
    assert all(length <= 6.1 for length in lengths)
    starts = [row.start_us / 1e6 - START for row in opened(store)]
    assert 10.0 in starts
    assert 20.0 in starts
    forced = [record for record in store.records[1] if record.flags & Flag.FORCED]
    assert len(forced) == 2


def test_short_gops_are_gathered_into_segments() -> None:
    store, segmenter = make(1)
    for one in video(1, 13, 25, 0.8):
        segmenter.push(one)
    assert segmenter.promises.target_duration == 3
    assert {row.duration_us for row in closed(store)} == {2_400_000}


def test_a_keyframe_that_would_overfill_is_not_waited_for() -> None:
    store, segmenter = make(1, cuts=Cuts(segment_us=5_000_000))
    for one in video(1, 25, 25, 4):
        segmenter.push(one)
    assert {row.duration_us for row in closed(store)} == {4_000_000}
    assert segmenter.promises.independent


def test_parts_end_with_their_last_frame() -> None:
    store, segmenter = make(1)
    for one in video(1, 2, 25, 2):
        segmenter.push(one)
    ends = [record.seq for record in store.records[1] if record.flags & Flag.PART_END]
    assert ends == list(range(4, 50, 5))
    assert segmenter.promises.part_target_us == 220_000


def test_audio_waits_for_the_first_keyframe_and_starts_with_it() -> None:
    store, segmenter = make(1, 2)
    for one in audio(1, 0):
        segmenter.push(one)
    assert not store.order
    late = [one._replace(dts=one.dts + 45_000) for one in video(1, 1, 25, 2)]
    for one in late:
        segmenter.push(one)
    assert store.order[1][0] == 2
    assert abs(store.records[2][0].dts / 48_000 - START - 0.5) < 0.011
    assert segmenter.dropped == 23


def test_video_that_comes_late_takes_the_lead_at_its_keyframe() -> None:
    store, segmenter = make(2)
    sound = audio(8, 0)
    for one in sound[:200]:
        segmenter.push(one)
    segmenter.add_track(1, KINDS[1], SCALES[1])
    frames = [one._replace(dts=one.dts + 4 * 90_000) for one in video(1, 4, 25, 2)]
    rest = sorted(sound[200:] + frames, key=lambda one: one.dts / SCALES[one.track])
    for one in rest:
        segmenter.push(one)
    segmenter.finish()
    first = store.records[1][0]
    row = next(row for row in opened(store) if row.segment == first.segment)
    assert row.start_us == first.dts * 100 // 9
    assert first.key
    assert segmenter.promises.independent


def test_when_the_leader_ends_audio_goes_on_on_a_grid() -> None:
    store, segmenter = make(1, 2)
    sound = audio(9, 0)
    frames = video(1, 3, 25, 2) + sound[:141]
    for one in sorted(frames, key=lambda one: one.dts / SCALES[one.track]):
        segmenter.push(one)
    segmenter.leave(1)
    for one in sound[141:]:
        segmenter.push(one)
    starts = [row.start_us / 1e6 - START for row in opened(store)]
    assert starts[:2] == [0, 2]
    assert all(abs(b - a - 2) < 0.03 for a, b in pairwise(starts))
    assert len(closed(store)) == len(starts) - 1


def test_segments_go_on_while_the_leader_stands_still() -> None:
    store, segmenter = make(1, 2)
    frames = sorted(video(1, 3, 25, 2) + audio(20, 0), key=lambda one: one.dts / SCALES[one.track])
    for one in frames:
        segmenter.push(one)
    assert len(opened(store)) > 6
    assert len(closed(store)) >= len(opened(store)) - 2


def test_a_hole_that_would_overfill_a_segment_is_a_discontinuity() -> None:
    store, segmenter = make(1)
    frames = video(1, 20, 25, 2)
    for one in frames[:60] + frames[250:300]:
        segmenter.push(one)
    rows = opened(store)
    assert [row.breaks for row in rows] == [False, False, True]
    assert closed(store)[1].duration_us == 400_000
    assert store.records[1][60].flags & Flag.DISCONTINUITY


def test_a_break_waits_for_the_next_keyframe_and_reaches_all_tracks() -> None:
    store, segmenter = make(1, 2, 4)
    frames = sorted(video(1, 4, 25, 2) + audio(4, 0), key=lambda one: one.dts / SCALES[one.track])
    for number, one in enumerate(frames):
        if number == 40:
            segmenter.break_timeline()
        segmenter.push(one)
    segmenter.push(sample(4, 13_500, 0, True))
    rows = opened(store)
    assert [(row.breaks, row.discontinuity) for row in rows] == [(False, 0), (True, 1)]
    flagged = {
        track: [record.segment for record in records if record.flags & Flag.DISCONTINUITY]
        for track, records in store.records.items()
    }
    assert flagged[1] == flagged[2] == flagged[4] == [1]


def test_a_track_that_is_late_for_a_closed_segment_joins_the_next_one() -> None:
    store, segmenter = make(1, 2)
    sound = audio(5, 0)
    for one in video(1, 1, 25, 2):
        segmenter.push(one)
    segmenter.push(sound[0])
    for one in video(1, 4, 25, 2)[25:]:
        segmenter.push(one)
    for one in sound[1:]:
        segmenter.push(one)
    assert closed(store)[0].opened.segment == 0
    assert [record.segment for record in store.records[2][:3]] == [0, 1, 1]


def test_a_finished_stream_opens_another_segment_when_it_comes_back() -> None:
    store, segmenter = make(1, 2)
    for one in video(1, 3, 25, 2):
        segmenter.push(one)
    segmenter.finish()
    assert [row.opened.segment for row in closed(store)] == [0, 1]
    assert closed(store)[1].duration_us == 1_000_000
    part = store.records[1][-1].part
    segmenter.join(1)
    for one in video(1, 7, 25, 2)[99:]:
        segmenter.push(one)
    first = store.records[1][75]
    assert (first.segment, first.part, first.key) == (2, part + 1, True)
