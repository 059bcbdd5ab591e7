from common.media.track import INDEX_TRACK
from common.track.index import Closed, decode_row
from common.track.record import Flag, Record
from edge.timeline import Timeline
from tests.unit.edge.cuts import AUDIO, VIDEO, CutStream, tell


def rows_only(stream: CutStream, track: int) -> Timeline:
    timeline = Timeline({VIDEO.id: VIDEO, AUDIO.id: AUDIO}[track])
    for number, _, data in stream.entries:
        if number == INDEX_TRACK:
            timeline.row(decode_row(data))
    return timeline


def records_of(stream: CutStream, track: int) -> list[Record]:
    return [record for number, record, _ in stream.entries if number == track]


def test_a_closed_segment_says_what_its_row_says() -> None:
    stream = CutStream().run(5)
    timeline = stream.timelines()[VIDEO.id]
    segment = timeline.segment(0)
    closed = timeline.closed(0)
    assert segment is not None
    assert closed is not None
    piece = closed.piece(VIDEO.id)
    assert piece is not None
    assert (segment.first, segment.count, segment.start) == (piece.first, piece.count, piece.start)
    assert segment.duration == piece.duration == 180_000
    assert [part.number for part in segment.parts] == list(range(10))
    assert segment.part_count == len(segment.parts)
    assert sum(part.size for part in segment.parts) == segment.size
    assert sum(part.duration for part in segment.parts) == segment.duration
    assert segment.servable
    assert [part.key for part in segment.parts] == [True] + [False] * 9


def test_an_open_segment_has_its_complete_parts() -> None:
    stream = CutStream().run(2.5)
    segment = stream.timelines()[VIDEO.id].segment(1)
    assert segment is not None
    assert segment.duration is None
    assert [part.number for part in segment.parts] == [10, 11]
    assert segment.count == 10
    assert not segment.servable


def test_a_part_is_complete_with_its_last_record_and_not_before() -> None:
    stream = CutStream((VIDEO,)).run(2.2)
    timeline = Timeline(VIDEO)
    counts = []
    for number, record, data in stream.entries:
        if number == INDEX_TRACK:
            timeline.row(decode_row(data))
        else:
            timeline.extend([record])
            segment = timeline.segment(0)
            assert segment is not None
            counts.append(len(segment.parts))
    assert counts[:12] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2]


def test_a_part_without_an_end_mark_is_complete_with_the_next_part() -> None:
    stream = CutStream((VIDEO,)).run(1)
    timeline = rows_only(stream, VIDEO.id)
    for record in records_of(stream, VIDEO.id)[:6]:
        timeline.extend([record._replace(flags=record.flags & ~int(Flag.PART_END))])
        segment = timeline.segment(0)
        assert segment is not None
        assert len(segment.parts) == (1 if record.seq == 5 else 0)


def test_a_segment_ends_where_the_next_one_begins_even_before_its_row_comes() -> None:
    stream = CutStream().run(2.1)
    timeline = Timeline(VIDEO)
    for number, record, data in stream.entries:
        if number == INDEX_TRACK and isinstance(row := decode_row(data), Closed):
            before = timeline.segment(row.opened.segment)
            assert before is not None
            assert before.duration == 180_000
            assert len(before.parts) == 10
            return
        if number == INDEX_TRACK:
            timeline.row(decode_row(data))
        elif number == VIDEO.id:
            timeline.extend([record])
    raise AssertionError("no segment was closed")


def test_old_segments_are_known_from_their_rows_alone() -> None:
    stream = CutStream().run(7)
    timeline = rows_only(stream, VIDEO.id)
    segment = timeline.segment(1)
    assert segment is not None
    assert segment.servable
    assert segment.parts == ()
    assert (segment.first_part, segment.part_count) == (10, 10)
    assert timeline.with_part(14) == segment
    assert timeline.with_part(10_000) is None


def test_records_may_come_in_any_order() -> None:
    stream = CutStream().run(7)
    whole = stream.timelines()[AUDIO.id]
    timeline = rows_only(stream, AUDIO.id)
    records = records_of(stream, AUDIO.id)
    for start in range(len(records) - len(records) % 13, -1, -13):
        timeline.extend(records[start : start + 13])
    for number in range(4):
        assert timeline.segment(number) == whole.segment(number)


def test_a_record_that_comes_twice_changes_nothing() -> None:
    stream = CutStream().run(3)
    timeline = stream.timelines()[VIDEO.id]
    version, segment = timeline.version, timeline.segment(0)
    timeline.extend(records_of(stream, VIDEO.id))
    assert (timeline.version, timeline.segment(0)) == (version, segment)


