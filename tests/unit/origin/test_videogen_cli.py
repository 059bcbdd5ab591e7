"""The command ``headwater videogen``."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, StreamError
from origin.videogen.mux import Target, parse_target
from origin.videogen_cli import main


def probe(path: Path) -> list[dict[str, Any]]:
    """Return what ffprobe says of the streams in a file."""
    command = ["ffprobe", "-v", "error", "-show_streams", "-count_packets", "-of", "json"]
    done = subprocess.run([*command, str(path)], check=True, capture_output=True)
    streams: list[dict[str, Any]] = json.loads(done.stdout)["streams"]
    return streams


def make(path: Path, *options: str) -> list[dict[str, Any]]:
    """Write a second into a file and probe it."""
    size = () if "--renditions" in options else ("--size", "160x90")
    assert main([str(path), "--fast", "--duration", "1s", *size, *options]) == 0
    return probe(path)


@pytest.mark.parametrize(
    ("name", "options", "codecs"),
    [
        ("a.mp4", (), ["h264", "aac"]),
        ("a.flv", ("--bframes", "2"), ["h264", "aac"]),
        ("a.ts", ("--video", "hevc", "--audio", "none"), ["hevc"]),
        ("a.mkv", ("--video", "av1", "--audio", "opus"), ["av1", "opus"]),
        ("a.webm", ("--video", "av1", "--audio", "opus"), ["av1", "opus"]),
        ("a.mp4", ("--renditions", "160x90,80x80"), ["h264", "h264", "aac"]),
    ],
)
def test_a_foreign_demuxer_finds_every_frame(
    tmp_path: Path, name: str, options: tuple[str, ...], codecs: list[str]
) -> None:
    streams = make(tmp_path / name, *options)
    assert [stream["codec_name"] for stream in streams] == codecs
    assert [int(stream["nb_read_packets"]) for stream in streams if "width" in stream] == [
        25 for stream in streams if "width" in stream
    ]
    assert streams[0]["width"] == 160


def test_languages_are_written_into_the_container(tmp_path: Path) -> None:
    streams = make(tmp_path / "a.ts", "--languages", "en,de")
    assert [stream["tags"]["language"] for stream in streams[1:]] == ["eng", "deu"]


def test_standard_output_gets_a_transport_stream() -> None:
    command = "import sys; from origin.videogen_cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["-", "--fast", "--duration", "1s", "--size", "160x90", "--video", "h264"]
    done = subprocess.run(
        [sys.executable, "-c", command, *options], check=True, capture_output=True
    )
    assert done.stdout[0] == done.stdout[188] == 0x47
    assert len(done.stdout) % 188 == 0


def test_targets_are_told_by_scheme_and_ending() -> None:
    output = io.BytesIO()
    assert parse_target("rtmp://h/live/k", "", output) == Target("rtmp://h/live/k", "flv")
    assert parse_target("udp://239.0.0.1:5000", "", output).format == "mpegts"
    assert parse_target("rtmp://h/live/k", "", output).live
    assert not parse_target("a.MKV", "", output).live
    assert parse_target("a.MKV", "", output).format == "matroska"
    assert parse_target("-", "flv", output) == Target(output, "flv")
    for wrong in ("a.txt", "http://h/a.ts", "srt://h:1"):
        with pytest.raises(ConfigError):
            parse_target(wrong, "", output)


def test_wrong_options_and_unreachable_targets_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        main([str(tmp_path / "a.mp4"), "--video", "mpeg2"])
    with pytest.raises(ConfigError, match="duration"):
        main([str(tmp_path / "a.mp4"), "--duration", "soon"])
    with pytest.raises(StreamError, match="no/such"):
        main([str(tmp_path / "no/such/a.mp4"), "--duration", "1s", "--fast"])
