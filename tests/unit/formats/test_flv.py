"""FLV files, with PyAV as the judge: what it writes we read, what we write it reads."""

import io
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import av
import numpy as np
import pytest

from common.errors import FormatError, TrackUnsupported
from common.formats import amf, flv
from common.formats.flv import (
    FlvDemuxer,
    FlvMuxer,
    Tag,
    TagKind,
    TagType,
    parse_audio,
    parse_video,
)
from common.media.codec import Codec, Kind
from common.media.track import Track

FRAMES = 8
CLIPS = {
    "libx264": (Codec.H264, "aac", Codec.AAC),
    "libx265": (Codec.HEVC, "aac", Codec.AAC),
    "libsvtav1": (Codec.AV1, "libopus", Codec.OPUS),
    "libvpx-vp9": (Codec.VP9, "libmp3lame", Codec.MP3),
}
FAST = {
    "libx264": {"preset": "ultrafast", "bf": "2"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=2"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
}


class Packet(NamedTuple):
    pts: int
    dts: int
    data: bytes


class Sample(NamedTuple):
    dts: int
    cts: int
    key: bool
    init: int = 0


@cache
def clip(video: str, rate: int = 44100) -> bytes:
    """Let PyAV write an FLV file."""
    file = io.BytesIO()
    with av.open(file, "w", format="flv") as out:
        picture = out.add_stream(video, rate=25, options=FAST[video])
        assert isinstance(picture, av.VideoStream)
        picture.width, picture.height, picture.pix_fmt, picture.gop_size = 64, 64, "yuv420p", 4
        name = CLIPS[video][1]
        sound = out.add_stream(name, rate=48000 if name == "libopus" else rate)
        assert isinstance(sound, av.AudioStream)
        sound.layout = "stereo"
        for number in range(FRAMES):
            image = av.VideoFrame.from_ndarray(
                np.full((64, 64, 3), number * 9, np.uint8), format="rgb24"
            )
            image.pts, image.time_base = number, Fraction(1, 25)
            out.mux(picture.encode(image))
            out.mux(sound.encode(tone(sound, number)))
        out.mux(picture.encode(None))
        out.mux(sound.encode(None))
    return file.getvalue()


def tone(sound: av.AudioStream, number: int) -> av.AudioFrame:
    context = sound.codec_context
    size = context.frame_size or 960
    frame = av.AudioFrame(format=context.format.name, layout="stereo", samples=size)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.sample_rate = context.sample_rate
    frame.pts, frame.time_base = number * size, Fraction(1, context.sample_rate)
    return frame


def read(data: bytes) -> dict[str, list[Packet]]:
    """Let PyAV read an FLV file, and decode it to the end."""
    found: dict[str, list[Packet]] = {"video": [], "audio": []}
    with av.open(io.BytesIO(data), "r", format="flv") as source:
        for packet in source.demux():
            if packet.dts is None or packet.pts is None:
                packet.decode()
                continue
            assert packet.time_base == Fraction(1, 1000)
            found[packet.stream.type].append(Packet(packet.pts, packet.dts, bytes(packet)))
            packet.decode()
    return found


def demuxed(data: bytes) -> tuple[dict[str, list[Packet]], dict[str, bytes], list[Tag]]:
    """Read the same with our own parsers: frames, setup bytes, script tags."""
    found: dict[str, list[Packet]] = {"video": [], "audio": []}
    inits: dict[str, bytes] = {}
    scripts: list[Tag] = []
    for tag in FlvDemuxer().feed(data):
        if tag.kind is TagType.SCRIPT:
            scripts.append(tag)
            continue
        video = tag.kind is TagType.VIDEO
        body = parse_video(tag.body) if video else parse_audio(tag.body)
        if body is None:
            continue
        kind = "video" if video else "audio"
        cts = getattr(body, "cts", 0)
        if body.kind is TagKind.SEQUENCE:
            inits[kind] = body.data
        elif body.kind is TagKind.FRAME:
            found[kind].append(Packet(tag.timestamp_ms + cts, tag.timestamp_ms, body.data))
    return found, inits, scripts


@pytest.mark.parametrize("video", CLIPS)
def test_what_pyav_muxes_we_demux(video: str) -> None:
    data = clip(video)
    found, inits, scripts = demuxed(data)
    assert found == read(data)
    assert len(found["video"]) == FRAMES
    assert inits["video"]
    assert bool(inits.get("audio")) is (CLIPS[video][2] is not Codec.MP3)
    assert amf.decode(scripts[0].body)[0] == "onMetaData"


@pytest.mark.parametrize("video", CLIPS)
def test_what_we_mux_pyav_demuxes(video: str) -> None:
    data = remux(video, 44100)
    assert read(data) == read(clip(video))


def remux(video: str, rate: int) -> bytes:
    """Take a clip of PyAV's apart and write it again with the muxer."""
    found, inits, _ = demuxed(clip(video, rate))
    picture = Track(1, CLIPS[video][0], 90000, (inits["video"],))
    # MP3 has no setup bytes: one of the two ways in which its rate may be known.
    sound = Track(2, CLIPS[video][2], rate, (inits.get("audio", b""),))
    muxer = FlvMuxer([picture, sound])
    parts = [muxer.header({1: 0, 2: 0})]
    frames = [(p, picture) for p in found["video"]] + [(p, sound) for p in found["audio"]]
    for packet, track in sorted(frames, key=lambda item: item[0].dts):
        scale = Fraction(track.timescale, 1000)
        dts, pts = (round(time * scale) for time in (packet.dts, packet.pts))
        parts.append(muxer.tag(track, Sample(dts, pts - dts, True), packet.data))
    return b"".join(parts)


def test_mp3_at_a_rate_that_flv_has_no_code_for_plays_right() -> None:
    with av.open(io.BytesIO(remux("libvpx-vp9", 48000)), "r", format="flv") as source:
        rates = {frame.sample_rate for frame in source.decode(audio=0)}
    assert rates == {48000}


def test_the_header_describes_the_tracks() -> None:
    _, inits, _ = demuxed(clip("libx265"))
    tracks = [
        Track(1, Codec.HEVC, 90000, (b"", inits["video"])),
        Track(2, Codec.AAC, 44100, (inits["audio"],)),
    ]
    data = FlvMuxer(tracks).header({1: 1})
    assert data[:5] == b"FLV\x01\x05"
    _, again, [script] = demuxed(data)
    assert again == inits
    name, values = amf.decode(script.body)
    assert name == "onMetaData"
    assert isinstance(values, amf.EcmaArray)
    assert (values["width"], values["height"], values["framerate"]) == (64, 64, 25)
    assert values["videocodecid"] == int.from_bytes(b"hvc1", "big")
    assert values["audiocodecid"] == 10
    assert (values["audiosamplerate"], values["stereo"]) == (44100, True)


def test_a_new_sequence_header_carries_its_time() -> None:
    _, inits, _ = demuxed(clip("libx264"))
    track = Track(1, Codec.H264, 90000, (b"", inits["video"]))
    muxer = FlvMuxer([track])
    [tag] = FlvDemuxer().feed(
        b"FLV\x01\x01"
        + bytes([0, 0, 0, 9, 0, 0, 0, 0])
        + muxer.sequence_header(track, 1, 2**31 + 2**24 + 5)
    )
    assert tag.timestamp_ms == 2**24 + 5
    assert tag.body == b"\x17\x00\x00\x00\x00" + inits["video"]
    mp3 = Track(2, Codec.MP3, 44100)
    assert FlvMuxer([mp3]).sequence_header(mp3, 0, 0) == b""


def test_times_are_rounded_from_dts_and_pts_not_from_their_difference() -> None:
    track = Track(1, Codec.H264, 90000, (b"",))
    muxer = FlvMuxer([track])
    data = muxer.tag(track, Sample(44, 2, False), b"x")
    [tag] = FlvDemuxer().feed(b"FLV\x01\x01" + bytes([0, 0, 0, 9, 0, 0, 0, 0]) + data)
    body = parse_video(tag.body)
    assert body is not None
    assert (tag.timestamp_ms, body.cts, body.keyframe) == (0, 1, False)
    assert data[-4:] == (len(data) - 4).to_bytes(4, "big")


@pytest.mark.parametrize("codec", [Codec.JSON, Codec.TEXT])
def test_what_flv_cannot_carry_is_refused(codec: Codec) -> None:
    with pytest.raises(TrackUnsupported, match=codec):
        FlvMuxer([Track(1, codec, 1000)])


@pytest.mark.parametrize("kind", [Kind.VIDEO, Kind.AUDIO])
def test_two_tracks_of_a_kind_are_refused(kind: Kind) -> None:
    codec = Codec.H264 if kind is Kind.VIDEO else Codec.AAC
    with pytest.raises(TrackUnsupported, match="one video track and one audio track"):
        FlvMuxer([Track(1, codec, 1000), Track(2, codec, 1000)])


def test_a_longer_file_header_is_skipped() -> None:
    data = clip("libx264")
    longer = data[:5] + (12).to_bytes(4, "big") + b"abc" + data[9:]
    assert FlvDemuxer().feed(longer) == FlvDemuxer().feed(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"RIFF", "not an FLV"),
        (b"FLV\x01\x05\x00\x00\x00\x08", "header of 8"),
        (b"FLV\x01\x05\xff\xff\xff\xff", "header of"),
        (b"FLV\x01\x05\x00\x00\x00\x09\0\0\0\0" + b"\x29" + bytes(10), "encrypted"),
        (b"FLV\x01\x05\x00\x00\x00\x09\0\0\0\0" + b"\x07" + bytes(10), "unknown"),
    ],
)
def test_what_is_not_flv_is_a_format_error(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        FlvDemuxer().feed(data)


def test_a_huge_tag_is_refused_at_its_header() -> None:
    head = b"FLV\x01\x05\x00\x00\x00\x09\0\0\0\0"
    tag = b"\x09" + (flv.MAX_TAG + 1).to_bytes(3, "big") + bytes(7)
    with pytest.raises(FormatError, match="tag of"):
        FlvDemuxer().feed(head + tag)
