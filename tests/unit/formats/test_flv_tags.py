"""The bodies of FLV tags and RTMP messages, legacy and Enhanced RTMP."""

import pytest

from common.errors import FormatError, TrackUnsupported
from common.formats.flv import (
    AudioTag,
    MultitrackUnsupported,
    TagKind,
    VideoTag,
    parse_audio,
    parse_video,
)
from common.formats.flv_tags import audio_head, video_head
from common.media.codec import Codec

FRAME, SEQUENCE, END, METADATA = TagKind.FRAME, TagKind.SEQUENCE, TagKind.END, TagKind.METADATA


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\x17\x00\0\0\0avcC", VideoTag(Codec.H264, SEQUENCE, 0, True, b"avcC")),
        (b"\x17\x01\x00\x00\x50nal", VideoTag(Codec.H264, FRAME, 80, True, b"nal")),
        (b"\x27\x01\xff\xff\xd8nal", VideoTag(Codec.H264, FRAME, -40, False, b"nal")),
        (b"\x17\x02", VideoTag(Codec.H264, END, 0, True, b"")),
        (b"\x17\x02\0\0\0", VideoTag(Codec.H264, END, 0, True, b"")),
        (b"\x1c\x00\0\0\0hvcC", VideoTag(Codec.HEVC, SEQUENCE, 0, True, b"hvcC")),
        (b"\x90hvc1hvcC", VideoTag(Codec.HEVC, SEQUENCE, 0, True, b"hvcC")),
        (b"\x91hvc1\x00\x00\x28nal", VideoTag(Codec.HEVC, FRAME, 40, True, b"nal")),
        (b"\xa3hvc1nal", VideoTag(Codec.HEVC, FRAME, 0, False, b"nal")),
        (b"\x92hvc1", VideoTag(Codec.HEVC, END, 0, True, b"")),
        (b"\x91avc1\xff\xff\xffnal", VideoTag(Codec.H264, FRAME, -1, True, b"nal")),
        (b"\x91av01obu", VideoTag(Codec.AV1, FRAME, 0, True, b"obu")),
        (b"\xa1vp09pic", VideoTag(Codec.VP9, FRAME, 0, False, b"pic")),
        (b"\xd4hvc1amf", VideoTag(Codec.HEVC, METADATA, 0, False, b"amf")),
    ],
)
def test_video_bodies(body: bytes, expected: VideoTag) -> None:
    assert parse_video(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\xaf\x00\x11\x90", AudioTag(Codec.AAC, SEQUENCE, b"\x11\x90")),
        (b"\xaf\x01raw", AudioTag(Codec.AAC, FRAME, b"raw")),
        (b"\x2f\xff\xfb", AudioTag(Codec.MP3, FRAME, b"\xff\xfb")),
        (b"\xe2\xff\xe3", AudioTag(Codec.MP3, FRAME, b"\xff\xe3")),
        (b"\x90mp4a\x11\x90", AudioTag(Codec.AAC, SEQUENCE, b"\x11\x90")),
        (b"\x91Opuspkt", AudioTag(Codec.OPUS, FRAME, b"pkt")),
        (b"\x91.mp3frm", AudioTag(Codec.MP3, FRAME, b"frm")),
        (b"\x92Opus", AudioTag(Codec.OPUS, END, b"")),
        (b"\x94Opus\x01\x02", AudioTag(Codec.OPUS, METADATA, b"\x01\x02")),
    ],
)
def test_audio_bodies(body: bytes, expected: AudioTag) -> None:
    assert parse_audio(body) == expected


def test_an_empty_opus_sequence_start_stands_for_stereo() -> None:
    tag = parse_audio(b"\x90Opus")
    assert tag is not None
    assert tag.data[:10] == b"OpusHead\x01\x02"


@pytest.mark.parametrize("body", [b"", b"\xaf\x00", b"\xaf\x01", b"\x2f", b"\x91Opus"])
def test_empty_audio_means_silence(body: bytes) -> None:
    assert parse_audio(body) is None


@pytest.mark.parametrize("body", [b"", b"\x57\x00", b"\xd1\x00", b"\x95av01descriptor"])
def test_empty_video_and_commands_to_the_player_are_ignored(body: bytes) -> None:
    assert parse_video(body) is None


def test_modifiers_are_skipped_also_long_and_several_ones() -> None:
    nano = b"\x02\x00\x01\x00" + b"\x07"
    long = b"\xff\x01\x2b" + bytes(300) + b"\x01"
    expected = VideoTag(Codec.AV1, FRAME, 0, True, b"obu")
    assert parse_video(b"\x97" + nano + long + b"av01obu") == expected
    assert parse_audio(b"\x97\x02\x00\x01\x00\x01Opuspkt") == AudioTag(Codec.OPUS, FRAME, b"pkt")


@pytest.mark.parametrize("body", [b"\x96\x00avc1\x01", b"\x97\x02\0\0\0\x06\x00avc1\x01"])
def test_several_video_tracks_in_one_message_are_told_apart_from_garbage(body: bytes) -> None:
    with pytest.raises(MultitrackUnsupported):
        parse_video(body)


def test_several_audio_tracks_in_one_message_are_told_apart_from_garbage() -> None:
    with pytest.raises(MultitrackUnsupported):
        parse_audio(b"\x95\x00mp4a\x01")


@pytest.mark.parametrize(
    ("body", "name"), [(b"\x12\x00", "Sorenson"), (b"\x90vvc1", "vvc1"), (b"\x1f", "codec 15")]
)
def test_an_unknown_video_codec_is_named(body: bytes, name: str) -> None:
    with pytest.raises(TrackUnsupported, match=name):
        parse_video(body)


@pytest.mark.parametrize(
    ("body", "name"), [(b"\xb2\x00", "Speex"), (b"\x90fLaC", "fLaC"), (b"\xd0", "format 13")]
)
def test_an_unknown_audio_codec_is_named(body: bytes, name: str) -> None:
    with pytest.raises(TrackUnsupported, match=name):
        parse_audio(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\x17",
        b"\x17\x01\x00",
        b"\x17\x03\0\0\0",
        b"\x90hv",
        b"\x91hvc1\x00",
        b"\x98hvc1",
        b"\x97",
        b"\x97\x02\x00",
        b"\x97\xff\x00",
    ],
)
def test_a_broken_video_body_is_a_format_error(body: bytes) -> None:
    with pytest.raises(FormatError):
        parse_video(body)


@pytest.mark.parametrize("body", [b"\xaf", b"\xaf\x02x", b"\x90Op", b"\x93Opusx", b"\x97\x00"])
def test_a_broken_audio_body_is_a_format_error(body: bytes) -> None:
    with pytest.raises(FormatError):
        parse_audio(body)


@pytest.mark.parametrize("codec", [Codec.H264, Codec.HEVC])
@pytest.mark.parametrize("cts", [-(1 << 23), -40, 0, 40, (1 << 23) - 1])
def test_composition_time_survives(codec: Codec, cts: int) -> None:
    expected = VideoTag(codec, FRAME, cts, True, b"x")
    assert parse_video(video_head(codec, True, cts) + b"x") == expected


@pytest.mark.parametrize(
    ("rate", "channels", "head"),
    [(44100, 2, 0x2F), (22050, 1, 0x2A), (11025, 2, 0x27), (8000, 2, 0xE3), (48000, 2, 0x2F)],
)
def test_mp3_says_its_rate_as_well_as_flv_can(rate: int, channels: int, head: int) -> None:
    assert audio_head(Codec.MP3, rate, channels) == bytes([head])
