"""FLV however the bytes are cut, and whatever they are."""

import random
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError, TrackUnsupported
from common.formats.flv import (
    FlvDemuxer,
    FlvMuxer,
    Tag,
    TagKind,
    TagType,
    parse_audio,
    parse_video,
)
from common.media.codec import Codec
from common.media.time import rescale
from common.media.track import Track

HEAD = b"FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00"
VIDEO = [Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9]
AUDIO = [Codec.AAC, Codec.OPUS]


class Sample(NamedTuple):
    dts: int
    cts: int
    key: bool
    init: int = 0


tags = st.builds(Tag, st.sampled_from(TagType), st.integers(0, 2**32 - 1), st.binary(max_size=80))


def _bytes(tag: Tag) -> bytes:
    time = tag.timestamp_ms
    head = bytes([tag.kind]) + len(tag.body).to_bytes(3, "big")
    head += (time & 0xFFFFFF).to_bytes(3, "big") + bytes([time >> 24]) + bytes(3)
    return head + tag.body + (len(tag.body) + 11).to_bytes(4, "big")


def _feed(pieces: list[bytes]) -> tuple[list[Tag], str]:
    demuxer, found = FlvDemuxer(), list[Tag]()
    for piece in pieces:
        try:
            found += demuxer.feed(piece)
        except FormatError as error:
            return found, str(error)
    return found, ""


def _split(data: bytes, seed: int) -> list[bytes]:
    choice = random.Random(seed)
    cuts = sorted(choice.choices(range(len(data) + 1), k=choice.randrange(30)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(st.lists(tags, max_size=8), st.integers(0, 2**32))
def test_tags_arrive_as_written_however_the_bytes_are_cut(sent: list[Tag], seed: int) -> None:
    data = HEAD + b"".join(_bytes(tag) for tag in sent)
    assert _feed([data]) == (sent, "")
    assert _feed(_split(data, seed)) == (sent, "")
    assert _feed([data[i : i + 1] for i in range(len(data))]) == (sent, "")


@given(st.booleans(), st.binary(max_size=300), st.integers(0, 2**32))
def test_garbage_gives_a_format_error_however_the_bytes_are_cut(
    started: bool, data: bytes, seed: int
) -> None:
    data = HEAD + data if started else data
    _, whole = _feed([data])
    _, pieces = _feed(_split(data, seed))
    assert whole == pieces


lead = st.sampled_from([b"", b"\x90hvc1", b"\x97\x02abc", b"\x91Opus", b"\xaf", b"\x17", b"\xd4"])


@given(lead, st.binary(max_size=60))
def test_any_body_gives_a_tag_or_a_typed_error(start: bytes, rest: bytes) -> None:
    for parse in (parse_video, parse_audio):
        try:
            parse(start + rest)
        except (FormatError, TrackUnsupported):
            continue


@given(
    st.sampled_from(VIDEO),
    st.integers(0, 2**40),
    st.integers(-100_000, 100_000),
    st.booleans(),
    st.binary(min_size=1, max_size=50),
)
def test_a_picture_comes_back_as_muxed(
    codec: Codec, dts: int, cts: int, key: bool, data: bytes
) -> None:
    track = Track(1, codec, 90_000)
    [tag] = FlvDemuxer().feed(HEAD + FlvMuxer([track]).tag(track, Sample(dts, cts, key), data))
    body = parse_video(tag.body)
    assert body is not None
    assert (body.codec, body.kind, body.keyframe) == (codec, TagKind.FRAME, key)
    assert body.data == data
    ms = rescale(dts, 90_000, 1000)
    assert tag.timestamp_ms == ms % 2**31
    reordered = codec in (Codec.H264, Codec.HEVC)
    assert body.cts == (rescale(dts + cts, 90_000, 1000) - ms if reordered else 0)


@given(st.sampled_from(AUDIO), st.integers(0, 2**40), st.binary(min_size=1, max_size=50))
def test_sound_comes_back_as_muxed(codec: Codec, dts: int, data: bytes) -> None:
    setup = b"\x11\x90" if codec is Codec.AAC else b"OpusHead\x01\x02" + bytes(9)
    track = Track(1, codec, 48_000, (setup,))
    [tag] = FlvDemuxer().feed(HEAD + FlvMuxer([track]).tag(track, Sample(dts, 0, True), data))
    body = parse_audio(tag.body)
    assert body is not None
    assert (body.codec, body.kind, body.data) == (codec, TagKind.FRAME, data)
    assert tag.timestamp_ms == rescale(dts, 48_000, 1000) % 2**31
