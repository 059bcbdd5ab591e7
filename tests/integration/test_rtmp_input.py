"""The RTMP input on a real socket: what an encoder sends reaches the stream as it is."""

import pytest

from common.errors import (
    TrackUnsupported,
)
from common.formats import amf
from common.formats.flv_tags import video_sequence
from common.media import vp9
from common.media.audio import parse_mp3_header
from common.media.codec import Codec
from common.media.describe import describe
from origin.flv_feed import MAX_HEADLESS, mp3_setup
from tests.harness.studio import AVCC, PICTURES, picture, running

ASC = bytes.fromhex("1190")
VP9_KEY = bytes.fromhex("824983420003f003f60038241c184a000030600000673fffff564564eecc00")
"""A key frame of 64 x 64 by libvpx."""

VP9_INTER = b"\x86\x00\x40\x92"


async def test_frames_arrive_byte_for_byte_with_their_times() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        client = encoder.rtmp
        client.send_data(0, "@setDataFrame", "onMetaData", {"width": 64})
        client.send_video(2**31 - 8, video_sequence(Codec.H264, AVCC))
        client.send_audio(2**31 - 8, b"\xaf\x00" + ASC)
        for number in range(3):
            client.send_video(2**31 - 8 + number * 40, picture(number, cts=80))
            client.send_audio(2**31 - 8 + number * 21, b"\xaf\x01" + bytes([number]) * 300)
        await encoder.flush()
        frames = await site.stream.until_frames(6)
    assert site.origin.asked == [("live", "KEY", "main", "rtmp")]
    assert [(t.codec, t.init, t.clock, t.wrap_bits) for t in site.stream.tracks] == [
        (Codec.H264, AVCC, 1000, 32),
        (Codec.AAC, ASC, 1000, 32),
    ]
    video = [f for f in frames if f.track == 1]
    assert [f.data for f in video] == PICTURES[:3]
    assert [f.dts for f in video] == [2**31 - 8, 2**31 + 32, 2**31 + 72]
    assert {f.cts for f in video} == {80}
    audio = [f for f in frames if f.track == 2]
    assert [f.data for f in audio] == [bytes([number]) * 300 for number in range(3)]
    assert all(f.keyframe for f in audio)


async def test_keyframes_are_found_in_the_bits_not_in_the_flags() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_video(0, video_sequence(Codec.H264, AVCC))
        for number in range(4):
            encoder.rtmp.send_video(number * 40, picture(number, keyframe=number == 1))
        await encoder.flush()
        frames = await site.stream.until_frames(4)
    assert [frame.keyframe for frame in frames] == [True, False, False, True]


async def test_repeated_metadata_and_equal_sequence_headers_restart_nothing() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        for number in range(3):
            encoder.rtmp.send_data(0, "@setDataFrame", "onMetaData", {"width": number})
            encoder.rtmp.send_video(number * 40, video_sequence(Codec.H264, AVCC))
            encoder.rtmp.send_video(number * 40, picture(number))
        encoder.rtmp.send_video(200, video_sequence(Codec.H264, AVCC + b"\x00"))
        encoder.rtmp.send_video(200, picture(3))
        await encoder.flush()
        await site.stream.until_frames(4)
    assert len(site.stream.tracks) == 1
    assert site.stream.inits == [(1, AVCC + b"\x00")]


async def test_a_codec_changed_in_mid_stream_opens_another_track() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_audio(0, b"\xaf\x00" + ASC)
        encoder.rtmp.send_audio(0, b"\xaf\x01aac")
        encoder.rtmp.send_audio(40, b"\x90Opus")
        encoder.rtmp.send_audio(40, b"\x91Opusxx")
        await encoder.flush()
        frames = await site.stream.until_frames(2)
    assert [t.codec for t in site.stream.tracks] == [Codec.AAC, Codec.OPUS]
    assert [f.track for f in frames] == [1, 2]


async def test_mp3_gets_its_rate_from_the_frame() -> None:
    joint = bytes.fromhex("fffb9264") + bytes(413)
    stereo = bytes.fromhex("fffba200") + bytes(413)
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_audio(0, b"\x2f" + joint)
        encoder.rtmp.send_audio(26, b"\x2fnot a frame")
        encoder.rtmp.send_audio(26, b"\x2f" + stereo)
        await encoder.flush()
        frames = await site.stream.until_frames(2)
    [track] = site.stream.tracks
    assert parse_mp3_header(track.init).sample_rate == 44100
    assert site.stream.inits == []
    assert [f.data for f in frames] == [joint, stereo]


