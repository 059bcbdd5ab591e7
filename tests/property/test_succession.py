"""A segmenter that takes another one's place goes on as if that had never stopped."""

from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from common.track.index import Closed, Opened, Row, decode_row
from common.track.record import Record
from origin.segmenter import Cuts, Promises, Sample, Segmenter
from tests.property.test_segmenter import KINDS, SCALES, START, audio, interleave, sample, video

Emission = tuple[int, Record, bytes, Promises]


@dataclass
class Run:
    """A segmenter and what came out of it."""

    promises: Promises = field(default_factory=Promises)
    emissions: list[Emission] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.segmenter = Segmenter(
            Cuts(),
            lambda us: us + 1_700_000_000_000_000 + us // 7,
            self._emit,
            promises=self.promises,
            drift=lambda: 11,
        )

    def _emit(self, track: int, record: Record, payload: bytes) -> None:
        self.emissions.append((track, record, payload, self.segmenter.promises))

    def add(self, tracks: set[int]) -> None:
        for track in sorted(tracks):
            self.segmenter.add_track(track, KINDS[track], SCALES[track])

    def feed(self, samples: list[Sample], breaks: Sample | None) -> None:
        for one in samples:
            if one is breaks:
                self.segmenter.break_timeline()
            self.segmenter.push(one)
        self.segmenter.finish()


def succeed(
    seen: list[Emission], samples: list[Sample], tracks: set[int], breaks: Sample | None
) -> Run:
    """Go on after what was seen with the frames that are not in there."""
    records: dict[int, list[Record]] = defaultdict(list)
    rows: list[Row] = []
    for track, record, payload, _ in seen:
        if track:
            records[track].append(record)
        else:
            rows.append(decode_row(payload))
    second = Run(seen[-1][3])
    second.add(tracks)
    closed = {row.opened.segment for row in rows if isinstance(row, Closed)}
    tails = {
        track: [one for one in held if one.segment not in closed] or held[-1:]
        for track, held in records.items()
    }
    second.segmenter.resume(rows[-40:], len(rows), tails)
    rest = [one for one in samples if one.dts > records[one.track][-1].dts]
    if any(isinstance(row, Opened) and row.breaks for row in rows):
        breaks = None
    elif breaks is not None and breaks not in rest:
        second.segmenter.break_timeline()
    second.feed(rest, breaks)
    return second


def check(tracks: list[list[Sample]], delays: list[int], cut: float, breaks: float | None) -> None:
    samples = interleave(tracks, delays)
    numbers = {one.track for one in samples}
    first = Run()
    first.add(numbers)
    broken = None if breaks is None else samples[int(breaks * (len(samples) - 1))]
    first.feed(samples, broken)
    began = [next(n for n, one in enumerate(first.emissions) if one[0] == t) for t in numbers]
    place = 1 + max(began) + int(cut * (len(first.emissions) - max(began) - 2))
    seen, expected = first.emissions[:place], first.emissions[place:]
    second = succeed(seen, samples, numbers, broken)
    for track in numbers | {0}:
        assert emitted(second.emissions, track) == emitted(expected, track)
    assert second.segmenter.promises == first.segmenter.promises


def emitted(emissions: list[Emission], track: int) -> list[tuple[Record, bytes]]:
    return [one[1:3] for one in emissions if one[0] == track]


shares = st.floats(0, 1)


@given(
    cut=shares,
    rate=st.sampled_from([25, 30, 50]),
    gop=st.sampled_from([0.5, 1, 2, 3, 7]),
    skew=st.integers(-80, 80),
    delays=st.lists(st.integers(0, 900), min_size=2, max_size=2),
)
@example(cut=0.0, rate=25, gop=2, skew=0, delays=[0, 0])
@example(cut=0.5, rate=25, gop=7, skew=0, delays=[0, 0])
def test_picture_and_sound_go_on_wherever_the_leader_died(
    cut: float, rate: int, gop: float, skew: int, delays: list[int]
) -> None:
    check([video(1, 8, rate, gop), audio(8, skew)], delays, cut, None)


@given(cut=shares, skew=st.integers(0, 50), seconds=st.integers(3, 20))
def test_the_grid_of_sound_alone_does_not_shift(cut: float, skew: int, seconds: int) -> None:
    check([audio(seconds, skew)], [0], cut, None)


@example(cut=0.431640625, delays=[0, 0, 0, 170], gop=1, every=200)
@given(
    cut=shares,
    delays=st.lists(st.integers(0, 600), min_size=4, max_size=4),
    gop=st.sampled_from([1, 2, 3]),
    every=st.integers(200, 3000),
)
def test_renditions_and_data_go_on_too(
    cut: float, delays: list[int], gop: float, every: int
) -> None:
    notes = [sample(4, START * 1000 + 50 + n * every, 0, True) for n in range(7000 // every)]
    check([video(1, 7, 25, gop), audio(7, 5), video(3, 7, 50, gop), notes], delays, cut, None)


@given(
    cut=shares,
    breaks=shares,
    gop=st.sampled_from([1, 2, 10]),
    delays=st.lists(st.integers(0, 300), min_size=2, max_size=2),
)
def test_a_break_is_made_once(cut: float, breaks: float, gop: float, delays: list[int]) -> None:
    check([video(1, 9, 25, gop), audio(9, 0)], delays, cut, breaks)


@given(
    outages=st.lists(
        st.tuples(st.sampled_from([1, 2, 3]), st.integers(0, 12_000), st.integers(40, 9_000)),
        max_size=3,
    ),
    ahead=st.lists(st.integers(0, 1500), min_size=3, max_size=3),
    gop=st.sampled_from([0.5, 1, 2, 3, 10]),
    cut=shares,
)
def test_tracks_with_holes_go_on(
    outages: list[tuple[int, int, int]], ahead: list[int], gop: float, cut: float
) -> None:
    tracks = [video(1, 13, 25, gop), audio(13, 7), video(3, 13, 25, gop)]
    for track, start_ms, length_ms in outages:
        gone = range((START * 1000 + start_ms), (START * 1000 + start_ms + length_ms))
        tracks[track - 1] = [
            one for one in tracks[track - 1] if one.dts * 1000 // SCALES[track] not in gone
        ]
    check([samples for samples in tracks if samples], ahead, cut, None)
