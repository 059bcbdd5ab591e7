"""Following several tracks in decode order."""

from fractions import Fraction
from pathlib import Path

import pytest

from common.errors import StreamNotFound
from common.media.track import Track
from common.track.cursor import Cursor, Item
from common.track.record import Flag, Record
from common.track.store import Limits, StreamWriter
from tests.unit.track.build import (
    AUDIO,
    EPOCH,
    META,
    STREAM,
    VIDEO,
    audio,
    catalog,
    lost,
    page_path,
    payload,
    video,
)


def until(writer: StreamWriter, seconds: float, *, sound: float | None = None) -> None:
    """Append video up to ``seconds`` of stream time, audio as far or up to ``sound``."""
    while writer.head(1) * 3600 < seconds * 90_000:
        writer.append(1, video(writer.head(1)), payload(writer.head(1)))
    while writer.head(2) * 1024 < (seconds if sound is None else sound) * 48_000:
        writer.append(2, audio(writer.head(2)), payload(writer.head(2)))


def cursor(writer: StreamWriter, *tracks: Track) -> Cursor:
    return Cursor(writer.reader(), tracks or (VIDEO, AUDIO))


def times(items: list[Item]) -> list[Fraction]:
    scale = {1: 90_000, 2: 48_000, 3: 1000}
    return [Fraction(item.record.dts, scale[item.track]) for item in items]


def seqs(items: list[Item], track: int) -> list[int]:
    return [item.record.seq for item in items if item.track == track]


def test_tracks_come_in_decode_order_with_their_payloads(writer: StreamWriter) -> None:
    until(writer, 4)
    place = cursor(writer)
    assert place.start(0)
    items = []
    while batch := place.next(7):
        assert len(batch) <= 7
        items += batch
    assert times(items) == sorted(times(items))
    assert seqs(items, 1) == list(range(100))
    assert seqs(items, 2) == list(range(len(seqs(items, 2))))
    assert all(item.payload == payload(item.record.seq) for item in items)
    items += place.next(flush=True)
    assert seqs(items, 2) == list(range(writer.head(2)))
    assert place.positions == {1: 100, 2: writer.head(2)}


def test_equal_times_are_told_apart_exactly_and_come_in_the_order_of_the_tracks(
    writer: StreamWriter,
) -> None:
    writer.append(1, video(0), b"v")
    writer.append(2, audio(0), b"a")
    huge = 1 << 58  # beyond what a float tells apart
    writer.append(1, video(1)._replace(dts=huge * 15 + 1, size=1), b"v")
    writer.append(2, audio(1)._replace(dts=huge * 8), b"a")
    place = cursor(writer)
    place.start()
    assert [item.track for item in place.next(flush=True)] == [1, 2, 2, 1]


