"""Whatever bytes come, the media parsers raise FormatError and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.media import audio, av1, h264, hevc, nal, vp9
from common.media.codec import Codec
from common.media.describe import describe, is_keyframe
from common.media.time import Unwrapper, rescale
from tests.unit.media import samples

PARSERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "h264 sps": (h264.parse_sps, h264.parse_avcc(samples.AVCC_HIGH).sps[0]),
    "avcC": (lambda data: describe(Codec.H264, data), samples.AVCC_HIGH),
    "hevc sps": (hevc.parse_sps, hevc.parse_hvcc(samples.HVCC_REXT).sps[0]),
    "hvcC": (lambda data: describe(Codec.HEVC, data), samples.HVCC_MAIN),
    "av1C": (lambda data: describe(Codec.AV1, data), samples.AV1C),
    "av1 unit": (av1.drop_temporal_delimiters, samples.AV1C[4:] * 3),
    "vpcC": (lambda data: describe(Codec.VP9, data), samples.VPCC),
    "vp9 frame": (vp9.parse_frame_header, bytes.fromhex("82498342400027f0167000")),
    "vp9 setup": (vp9.build_vpcc, bytes.fromhex("82498342400027f0167000")),
    "asc": (lambda data: describe(Codec.AAC, data), samples.ASC_LC),
    "adts": (audio.split_adts, bytes.fromhex("fff14c80017ffc61626364")),
    "opus head": (audio.opus_head_to_dops, samples.OPUS_HEAD),
    "dops": (audio.dops_to_opus_head, audio.opus_head_to_dops(samples.OPUS_HEAD)),
    "opus packet": (audio.opus_duration, b"\xff\x03abc"),
    "mp3": (lambda data: describe(Codec.MP3, data), bytes.fromhex("fffb9064")),
    "annexb": (nal.split_annexb, b"\0\0\1\x67ab\0\0\0\1\x65"),
    "sample": (nal.split_length_prefixed, b"\0\0\0\2ab\0\0\0\1c"),
    "h264 key": (lambda data: is_keyframe(Codec.H264, data, samples.AVCC_HIGH), b"\0\0\0\2\x65a"),
    "hevc key": (lambda data: is_keyframe(Codec.HEVC, data, samples.HVCC_MAIN), b"\0\0\0\2\x26a"),
    "av1 key": (lambda data: is_keyframe(Codec.AV1, data, samples.AV1C), b"\x32\2\x10a"),
    "vp9 key": (lambda data: is_keyframe(Codec.VP9, data, samples.VPCC), b"\x82\x49\x83\x42"),
}


@st.composite
def _damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Garbage, or good bytes cut short, with some bytes changed or put in."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    data = bytearray(good[: draw(st.integers(0, len(good)))] if draw(st.booleans()) else good)
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, len(data)))
        data[position : position + draw(st.integers(0, 1))] = draw(st.binary(max_size=3))
    return bytes(data)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_garbage_gives_format_errors_only(name: str, data: st.DataObject) -> None:
    parse, good = PARSERS[name]
    try:
        parse(data.draw(_damaged(good)))
    except FormatError:
        return


@given(st.lists(st.binary(min_size=1, max_size=50).map(lambda data: data + b"\x80"), max_size=20))
def test_nal_units_survive_both_forms(units: list[bytes]) -> None:
    assert nal.split_length_prefixed(nal.join_length_prefixed(units)) == units
    clean = [unit.replace(b"\0", b"\1") for unit in units]
    assert nal.split_annexb(nal.join_annexb(clean)) == clean


@given(st.integers(-(2**62), 2**62), st.integers(1, 10**9), st.integers(1, 10**9))
def test_rescale_is_within_half_a_tick(ticks: int, source: int, target: int) -> None:
    result = rescale(ticks, source, target)
    assert abs(2 * (result * source - ticks * target)) <= source


@given(st.integers(0, 2**32), st.lists(st.integers(-(2**30), 2**30), max_size=50))
def test_unwrapping_undoes_wrapping(start: int, steps: list[int]) -> None:
    clock = Unwrapper(32)
    clock.unwrap(start % 2**32)
    truth = start
    for step in steps:
        truth += step
        assert clock.unwrap(truth % 2**32) - truth == start % 2**32 - start
