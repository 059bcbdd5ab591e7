"""A timeline depends on what has come, never on how: compared with a plain model of all records."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from common.media.track import INDEX_TRACK
from common.track.index import Row, decode_row
from common.track.record import Flag, Record
from edge.timeline import Timeline
from tests.unit.edge.cuts import AUDIO, VIDEO, CutStream

STREAM = CutStream(gop=20).run(7)
ROWS = [decode_row(data) for number, _, data in STREAM.entries if number == INDEX_TRACK]
RECORDS = {
    track.id: [record for number, record, _ in STREAM.entries if number == track.id]
    for track in (VIDEO, AUDIO)
}
SEGMENTS = sorted({record.segment for record in RECORDS[VIDEO.id]})


@st.composite
def deliveries(draw: st.DrawFn) -> list[list[Record] | Row]:
    """Return all rows and records of a track in runs of any length and order."""
    records = RECORDS[draw(st.sampled_from([VIDEO.id, AUDIO.id]))]
    cuts = draw(st.lists(st.integers(1, len(records) - 1), max_size=12, unique=True))
    bounds = [0, *sorted(cuts), len(records)]
    runs: list[list[Record] | Row] = [records[first:stop] for first, stop in pairwise(bounds)]
    return draw(st.permutations([*runs, *ROWS]))


def fill(deliveries: list[list[Record] | Row], track_id: int) -> Timeline:
    timeline = Timeline(VIDEO if track_id == VIDEO.id else AUDIO)
    for one in deliveries:
        if isinstance(one, list):
            timeline.extend(one)
        else:
            timeline.row(one)
    return timeline


def track_of(deliveries: list[list[Record] | Row]) -> int:
    first = next(one[0] for one in deliveries if isinstance(one, list))
    return VIDEO.id if first.duration == VIDEO.frame_duration else AUDIO.id


@given(deliveries())
def test_the_order_of_what_comes_does_not_matter(deliveries: list[list[Record] | Row]) -> None:
    number = track_of(deliveries)
    timeline = fill(deliveries, number)
    whole = STREAM.timelines()[number]
    assert [timeline.segment(n) for n in SEGMENTS] == [whole.segment(n) for n in SEGMENTS]


@given(deliveries(), st.sets(st.integers(0, 170), max_size=4))
def test_no_part_is_ever_told_of_that_lacks_a_record(
    deliveries: list[list[Record] | Row], missing: set[int]
) -> None:
    number = track_of(deliveries)
    lacking: list[list[Record] | Row] = [
        one
        if not isinstance(one, list)
        else [
            Record(r.seq, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, int(Flag.LOST), 0)
            if r.seq in missing
            else r
            for r in one
        ]
        for one in deliveries
    ]
    timeline = fill(lacking, number)
    records = RECORDS[number]
    for segment in filter(None, (timeline.segment(n) for n in SEGMENTS)):
        inside = {r.seq for r in records if r.segment == segment.number}
        if segment.servable:
            assert not inside & missing
            assert segment.count == len(inside)
        for part in segment.parts:
            model = [r for r in records if r.part == part.number]
            assert not {r.seq for r in model} & missing
            assert (part.first, part.count) == (model[0].seq, len(model))
            assert part.dts == model[0].dts
            assert part.duration == model[-1].dts + model[-1].duration - model[0].dts
            assert part.size == sum(r.size for r in model)


@given(st.data())
def test_a_head_that_grows_never_changes_what_was_told(data: st.DataObject) -> None:
    stop = data.draw(st.integers(1, len(STREAM.entries)))
    early, late = STREAM.timelines(stop), STREAM.timelines()
    for number in (VIDEO.id, AUDIO.id):
        for n in SEGMENTS:
            before, after = early[number].segment(n), late[number].segment(n)
            if before is None or before.absent:
                continue
            assert after is not None
            assert after.parts[: len(before.parts)] == before.parts
            if before.closed:
                assert before == after
