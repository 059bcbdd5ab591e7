"""Encoders' timestamps, one trick at a time."""

from itertools import pairwise

from origin.normaliser import SlotTime, Timeline, TrackTime

AUDIO = 48_000


def video(slot: SlotTime, **more: int) -> TrackTime:
    return TrackTime(slot, clock=1000, timescale=90_000, wrap_bits=32, **more)  # type: ignore[arg-type]


def audio(slot: SlotTime) -> TrackTime:
    return TrackTime(slot, clock=1000, timescale=AUDIO, wrap_bits=32, nominal=1024, audio=True)


def test_the_first_frame_is_at_ten_seconds_whatever_the_source_says() -> None:
    for first in (0, -40, 123_456, 2**31 - 1, 2**32 - 1):
        stamp = video(SlotTime(Timeline())).stamp(first, 80, 0, 55)
        assert (stamp.dts, stamp.cts, stamp.breaks) == (900_000, 7_200, False)


def test_tracks_whose_first_frames_lie_on_both_sides_of_a_wrap_agree() -> None:
    slot = SlotTime(Timeline())
    picture, sound = video(slot), audio(slot)
    assert picture.stamp(2**31 - 10, 0, 0, 0).dts == 900_000
    assert sound.stamp(5, 0, 0, 0).dts == 480_000 + 15 * 48


def test_equal_and_backward_dts_move_but_presentation_stays() -> None:
    track = video(SlotTime(Timeline()))
    stamps = [track.stamp(dts, 100, 0, n * 40_000) for n, dts in enumerate((0, 40, 30, 80, 120))]
    assert all(a.dts < b.dts for a, b in pairwise(stamps))
    shown = [stamp.dts + stamp.cts - 909_000 for stamp in stamps]
    assert shown == [0, 3600, 2700, 7200, 10_800]
    assert not any(stamp.breaks for stamp in stamps)


