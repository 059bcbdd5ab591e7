"""Whatever order frames arrive in, the numbering keeps its promises to players."""

import contextlib
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import StoreFull
from common.media.codec import Kind
from common.media.track import INDEX_TRACK
from common.track.index import CONTIGUOUS_US, Closed, Opened, Row, decode_row
from common.track.record import Flag, Record
from origin.segmenter import Cuts, Sample, Segmenter

START = 10
SCALES = {1: 90_000, 2: 48_000, 3: 90_000, 4: 1_000}
KINDS = {1: Kind.VIDEO, 2: Kind.AUDIO, 3: Kind.VIDEO, 4: Kind.METADATA}


@dataclass
class Store:
    records: dict[int, list[Record]] = field(default_factory=lambda: defaultdict(list))
    rows: list[Row] = field(default_factory=list)
    order: list[tuple[int, Record]] = field(default_factory=list)

    def emit(self, track: int, record: Record, payload: bytes) -> None:
        assert record.seq == len(self.records[track])
        self.records[track].append(record)
        self.order.append((track, record))
        if track == INDEX_TRACK:
            self.rows.append(decode_row(payload))


def sample(track: int, dts: int, duration: int, key: bool, cts: int = 0) -> Sample:
    return Sample(track, dts, cts, duration, key, 0, 1, 1, b"x" * (dts % 50 + 1))


def video(track: int, seconds: float, rate: int, gop: float) -> list[Sample]:
    frame = 90_000 // rate
    every = max(1, round(gop * rate))
    return [
        sample(track, START * 90_000 + n * frame, frame, n % every == 0)
        for n in range(round(seconds * rate))
    ]


def audio(seconds: float, skew_ms: int) -> list[Sample]:
    first = (START * 1000 + skew_ms) * 48
    return [sample(2, first + n * 1024, 1024, True) for n in range(round(seconds * 48_000 / 1024))]


