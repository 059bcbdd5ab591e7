from hypothesis import given
from hypothesis import strategies as st

from common.formats.cmaf import fragment, init_segment, overhead, part
from common.formats.mp4_read import read_fragments, read_init
from common.media.codec import Codec
from common.media.track import Track
from common.track.record import Flag, Record

AUDIO = Track(2, Codec.AAC, 48_000, (bytes.fromhex("1190"),))
OTHER = Track(7, Codec.AAC, 48_000, (bytes.fromhex("1190"),))
MOVIE = read_init(init_segment([(AUDIO, 0), (OTHER, 0)]))


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Record], list[bytes]]:
    payloads = draw(st.lists(st.binary(max_size=50), min_size=1, max_size=80))
    dts = draw(st.integers(0, 1 << 62))
    records = []
    for seq, payload in enumerate(payloads):
        step = draw(st.integers(1, 0xFFFFFFFF))
        cts = draw(st.integers(-(1 << 31), (1 << 31) - 1))
        flags = draw(st.sampled_from([0, int(Flag.KEY)]))
        records.append(Record(seq, dts, 0, 0, cts, step, 0, 9, 0, len(payload), 0, flags, 0))
        dts += step
    return records, payloads


@given(runs())
def test_what_goes_into_a_part_comes_out_again(run: tuple[list[Record], list[bytes]]) -> None:
    records, payloads = run
    data = part(AUDIO, records, payloads, None, (records[0].dts, 1_700_000_000_000_000))
    assert len(data) == overhead(1, len(records)) + sum(map(len, payloads))
    (read,) = read_fragments(data, MOVIE)
    assert [(s.dts, s.cts, s.duration, s.key, s.data) for s in read.samples] == [
        (r.dts, r.cts, r.duration, r.key, p) for r, p in zip(records, payloads, strict=True)
    ]


@given(runs(), runs())
def test_what_goes_into_a_fragment_comes_out_again(
    one: tuple[list[Record], list[bytes]], two: tuple[list[Record], list[bytes]]
) -> None:
    data = fragment([AUDIO, OTHER], [one, two])
    first, second = read_fragments(data, MOVIE)
    assert [s.data for s in first.samples] == one[1]
    assert [s.data for s in second.samples] == two[1]
    assert [s.dts for s in second.samples] == [r.dts for r in two[0]]