def test_a_run_that_does_not_reach_the_start_of_its_segment_tells_nothing_yet() -> None:
    stream = CutStream((VIDEO,)).run(1.5)
    timeline = rows_only(stream, VIDEO.id)
    records = records_of(stream, VIDEO.id)
    timeline.extend(records[7:])
    assert timeline.segment(0) is None
    timeline.extend(records[:7])
    segment = timeline.segment(0)
    assert segment is not None
    assert len(segment.parts) == 7


def _lost(record: Record) -> Record:
    # As the stream worker writes it: segment and part of the record before.
    return Record(record.seq, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, int(Flag.LOST), 0)


def test_a_closed_segment_around_a_lost_record_is_lost_and_its_neighbours_are_not() -> None:
    stream = CutStream((VIDEO,)).run(7)
    timeline = rows_only(stream, VIDEO.id)
    for record in records_of(stream, VIDEO.id):
        timeline.extend([_lost(record) if record.seq == 99 else record])
    found = [timeline.segment(number) for number in range(3)]
    assert [segment is not None and segment.lost for segment in found] == [False, True, False]
    assert [segment is not None and segment.servable for segment in found] == [True, False, True]


def test_the_parts_of_an_open_segment_end_before_a_lost_record() -> None:
    stream = CutStream((VIDEO,)).run(1.9)
    timeline = rows_only(stream, VIDEO.id)
    for record in records_of(stream, VIDEO.id):
        timeline.extend([_lost(record) if record.seq == 12 else record])
    segment = timeline.segment(0)
    assert segment is not None
    assert [part.number for part in segment.parts] == [0, 1]


def test_an_open_segment_after_a_lost_record_has_no_known_start() -> None:
    stream = CutStream((VIDEO,)).run(2.5)
    timeline = Timeline(VIDEO)
    for number, record, data in stream.entries:
        if number == INDEX_TRACK:
            row = decode_row(data)
            timeline.row(row if not isinstance(row, Closed) else row.opened)
        else:
            timeline.extend([_lost(record) if record.seq == 49 else record])
    assert timeline.segment(1) is None
    closed = next(
        row
        for number, _, data in stream.entries
        if number == INDEX_TRACK and isinstance(row := decode_row(data), Closed)
    )
    timeline.row(closed)
    segment = timeline.segment(1)
    assert segment is not None
    assert [part.number for part in segment.parts] == [10, 11]


def test_a_segment_whose_row_is_lost_is_a_hole_once_a_later_one_is_closed() -> None:
    stream = CutStream((VIDEO,)).run(7)
    timeline = Timeline(VIDEO)
    for number, _, data in stream.entries:
        if number == INDEX_TRACK:
            row = decode_row(data)
            hidden = isinstance(row, Closed) and row.opened.segment == 1
            timeline.row(row if not isinstance(row, Closed) or not hidden else row.opened)
    segment = timeline.segment(1)
    assert segment is not None
    assert (segment.lost, segment.duration) == (True, 180_000)
    assert not segment.servable


def test_a_segment_in_which_the_track_is_silent_is_absent() -> None:
    stream = CutStream().run(2.5)
    stream.skip(AUDIO, 200)
    stream.run(4.5)
    segment = stream.timelines()[AUDIO.id].segment(2)
    assert segment is not None
    assert segment.absent
    assert segment.duration == 2 * 48_000
    assert not segment.servable


def test_what_is_forgotten_is_gone_and_what_is_kept_is_as_before() -> None:
    stream = CutStream().run(11)
    timeline = stream.timelines()[VIDEO.id]
    third = timeline.segment(3)
    timeline.forget_records(2)
    assert timeline.segment(1) is not None
    assert timeline.segment(3) == third
    timeline.forget(3)
    assert timeline.segment(1) is None
    assert timeline.oldest == 3
    assert timeline.segment(3) == third
    assert timeline.with_part(10) is None


def test_segments_are_found_by_the_time_they_start() -> None:
    timeline = CutStream().run(7).timelines()[VIDEO.id]
    assert timeline.from_us(0) == 0
    assert timeline.from_us(12_000_000) == 1
    assert timeline.from_us(12_000_001) == 2
    assert timeline.from_us(99_000_000) is None


def test_the_version_rises_with_what_can_be_seen() -> None:
    stream = CutStream((VIDEO,)).run(1)
    timelines = {VIDEO.id: Timeline(VIDEO)}
    versions = []
    for entry in stream.entries[:12]:
        tell(timelines, entry)
        versions.append(timelines[VIDEO.id].version)
    assert versions[1] == versions[4] < versions[5] < versions[6] == versions[9] < versions[10]


def test_the_last_part_appears_when_its_records_come_after_the_closed_row() -> None:
    stream = CutStream().run(5)
    timeline = rows_only(stream, AUDIO.id)
    for record in records_of(stream, AUDIO.id):
        timeline.extend([record])
        segment = timeline.segment(record.segment)
        assert segment is not None
    closed = timeline.segment(0)
    assert closed is not None
    assert len(closed.parts) == closed.part_count
