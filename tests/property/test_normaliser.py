"""Whatever encoders do to their clocks, what comes out goes forward and stays in sync."""

from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from origin.normaliser import START_US, SlotTime, Stamp, Timeline, TrackTime

VIDEO, AUDIO = 90_000, 48_000
MS = 1000


def video_track(slot: SlotTime, wrap_bits: int = 32, clock: int = MS) -> TrackTime:
    return TrackTime(slot, clock=clock, timescale=VIDEO, wrap_bits=wrap_bits)


def audio_track(slot: SlotTime, wrap_bits: int = 32, clock: int = MS) -> TrackTime:
    return TrackTime(
        slot, clock=clock, timescale=AUDIO, wrap_bits=wrap_bits, nominal=1024, audio=True
    )


def push(
    starts_ms: int, seconds: int, rate: int, bits: int, jitter: list[int]
) -> tuple[list[Stamp], list[Stamp]]:
    """Send an RTMP stream of video and audio; return what comes out per track."""
    slot = SlotTime(Timeline())
    video, audio = video_track(slot), audio_track(slot)
    wrap = 1 << bits
    frames = [(Fraction(n, rate), 0, n) for n in range(seconds * rate)]
    frames += [(Fraction(n * 1024, AUDIO), 1, n) for n in range(seconds * AUDIO // 1024)]
    out: tuple[list[Stamp], list[Stamp]] = ([], [])
    for position, (time, track, _) in enumerate(sorted(frames)):
        wobble = jitter[position % len(jitter)] if track == 1 else 0
        ms = (starts_ms + round(time * 1000) + wobble) % wrap
        arrival = int(time * 1_000_000)
        out[track].append((video, audio)[track].stamp(ms, 0, 0, arrival))
    return out


@given(
    back_ms=st.integers(0, 4000),
    bits=st.sampled_from([31, 32]),
    rate=st.sampled_from([24, 25, 30, 50, 60]),
    jitter=st.lists(st.integers(-3, 3), min_size=1, max_size=7),
)
def test_wraps_and_jitter_neither_break_nor_bend_the_timeline(
    back_ms: int, bits: int, rate: int, jitter: list[int]
) -> None:
    video, audio = push((1 << bits) - back_ms - 1, 4, rate, bits, jitter)
    assert not any(stamp.breaks for stamp in video + audio)
    for n, stamp in enumerate(video):
        exact = video[0].dts + Fraction(n, rate) * VIDEO
        assert abs(stamp.dts - exact) <= 90
    first = audio[0].dts
    assert [stamp.dts for stamp in audio] == [first + 1024 * n for n in range(len(audio))]
    offset = Fraction(video[0].dts, VIDEO) - Fraction(audio[0].dts, AUDIO)
    assert abs(offset) < Fraction(1, 100)
    assert video[0].dts == START_US * VIDEO // 1_000_000 or audio[0].dts * 100 == 1000 * AUDIO


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.one_of(st.integers(-100, 200), st.integers(-(2**33), 2**33)),
            st.integers(-500, 500),
            st.integers(0, 3_000_000),
        ),
        max_size=60,
    ),
    bits=st.sampled_from([0, 32, 33]),
)
def test_any_clock_gives_strictly_increasing_dts_and_no_frame_is_lost(
    steps: list[tuple[int, int, int, int]], bits: int
) -> None:
    slot = SlotTime(Timeline())
    tracks = (video_track(slot, bits), audio_track(slot, bits))
    source = [0, 0]
    arrival = 0
    last = [-1, -1]
    for track, step, cts, wait in steps:
        source[track] += step
        value = source[track] % (1 << bits) if bits else source[track]
        arrival += wait
        stamp = tracks[track].stamp(value, 0 if track else cts, 0, arrival)
        assert stamp.dts > last[track]
        assert stamp.duration > 0
        assert -(2**31) <= stamp.cts < 2**31
        last[track] = stamp.dts


@given(
    jump_ms=st.one_of(
        st.integers(-(2**30), -2000), st.integers(20_000, 2**30), st.just(-(2**31) + 5)
    ),
    first=st.sampled_from([0, 1]),
)
def test_a_jump_of_both_tracks_is_one_break_and_keeps_them_in_sync(
    jump_ms: int, first: int
) -> None:
    slot = SlotTime(Timeline())
    video, audio = video_track(slot, 0), audio_track(slot, 0)
    out: dict[str, list[Stamp]] = {"video": [], "audio": []}
    frames = sorted(
        [(n * 40, 1 - first, n) for n in range(100)]
        + [(n * 1024 * 1000 // AUDIO, first, n) for n in range(180)]
    )
    for ms, which, n in frames:
        is_audio = which == first
        shifted = ms + (jump_ms if n >= (90 if is_audio else 48) else 0)
        track = audio if is_audio else video
        out["audio" if is_audio else "video"].append(track.stamp(shifted, 0, 0, ms * 1000))
    assert sum(stamp.breaks for stamps in out.values() for stamp in stamps) == 1
    for stamps in out.values():
        assert all(a.dts < b.dts for a, b in pairwise(stamps))
    late_video = Fraction(out["video"][-1].dts, VIDEO) - Fraction(99 * 40, 1000)
    late_audio = Fraction(out["audio"][-1].dts, AUDIO) - Fraction(179 * 1024, AUDIO)
    assert abs(late_video - late_audio) < Fraction(30, 1000)


@given(depth=st.integers(1, 3), frame=st.sampled_from([33, 40, 20]), known=st.booleans())
def test_a_stream_without_dts_gets_even_ones_and_keeps_its_presentation_times(
    depth: int, frame: int, known: bool
) -> None:
    slot = SlotTime(Timeline())
    nominal = frame * 90 if known else 0
    track = TrackTime(slot, clock=MS, timescale=VIDEO, wrap_bits=32, nominal=nominal)
    order: list[int] = [0]
    while len(order) < 120:
        top = max(order)
        order += [top + depth + 1, *range(top + 1, top + depth + 1)]
    stamps = [track.stamp(0, n * frame, 0, i * frame * 1000) for i, n in enumerate(order)]
    base = stamps[0].dts + stamps[0].cts
    for n, stamp in zip(order, stamps, strict=True):
        assert stamp.dts + stamp.cts - base == n * frame * 90
    assert not any(stamp.breaks for stamp in stamps)
    assert all(a.dts < b.dts for a, b in pairwise(stamps))
    steady = stamps[40:]
    for a, b in pairwise(steady):
        assert abs(b.dts - a.dts - frame * 90) <= frame * 90 // 2