def test_mono_and_stereo_mp3_differ_in_their_setup() -> None:
    mono, stereo = bytes.fromhex("fffb90c4"), bytes.fromhex("fffb9064")
    assert parse_mp3_header(mp3_setup(mono)).channels == 1
    assert parse_mp3_header(mp3_setup(stereo)).channels == 2


async def test_text_and_cue_points_become_a_json_track() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_data(7, "onTextData", {"text": "hé", "at": [amf.Date(5.0), None]})
        encoder.rtmp.send_data(8, "onTextData", {"bad": float("nan")})
        encoder.rtmp.send_data(9, "onCuePoint")
        await encoder.flush()
        frames = await site.stream.until_frames(2)
    assert [t.codec for t in site.stream.tracks] == [Codec.JSON]
    assert [(f.dts, f.data.decode()) for f in frames] == [
        (7, '{"name": "onTextData", "data": {"text": "hé", "at": [5.0, null]}}'),
        (9, '{"name": "onCuePoint", "data": null}'),
    ]


async def test_several_tracks_in_one_message_are_left_out_and_the_rest_goes_on() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_video(0, video_sequence(Codec.H264, AVCC))
        encoder.rtmp.send_video(0, b"\x96\x00avc1\x01")
        encoder.rtmp.send_audio(0, b"\x95\x00mp4a\x01")
        encoder.rtmp.send_video(0, b"\x17\x01\x00\x00\x00\xff\xff\xff\xff broken")
        encoder.rtmp.send_video(0, picture(0))
        await encoder.flush()
        frames = await site.stream.until_frames(1)
    assert [f.data for f in frames] == PICTURES[:1]


async def test_vp9_begins_at_a_key_frame_which_says_how_large_the_picture_is() -> None:
    bare = bytes.fromhex("000a820202020000")
    for setup in (bare, b"\x01\x00\x00\x00" + bare):
        async with running() as site:
            encoder = await (await site.encoder()).publish()
            encoder.rtmp.send_video(0, b"\x90vp09" + setup)
            encoder.rtmp.send_video(0, b"\xa1vp09" + VP9_INTER)
            encoder.rtmp.send_video(0, b"\x91vp09" + VP9_KEY)
            await encoder.flush()
            [frame] = await site.stream.until_frames(1)
        [track] = site.stream.tracks
        assert vp9.box(track.init) == b"\x01\x00\x00\x00" + bare
        about = describe(Codec.VP9, track.init)
        assert (about.width, about.height) == (64, 64)
        assert (frame.data, frame.keyframe) == (VP9_KEY, True)


async def test_empty_bodies_and_setup_that_no_codec_needs_are_ignored() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_audio(0, b"")
        encoder.rtmp.send_audio(0, b"\x90.mp3setup")
        encoder.rtmp.send_audio(0, b"\x92Opus")
        encoder.rtmp.send_video(0, b"\x17\x02")
        encoder.rtmp.send_audio(0, b"\xaf\x00" + ASC)
        encoder.rtmp.send_audio(0, b"\xaf\x01")
        encoder.rtmp.send_audio(0, b"\xaf\x01raw")
        await encoder.flush()
        await site.stream.until_frames(1)
    assert [t.codec for t in site.stream.tracks] == [Codec.AAC]


@pytest.mark.parametrize(
    ("send", "name"),
    [("video", "Sorenson"), ("audio", "Speex")],
)
async def test_an_unknown_codec_is_refused_by_name(send: str, name: str) -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        if send == "video":
            encoder.rtmp.send_video(0, b"\x12\x00")
        else:
            encoder.rtmp.send_audio(0, b"\xb2\x00")
        refusal = await encoder.refused()
        assert refusal.code == "NetStream.Publish.Unsupported"
        assert name in refusal.text
        assert (await site.stream.until_left())[1] is False


async def test_frames_without_a_sequence_header_are_refused_after_a_while() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        for number in range(MAX_HEADLESS + 1):
            encoder.rtmp.send_video(number * 40, picture(0))
        assert "sequence header" in (await encoder.refused()).text


async def test_what_the_stream_cannot_take_is_told_to_the_encoder() -> None:
    async with running() as site:
        site.stream.fail = TrackUnsupported("no keyframe for 10 s: set a keyframe interval")
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_video(0, video_sequence(Codec.H264, AVCC))
        encoder.rtmp.send_video(0, picture(1))
        refusal = await encoder.refused()
    assert refusal.text.startswith("no keyframe")


async def test_a_broken_body_is_refused() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_video(0, b"\x17")
        assert (await encoder.refused()).code == "NetStream.Publish.Failed"
