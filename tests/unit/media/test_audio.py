"""AAC, MP3 and Opus headers."""

import pytest

from common.errors import FormatError
from common.media import audio
from common.media.codec import Codec
from common.media.describe import describe, is_keyframe
from tests.unit.media.samples import ASC_LC, OPUS_HEAD, BitWriter


def _explicit(kind: int, core_index: int, index: int, channels: int) -> bytes:
    bits = BitWriter().u(5, kind).u(4, core_index).u(4, channels).u(4, index).u(5, 2)
    return bits.u(3, 0).packed()


@pytest.mark.parametrize(
    ("asc", "name", "rate", "channels", "samples"),
    [
        (ASC_LC, "mp4a.40.2", 48_000, 2, 1024),
        (bytes.fromhex("1210"), "mp4a.40.2", 44_100, 2, 1024),
        (bytes.fromhex("1214"), "mp4a.40.2", 44_100, 2, 960),
        (bytes.fromhex("2b118800"), "mp4a.40.5", 48_000, 2, 2048),
        (_explicit(29, 6, 3, 1), "mp4a.40.29", 48_000, 2, 2048),
        (bytes.fromhex("131056e598"), "mp4a.40.5", 48_000, 2, 2048),
        (bytes.fromhex("130856e59d4880"), "mp4a.40.29", 48_000, 2, 2048),
        (bytes.fromhex("11b0"), "mp4a.40.2", 48_000, 6, 1024),
    ],
)
def test_audio_specific_configs_are_read(
    asc: bytes, name: str, rate: int, channels: int, samples: int
) -> None:
    description = describe(Codec.AAC, asc)
    assert description.codec_string == name
    assert description.sample_rate == rate
    assert description.channels == channels
    assert description.frame_samples == samples


def test_channels_are_counted_in_a_program_config_element() -> None:
    bits = BitWriter().u(5, 2).u(4, 3).u(4, 0).u(3, 0)
    bits.u(4, 0).u(2, 1).u(4, 3)  # element tag, profile, rate
    bits.u(4, 2).u(4, 0).u(4, 1).u(2, 1).u(3, 0).u(4, 0).u(3, 0)
    bits.u(5, 0).u(5, 16).u(5, 16).u(4, 0)  # centre, left and right, two surrounds, lfe
    bits.text += "0" * (-len(bits.text) % 8)
    assert audio.parse_asc(bits.u(8, 2).u(16, 0).packed()).channels == 6


def test_usac_is_read_as_far_as_its_frame_length() -> None:
    bits = BitWriter().u(5, 31).u(6, 10).u(4, 3).u(4, 2).u(5, 3).u(3, 3).packed()
    assert audio.parse_asc(bits) == audio.AacConfig(42, 48_000, 2, 2048)


@pytest.mark.parametrize(
    "asc", [b"", b"\x12", b"\x17\x80", bytes.fromhex("1240") + b"", b"\xff\xff"]
)
def test_broken_configs_are_format_errors(asc: bytes) -> None:
    with pytest.raises(FormatError):
        audio.parse_asc(asc)


@pytest.mark.parametrize("rate", [48_000, 44_100, 7_350, 50_000])
def test_a_config_that_was_built_is_read_back(rate: int) -> None:
    config = audio.parse_asc(audio.build_asc(2, rate, 2))
    assert config == audio.AacConfig(2, rate, 2, 1024)


def test_adts_frames_are_split_and_give_their_config() -> None:
    frame = bytes.fromhex("fff14c80017ffc") + b"abcd"
    ((header, raw), (second, _)) = audio.split_adts(frame * 2)
    assert raw == b"abcd"
    assert header == second
    asc = audio.build_asc(header.object_type, header.sample_rate, header.channel_configuration)
    assert asc == bytes.fromhex("1190")
    with pytest.raises(FormatError, match="cut off"):
        audio.split_adts(frame[:-1])
    with pytest.raises(FormatError, match="no ADTS"):
        audio.split_adts(frame + b"xyz")


def test_an_adts_header_with_a_checksum_is_two_bytes_longer() -> None:
    frame = bytes.fromhex("fff04c8001bffc") + b"\0\0abcd"
    assert audio.split_adts(frame)[0][1] == b"abcd"


def test_opus_heads_become_dops_boxes_and_back() -> None:
    assert describe(Codec.OPUS, OPUS_HEAD).codec_string == "opus"
    assert describe(Codec.OPUS, OPUS_HEAD).channels == 2
    dops = audio.opus_head_to_dops(OPUS_HEAD)
    assert dops.hex() == "00020138" + "0000bb80" + "000000"
    assert audio.dops_to_opus_head(dops) == OPUS_HEAD
    surround = audio.build_opus_head(
        audio.OpusHead(6, 312, 48_000, -256, 1, bytes([4, 2, 0, 4, 1, 2, 3, 5]))
    )
    assert audio.dops_to_opus_head(audio.opus_head_to_dops(surround)) == surround


@pytest.mark.parametrize(
    "data", [b"", b"OpusTags" + bytes(11), OPUS_HEAD[:18], OPUS_HEAD[:9] + b"\3" + OPUS_HEAD[10:]]
)
def test_broken_opus_heads_are_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError):
        audio.parse_opus_head(data)


@pytest.mark.parametrize(
    ("packet", "samples"),
    [
        (b"\xfc", 960),
        (b"\xfd", 1920),
        (b"\xff\x03", 2880),
        (b"\x18", 2880),
        (b"\x80", 120),
        (b"\x60", 480),
    ],
)
def test_opus_packets_tell_their_duration(packet: bytes, samples: int) -> None:
    assert audio.opus_duration(packet) == samples


@pytest.mark.parametrize("packet", [b"", b"\xff", b"\xff\0", b"\x1b\x03"])
def test_impossible_opus_packets_are_format_errors(packet: bytes) -> None:
    with pytest.raises(FormatError):
        audio.opus_duration(packet)


def test_mp3_headers_are_read() -> None:
    header = audio.parse_mp3_header(bytes.fromhex("fffb9064"))
    assert header == audio.Mp3Header(3, 44_100, 2, 128_000, 417, 1152)
    low = audio.parse_mp3_header(bytes.fromhex("fff344c4"))
    assert (low.sample_rate, low.channels, low.samples) == (24_000, 1, 576)
    assert describe(Codec.MP3, b"").codec_string == "mp4a.6B"
    assert describe(Codec.MP3, bytes.fromhex("fffb9064")).sample_rate == 44_100


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfb", b"ID3\4", b"\xff\xeb\x90\x64", b"\xff\xfb\xf0\0"]
)
def test_broken_mp3_headers_are_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError):
        audio.parse_mp3_header(data)


@pytest.mark.parametrize("codec", [Codec.AAC, Codec.MP3, Codec.OPUS, Codec.JSON, Codec.TEXT])
def test_frames_that_stand_alone_are_all_keyframes(codec: Codec) -> None:
    assert is_keyframe(codec, b"anything", b"")


def test_metadata_has_no_setup_bytes() -> None:
    assert describe(Codec.JSON, b"").codec_string == ""
    with pytest.raises(FormatError):
        describe(Codec.TEXT, b"x")