def interleave(tracks: list[list[Sample]], delays_ms: list[int]) -> list[Sample]:
    """Return all frames in an order that keeps each track's own but delays tracks."""
    keyed = []
    for number, samples in enumerate(tracks):
        delay = delays_ms[number % len(delays_ms)]
        keyed += [
            (one.dts * 1000 // SCALES[one.track] + delay, number, position, one)
            for position, one in enumerate(samples)
        ]
    return [entry[3] for entry in sorted(keyed, key=lambda entry: entry[:3])]


def check_parts(records: list[Record], scale: int, target_us: int, sparse: bool) -> None:
    parts: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        parts[record.part].append(record)
    numbers = sorted(parts)
    assert numbers == list(range(len(numbers)))
    for number in numbers:
        part = parts[number]
        length = part[-1].dts - part[0].dts + part[-1].duration
        assert length * 1_000_000 <= target_us * scale or sparse
        assert len({record.segment for record in part}) == 1
        assert all(not record.flags & Flag.PART_END for record in part[:-1])
        following = parts.get(number + 1)
        last = following is None or following[0].segment != part[0].segment
        if not last and not sparse:
            assert part[-1].flags & Flag.PART_END
            assert length * 1_000_000 >= target_us * scale * 85 // 100


def derivable(last: Record, following: Record, scale: int) -> bool:
    """Whether an edge takes the start of the next segment for the end of this one."""
    if following.segment != last.segment + 1 or following.flags & Flag.DISCONTINUITY:
        return False
    hole = abs(following.dts - last.dts - last.duration)
    return hole <= min(last.duration, CONTIGUOUS_US * scale // 1_000_000)


def check(
    store: Store, segmenter: Segmenter, count: dict[int, int], *, holes: bool = False
) -> None:
    """Check all promises but, with ``holes`` in the tracks, how long parts are."""
    promises = segmenter.promises
    opened = [row for row in store.rows if isinstance(row, Opened)]
    closed = [row for row in store.rows if isinstance(row, Closed)]
    assert [row.segment for row in opened] == list(range(len(opened)))
    assert [row.opened for row in closed] == opened
    covered: dict[int, int] = defaultdict(int)
    places = {(track, record.seq): place for place, (track, record) in enumerate(store.order)}
    row_seqs = {row: seq for seq, row in enumerate(store.rows)}
    for row in closed:
        assert row.duration_us <= promises.target_duration * 1_000_000 + 499_999
        for piece in row.pieces:
            run = store.records[piece.track][piece.first : piece.first + piece.count]
            assert {record.segment for record in run} == {row.opened.segment}
            assert piece.first == covered[piece.track]
            covered[piece.track] += piece.count
            assert piece.size == sum(record.size for record in run)
            assert (piece.first_part, piece.parts) == (
                run[0].part,
                run[-1].part - run[0].part + 1,
            )
            assert piece.start == run[0].dts
            assert piece.key == run[0].key
            assert piece.duration > 0 or KINDS[piece.track] is Kind.METADATA
            lasts_us = piece.duration * 1_000_000 // SCALES[piece.track]
            assert lasts_us <= promises.target_duration * 1_000_000 + 499_999
            following = store.records[piece.track][piece.first + piece.count :][:1]
            if following and derivable(run[-1], following[0], SCALES[piece.track]):
                derived = following[0].dts - piece.start
                told_before = places[0, row_seqs[row]] < places[piece.track, following[0].seq]
                assert piece.duration == derived or told_before
    for track, records in store.records.items():
        if track == INDEX_TRACK:
            continue
        assert covered[track] == len(records)
        assert all(a.segment <= b.segment for a, b in pairwise(records))
        if not holes:
            check_parts(records, SCALES[track], promises.part_target_us, track == 4)
    total = sum(len(records) for track, records in store.records.items() if track != 0)
    assert total + segmenter.dropped == sum(count.values())
    begun: set[int] = set()
    for track, record in store.order:
        if track == INDEX_TRACK:
            begun.add(record.segment)
        assert record.segment in begun


def run(
    tracks: list[list[Sample]], delays: list[int], cuts: Cuts | None = None, *, holes: bool = False
) -> tuple[Store, Segmenter]:
    store = Store()
    segmenter = Segmenter(cuts or Cuts(), lambda us: us + 1_700_000_000_000_000, store.emit)
    for samples in tracks:
        track = samples[0].track
        segmenter.add_track(track, KINDS[track], SCALES[track])
    for one in interleave(tracks, delays):
        segmenter.push(one)
    segmenter.finish()
    count = {samples[0].track: len(samples) for samples in tracks}
    check(store, segmenter, count, holes=holes)
    return store, segmenter


@given(
    rate=st.sampled_from([25, 30, 50, 60]),
    gop=st.sampled_from([0.5, 1, 2, 3, 4, 10]),
    skew=st.integers(-80, 80),
    delays=st.lists(st.integers(0, 400), min_size=2, max_size=2),
)
@example(rate=30, gop=0.5, skew=1, delays=[380, 0])
@example(rate=30, gop=0.5, skew=0, delays=[385, 0])
def test_video_and_audio_keep_their_promises(
    rate: int, gop: float, skew: int, delays: list[int]
) -> None:
    store, segmenter = run([video(1, 13, rate, gop), audio(13, skew)], delays)
    first = {
        track: {record.segment for record in records if track}
        for track, records in store.records.items()
    }
    assert first[1] == first[2]
    assert segmenter.promises.independent == (gop <= 6)
    for record in store.records[1]:
        assert bool(record.flags & Flag.FORCED) == (
            not record.key
            and (record.seq == 0 or store.records[1][record.seq - 1].segment != record.segment)
        )


@given(
    delays=st.lists(st.integers(0, 300), min_size=3, max_size=3),
    rates=st.tuples(st.sampled_from([25, 50]), st.sampled_from([25, 50])),
)
def test_aligned_renditions_open_segments_at_the_same_keyframes(
    delays: list[int], rates: tuple[int, int]
) -> None:
    tracks = [video(1, 9, rates[0], 2), video(3, 9, rates[1], 2), audio(9, 5)]
    store, segmenter = run(tracks, delays)
    assert segmenter.promises.independent
    starts = {
        track: [
            record.dts
            for position, record in enumerate(store.records[track])
            if position == 0 or store.records[track][position - 1].segment != record.segment
        ]
        for track in (1, 3)
    }
    assert starts[1] == starts[3]


@given(skew=st.integers(0, 50), seconds=st.integers(3, 9), part=st.sampled_from([200, 500]))
def test_audio_alone_is_cut_on_a_grid(skew: int, seconds: int, part: int) -> None:
    store, segmenter = run([audio(seconds, skew)], [0], Cuts(part_us=part * 1000))
    assert segmenter.promises.target_duration == 2
    opened = [row for row in store.rows if isinstance(row, Opened)]
    for number, row in enumerate(opened):
        grid = opened[0].start_us + number * 2_000_000
        assert 0 <= row.start_us - grid < 22_000


@given(
    delays=st.lists(st.integers(0, 200), min_size=3, max_size=3),
    every=st.integers(100, 4000),
)
def test_a_sparse_track_neither_holds_segments_open_nor_is_lost(
    delays: list[int], every: int
) -> None:
    notes = [sample(4, START * 1000 + 50 + n * every, 0, True) for n in range(9000 // every)]
    tracks = [video(1, 9, 25, 2), audio(9, 0), *([notes] if notes else [])]
    store, _ = run(tracks, delays)
    closed = [row for row in store.rows if isinstance(row, Closed)]
    assert len(closed) == 5


@given(
    outages=st.lists(
        st.tuples(st.sampled_from([1, 2, 3]), st.integers(0, 12_000), st.integers(40, 9_000)),
        max_size=4,
    ),
    ahead=st.lists(st.integers(0, 1500), min_size=3, max_size=3),
    gop=st.sampled_from([0.5, 1, 2, 3, 10]),
    rates=st.tuples(st.sampled_from([5, 25, 50]), st.sampled_from([5, 25])),
)
def test_no_track_outlasts_the_target_whoever_stops_or_hurries_ahead(
    outages: list[tuple[int, int, int]], ahead: list[int], gop: float, rates: tuple[int, int]
) -> None:
    tracks = [video(1, 13, rates[0], gop), audio(13, 7), video(3, 13, rates[1], gop)]
    for track, start_ms, length_ms in outages:
        gone = range((START * 1000 + start_ms), (START * 1000 + start_ms + length_ms))
        tracks[track - 1] = [
            one for one in tracks[track - 1] if one.dts * 1000 // SCALES[track] not in gone
        ]
    run([samples for samples in tracks if samples], ahead, holes=True)


def test_sound_whose_picture_stops_within_its_first_gop_is_cut_as_well() -> None:
    store, segmenter = run([video(1, 3, 25, 10), audio(14, 0)], [0])
    assert segmenter.promises.target_duration == 6
    closed = [row for row in store.rows if isinstance(row, Closed)]
    assert [row.duration_us // 1_000_000 for row in closed[:2]] == [6, 6]


def test_sound_that_outlasts_its_picture_is_cut_before_the_target_is_exceeded() -> None:
    store, segmenter = run([video(1, 5.6, 25, 2), audio(11, 0)], [0])
    assert segmenter.promises.target_duration == 2
    closed = [row for row in store.rows if isinstance(row, Closed)]
    lasts = [piece.duration for row in closed for piece in row.pieces if piece.track == 2]
    assert max(lasts) < 2.5 * 48_000


def test_a_keyframe_that_comes_late_joins_the_segment_that_sound_had_to_open() -> None:
    store, segmenter = run([video(1, 12, 25, 2), audio(12, 0)], [700, 0])
    assert segmenter.promises.independent, "no picture is cut anywhere but at its keyframes"
    starts = [a for b, a in pairwise(store.records[1]) if a.segment != b.segment]
    assert len(starts) == 5
    assert all(record.key for record in starts)


class Crash(Exception):
    """The origin dies."""


@given(
    crash=st.integers(0, 700),
    gop=st.sampled_from([1, 2, 3]),
    delays=st.lists(st.integers(0, 300), min_size=2, max_size=2),
)
def test_a_segmenter_rebuilt_from_the_pages_goes_on_where_it_died(
    crash: int, gop: float, delays: list[int]
) -> None:
    store = Store()

    def emit(track: int, record: Record, payload: bytes) -> None:
        if len(store.order) == crash:
            raise Crash
        store.emit(track, record, payload)

    samples = interleave([video(1, 9, 25, gop), audio(9, 0)], delays)
    first = Segmenter(Cuts(), lambda us: us, emit)
    for track in (1, 2):
        first.add_track(track, KINDS[track], SCALES[track])
    taken = 0
    with contextlib.suppress(Crash):
        for one in samples:
            first.push(one)
            taken += 1
    heads = {track: len(store.records[track]) for track in (1, 2)}
    promises = first.promises if store.order else None
    second = Segmenter(Cuts(), lambda us: us, store.emit, promises=promises)
    for track in (1, 2):
        second.add_track(track, KINDS[track], SCALES[track])
    closed = {row.opened.segment for row in store.rows if isinstance(row, Closed)}
    tails = {
        track: [r for r in store.records[track] if r.segment not in closed]
        or store.records[track][-1:]
        for track in (1, 2)
        if store.records[track]
    }
    second.adopt(list(store.rows), len(store.records[INDEX_TRACK]), tails)
    for track in (1, 2):
        second.leave(track)
    second.finish()
    assert len([row for row in store.rows if isinstance(row, Closed)]) == len(
        [row for row in store.rows if isinstance(row, Opened)]
    )
    for track in (1, 2):
        second.join(track)
    rest = [one._replace(dts=one.dts + SCALES[one.track]) for one in samples[taken + 1 :]]
    for one in rest:
        second.push(one)
    second.finish()
    second.dropped = 0
    check(store, second, {track: len(store.records[track]) for track in (1, 2)})
    for track in (1, 2):
        fresh = store.records[track][heads[track] :]
        if fresh and heads[track]:
            assert fresh[0].flags & Flag.DISCONTINUITY


@given(
    full=st.lists(st.tuples(st.integers(0, 900), st.integers(1, 60)), max_size=3),
    gop=st.sampled_from([1, 2]),
)
def test_no_room_for_pages_loses_frames_but_no_number(
    full: list[tuple[int, int]], gop: float
) -> None:
    store = Store()
    calls = 0

    def emit(track: int, record: Record, payload: bytes) -> None:
        nonlocal calls
        calls += 1
        if any(first <= calls < first + count for first, count in full):
            raise StoreFull("full")
        store.emit(track, record, payload)

    segmenter = Segmenter(Cuts(), lambda us: us, emit)
    for track in (1, 2):
        segmenter.add_track(track, KINDS[track], SCALES[track])
    starved = False
    for one in interleave([video(1, 12, 25, gop), audio(12, 0)], [0]):
        try:
            if starved and not (one.track == 1 and one.key):
                continue
            if starved:
                segmenter.finish()
                segmenter.break_timeline()
                starved = False
            segmenter.push(one)
        except StoreFull:
            starved = True
            segmenter.interrupt()
    for _ in range(200):
        with contextlib.suppress(StoreFull):
            segmenter.finish()
            break
    segmenter.dropped = 0
    check(store, segmenter, {track: len(store.records[track]) for track in (1, 2)})