def test_a_lost_audio_frame_moves_the_sample_clock_and_a_late_one_does_not() -> None:
    track = audio(SlotTime(Timeline()))
    times = [n * 1024 // 48 for n in range(60)]
    times[10] += 18
    del times[30]
    stamps = [track.stamp(ms, 0, 0, ms * 1000) for ms in times]
    steps = [b.dts - a.dts for a, b in pairwise(stamps)]
    assert steps[:29] == [1024] * 29
    odd = [step for step in steps if step != 1024]
    assert len(odd) == 1
    assert abs(odd[0] - 2048) <= 48


def test_a_long_audio_gap_is_taken_at_first_sight() -> None:
    track = audio(SlotTime(Timeline()))
    stamps = [track.stamp(n * 1024 // 48, 0, 0, 0) for n in range(10)]
    gap = track.stamp(10 * 1024 // 48 + 3000, 0, 0, 3_000_000)
    assert abs(gap.dts - stamps[-1].dts - 1024 - 3 * AUDIO) <= 48
    assert not gap.breaks


def test_frames_that_come_after_a_stall_do_not_break_the_timeline() -> None:
    track = video(SlotTime(Timeline()))
    for n in range(25):
        track.stamp(n * 40, 0, 0, n * 40_000)
    stamp = track.stamp(60_000, 0, 0, 60_000_000)
    assert not stamp.breaks
    assert stamp.dts == 900_000 + 60 * 90_000


def test_a_jump_forward_without_time_going_by_breaks_the_timeline() -> None:
    track = video(SlotTime(Timeline()))
    for n in range(25):
        last = track.stamp(n * 40, 0, 0, n * 40_000)
    stamp = track.stamp(60_000, 0, 0, 1_000_000)
    assert stamp.breaks
    assert 0 < stamp.dts - last.dts < 90_000


def test_frames_of_the_old_timeline_may_still_arrive_after_a_break() -> None:
    slot = SlotTime(Timeline())
    picture, sound = video(slot), audio(slot)
    for n in range(50):
        picture.stamp(n * 40, 0, 0, n * 40_000)
    for n in range(90):
        sound.stamp(n * 1024 // 48, 0, 0, n * 21_333)
    assert picture.stamp(500_000, 0, 0, 2_000_000).breaks
    old = sound.stamp(90 * 1024 // 48, 0, 0, 2_000_000)
    new = sound.stamp(500_000, 0, 0, 2_030_000)
    assert not old.breaks
    assert not new.breaks
    following = picture.stamp(500_040, 0, 0, 2_040_000)
    assert abs(following.dts / 90_000 - new.dts / AUDIO - 0.040) < 0.025


def test_a_sparse_track_never_breaks_the_timeline() -> None:
    slot = SlotTime(Timeline())
    picture = video(slot)
    notes = TrackTime(slot, clock=1000, timescale=1000, sparse=True)
    picture.stamp(0, 0, 0, 0)
    first = notes.stamp(1_700_000_000_000, 0, 0, 0)
    picture.stamp(40, 0, 0, 40_000)
    second = notes.stamp(5, 0, 0, 50_000)
    assert not first.breaks
    assert not second.breaks
    assert abs(first.dts - 10_040) <= 1
    assert first.dts < second.dts < 10_200


def test_a_reconnect_is_placed_by_the_time_that_has_passed() -> None:
    timeline = Timeline()
    slot = SlotTime(timeline)
    track = video(slot)
    for n in range(25):
        track.stamp(n * 40, 0, 0, n * 40_000)
    again = video(SlotTime(timeline, slot), last_end=900_000 + 25 * 3600)
    stamp = again.stamp(0, 0, 0, 6_000_000)
    assert stamp.breaks
    assert abs(stamp.dts - 900_000 - 6 * 90_000) <= 15_000


def test_an_encoder_that_goes_on_where_it_was_breaks_nothing() -> None:
    timeline = Timeline()
    slot = SlotTime(timeline)
    track = video(slot)
    for n in range(25):
        track.stamp(n * 40, 0, 0, n * 40_000)
    again = video(SlotTime(timeline, slot), last_end=900_000 + 25 * 3600)
    stamp = again.stamp(1000, 0, 0, 1_500_000)
    assert not stamp.breaks
    assert stamp.dts == 900_000 + 90_000


def test_the_nominal_duration_is_the_median_of_what_is_seen() -> None:
    track = video(SlotTime(Timeline()), nominal=1800)
    first = track.stamp(0, 0, 0, 0)
    assert first.duration == 1800
    stamps = [track.stamp(n * 1000 // 30, 0, 0, n * 33_000) for n in range(1, 30)]
    assert {stamp.duration for stamp in stamps[3:]} <= {2970, 3060}


def test_negative_dts_that_were_cut_to_zero_fit_before_the_next_real_one() -> None:
    track = video(SlotTime(Timeline()), nominal=3600)
    sent = [(0, 0), (0, 120), (0, 40), (40, 40), (80, 160), (120, 40)]
    stamps = [track.stamp(dts, cts, 0, n * 40_000) for n, (dts, cts) in enumerate(sent)]
    assert [stamp.dts - 900_000 for stamp in stamps] == [0, 900, 1800, 3600, 7200, 10_800]
    assert all(stamp.cts >= 0 for stamp in stamps)


def test_a_slot_used_for_the_first_time_breaks_nothing() -> None:
    timeline = Timeline()
    video(SlotTime(timeline)).stamp(0, 0, 0, 0)
    stamp = video(SlotTime(timeline)).stamp(77_000, 0, 0, 500_000)
    assert not stamp.breaks
    assert 900_000 + 45_000 <= stamp.dts <= 900_000 + 60_000


def test_metadata_that_come_first_after_a_reconnect_leave_the_break_to_the_video() -> None:
    timeline = Timeline()
    slot = SlotTime(timeline)
    video(slot).stamp(0, 0, 0, 0)
    again = SlotTime(timeline, slot)
    notes = TrackTime(again, clock=1000, timescale=1000, wrap_bits=32, sparse=True)
    assert not notes.stamp(0, 0, 0, 3_000_000).breaks
    picture = video(again, last_end=903_600)
    assert picture.stamp(0, 0, 0, 3_000_000).breaks
    assert not picture.stamp(40, 0, 0, 3_040_000).breaks