def test_a_start_is_at_a_keyframe_with_the_sound_from_there(writer: StreamWriter) -> None:
    until(writer, 5)
    place = cursor(writer)
    assert place.start()
    items = place.next()
    assert items[0].record.seq == 100
    assert times(items)[0] == 4
    assert seqs(items, 2)[0] == -(-4 * 48_000 // 1024)
    assert place.start(60)
    assert place.next(1)[0].record.seq == 50
    assert place.start_at_segment(1)
    assert place.next(1)[0].record.seq == 50
    assert not place.start_at_segment(9)
    assert place.take_skipped() == {}


def test_a_keyframe_within_a_segment_starts_the_sound_there_too(writer: StreamWriter) -> None:
    until(writer, 1)
    writer.append(1, video(25)._replace(flags=int(Flag.KEY)), payload(25))
    until(writer, 2)
    place = cursor(writer)
    place.start()
    items = place.next()
    assert items[0].record.seq == 25
    assert min(times(items)) >= 1


def test_nothing_is_given_out_before_its_order_is_sure(writer: StreamWriter) -> None:
    until(writer, 0.4, sound=0.2)
    place = cursor(writer)
    items = place.next()
    assert max(times(items)) < Fraction(1, 5)
    until(writer, 0.4)
    items += place.next()
    assert times(items) == sorted(times(items))
    assert len(seqs(items, 1)) == 10


def test_a_silent_track_is_waited_for_so_long_and_no_longer(writer: StreamWriter) -> None:
    until(writer, 1, sound=0.5)
    place = cursor(writer)
    place.start(0)
    assert max(times(place.next())) <= Fraction(1, 2)
    until(writer, 3, sound=0.5)
    items = place.next()
    assert max(times(items)) == Fraction(49 * 3600, 90_000)
    assert [max(times(place.next(1, flush=True)))] == [2]


def test_a_small_limit_does_not_stop_at_a_silent_track(writer: StreamWriter) -> None:
    until(writer, 3, sound=0)
    place = cursor(writer)
    place.start(0)
    assert [place.next(1)[0].record.seq for _ in range(50)] == list(range(50))
    assert place.next(1) == []


def test_sparse_and_ended_tracks_are_never_waited_for(writer: StreamWriter) -> None:
    until(writer, 1, sound=0)
    ended = Track(2, AUDIO.codec, 48_000, ended=True)
    place = cursor(writer, VIDEO, ended, META)
    assert len(place.next()) == 25


def test_live_gives_out_all_there_is(writer: StreamWriter) -> None:
    until(writer, 1, sound=0.3)
    place = cursor(writer)
    assert len(place.live()) == writer.head(1) + writer.head(2)
    assert place.live() == []
    writer.append(1, video(25), payload(25))
    assert [item.track for item in place.live()] == [1]
    until(writer, 1)
    assert {item.track for item in place.live()} == {2}


def test_a_cursor_starts_when_there_is_a_keyframe(writer: StreamWriter) -> None:
    place = cursor(writer)
    assert not place.start()
    assert place.live() == []
    writer.append(1, video(3), b"x")
    assert place.live() == []
    until(writer, 2.1)
    assert seqs(place.live(), 1) == [50, 51, 52]


def test_lost_records_pass_through_in_place(writer: StreamWriter) -> None:
    until(writer, 0.2)
    writer.append(1, lost(5, video(4)), b"")
    until(writer, 0.4)
    place = cursor(writer, VIDEO)
    items = place.next()
    assert seqs(items, 1) == list(range(10))
    assert [item.record.lost for item in items] == [seq == 5 for seq in range(10)]


def test_a_cursor_that_is_overtaken_goes_on_at_a_keyframe_and_says_so(
    writer: StreamWriter,
) -> None:
    until(writer, 20)
    place = cursor(writer)
    place.start(0)
    first = place.next(30)
    writer.evict(9_000_000)
    items = place.next()
    assert items[0].track == 1
    assert items[0].record.seq == 250
    assert items[0].record.key
    skipped = place.take_skipped()
    for track in (1, 2):
        assert seqs(items, track)[0] == seqs(first, track)[-1] + 1 + skipped[track]
    assert min(times(items)) == times(items)[0]
    assert place.take_skipped() == {}


def test_a_hole_is_passed_over_to_the_next_keyframe(writer: StreamWriter) -> None:
    until(writer, 1)
    place = cursor(writer, VIDEO)
    assert len(place.next()) == 25
    writer.skip(1, 60)
    for seq in range(60, 90):
        writer.append(1, video(seq), payload(seq))
    assert place.next() == []
    assert place.take_skipped() == {}
    for seq in range(90, 103):
        writer.append(1, video(seq), payload(seq))
    assert seqs(place.next(), 1) == [100, 101, 102]
    assert place.take_skipped() == {1: 75}


def test_a_hole_in_the_sound_moves_the_picture_too(writer: StreamWriter) -> None:
    until(writer, 1)
    place = cursor(writer)
    place.live()
    until(writer, 5, sound=1)
    writer.skip(2, 200)
    until(writer, 5)
    assert place.live() == []  # no keyframe since the sound came back at 4.3 s
    until(writer, 7)
    items = place.live()
    assert seqs(items, 1)[0] == 150
    assert seqs(items, 2)[0] == 282
    assert place.take_skipped() == {1: 125, 2: 235}


def test_a_track_that_is_ahead_of_a_hole_in_the_picture_repeats_nothing(
    writer: StreamWriter,
) -> None:
    until(writer, 1, sound=4.5)
    place = cursor(writer)
    sound = seqs(place.live(), 2)
    writer.skip(1, 60)
    until(writer, 5)
    items = place.live()
    assert seqs(items, 1)[0] == 100
    assert seqs(items, 2)[0] == sound[-1] + 1
    assert place.take_skipped() == {1: 75}


def test_a_hole_in_a_sparse_track_moves_nothing_else(writer: StreamWriter) -> None:
    def note(seq: int) -> Record:
        return Record(seq, seq * 100, 0, 0, 0, 0, 0, 0, 0, 0, 0, Flag.KEY, 0)

    until(writer, 1)
    writer.append(3, note(0), b"{}")
    place = cursor(writer, VIDEO, AUDIO, META)
    place.live()
    writer.skip(3, 12)
    writer.append(3, note(12), b"{}")
    until(writer, 1.5)
    items = place.live()
    assert seqs(items, 3) == [12]
    assert seqs(items, 1)[0] == 25
    assert place.take_skipped() == {3: 11}


def test_a_damaged_page_is_passed_over(writer: StreamWriter) -> None:
    until(writer, 10)
    place = cursor(writer, VIDEO)
    place.start(0)
    assert len(place.next(90)) == 90
    path = page_path(writer._folder, 1, 100)
    data = bytearray(path.read_bytes())
    data[128 + 48 + 3] = 0x7F
    path.write_bytes(data)
    items: list[Item] = place.next(20)
    assert seqs(items, 1)[0] == 150
    assert place.take_skipped() == {1: 60}


def test_a_removed_stream_gives_nothing_more(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    writer.set_catalog(catalog())
    until(writer, 1)
    place = cursor(writer)
    place.live()
    writer.remove()
    assert place.live() == place.next() == []


def test_the_leader_is_the_first_video_else_the_first_sound(writer: StreamWriter) -> None:
    until(writer, 1)
    assert Cursor(writer.reader(), (META, AUDIO, VIDEO))._leader.track is VIDEO
    assert Cursor(writer.reader(), (META, AUDIO))._leader.track is AUDIO
    assert Cursor(writer.reader(), (META,))._leader.track is META
    assert Cursor(writer.reader(), (VIDEO, AUDIO), leader=2)._leader.track is AUDIO
    for tracks, leader in (((), None), ((VIDEO,), 7)):
        with pytest.raises(StreamNotFound):
            Cursor(writer.reader(), tracks, leader=leader)
