"""Files played as live streams."""

import subprocess
from collections import defaultdict
from fractions import Fraction
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import av
import pytest

from common.errors import ConfigError, StreamError
from common.media.codec import Codec
from common.media.describe import describe, is_keyframe
from common.media.frame import Frame
from origin.child import ChildWriter, TrackNote
from origin.files.payload import converter
from origin.files.player import FilePlayer
from origin.files.source import FileSource, detect_format, parse_source
from origin.languages import bcp47, iso639_2
from origin.videogen_cli import main as videogen


class Heard(ChildWriter):
    """Remembers what the player announces."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.tracks: list[TrackNote] = []
        self.warnings: list[str] = []

    def track(self, note: TrackNote) -> None:
        """Remember a track."""
        self.tracks.append(note)

    def warning(self, text: str) -> None:
        """Remember a warning."""
        self.warnings.append(text)


def make(path: Path, *options: str) -> Path:
    """Write a second of the test stream into a file."""
    arguments = [str(path), "--fast", "--size", "160x90", "--gop", "400ms", *options]
    if "--duration" not in options:
        arguments += ["--duration", "1s"]
    assert videogen(arguments) == 0
    return path


def play(path: Path, seconds: float = 0.0) -> tuple[Heard, list[tuple[Fraction, Frame]]]:
    """Play a file once, or in a loop for some seconds of it."""
    heard = Heard()
    with path.open("rb") as file:
        frames = FilePlayer(file, path.name, heard).passes(loop=seconds > 0)
        if not seconds:
            return heard, list(frames)
        return heard, list(takewhile(lambda item: item[0] < seconds, frames))


def by_track(frames: list[tuple[Fraction, Frame]]) -> dict[int, list[Frame]]:
    """Sort frames by their track."""
    found: dict[int, list[Frame]] = defaultdict(list)
    for _, frame in frames:
        found[frame.track].append(frame)
    return found


@pytest.mark.parametrize(
    ("name", "options", "codecs"),
    [
        ("a.mp4", (), [Codec.H264, Codec.AAC]),
        ("a.flv", (), [Codec.H264, Codec.AAC]),
        ("a.ts", (), [Codec.H264, Codec.AAC]),
        ("a.ts", ("--video", "hevc", "--bframes", "2"), [Codec.HEVC, Codec.AAC]),
        ("a.mkv", ("--bframes", "2"), [Codec.H264, Codec.AAC]),
        ("a.mkv", ("--video", "av1", "--audio", "opus"), [Codec.AV1, Codec.OPUS]),
        ("a.mp4", ("--video", "hevc", "--audio", "opus"), [Codec.HEVC, Codec.OPUS]),
    ],
)
def test_every_container_and_codec_comes_out_as_records_carry_it(
    tmp_path: Path, name: str, options: tuple[str, ...], codecs: list[Codec]
) -> None:
    heard, frames = play(make(tmp_path / name, *options))
    notes = {note.number: note for note in heard.tracks}
    assert sorted(note.codec for note in notes.values()) == sorted(codecs)
    assert heard.warnings == []
    video = next(note for note in notes.values() if note.codec is codecs[0])
    assert describe(video.codec, video.init).width == 160
    pictures = by_track(frames)[video.number]
    assert len(pictures) == 25
    assert [is_keyframe(video.codec, frame.data, video.init) for frame in pictures] == [
        frame.keyframe for frame in pictures
    ]
    assert sum(frame.keyframe for frame in pictures) == 3
    assert not pictures[0].data.startswith(b"\0\0\0\1")
    sounds = by_track(frames)[next(n for n, note in notes.items() if note.codec is codecs[1])]
    assert all(frame.data[:2] != b"\xff\xf1" for frame in sounds)
    assert len(sounds) >= 45


def test_payloads_are_those_that_went_into_the_file(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4")
    _, frames = play(path)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux() if packet.size]
    assert sorted(frame.data for _, frame in frames) == sorted(packets)


def test_frames_come_in_order_and_are_due_at_their_dts(tmp_path: Path) -> None:
    _, frames = play(make(tmp_path / "a.mp4", "--bframes", "2"))
    dues = [due for due, _ in frames]
    assert dues == sorted(dues)
    assert dues[-1] - dues[0] < 1.1


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv", "a.flv"])
def test_a_loop_goes_on_where_the_longest_track_ended(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name)
    heard, once = play(path)
    clock = {note.number: note.clock for note in heard.tracks}
    lasts = {
        track: Fraction(frames[-1].dts - frames[0].dts + frames[-1].duration, clock[track])
        for track, frames in by_track(once).items()
    }
    longest = max(lasts, key=lambda track: lasts[track])
    _, frames = play(path, seconds=3.0)
    tracks = by_track(frames)
    for track in tracks.values():
        assert all(before.dts < after.dts for before, after in pairwise(track))
    assert len(tracks[longest]) > 2 * len(by_track(once)[longest])
    steps = {after.dts - before.dts for before, after in pairwise(tracks[longest])}
    assert max(steps) - min(steps) <= 2, "no seam in the longest track"


def test_unknown_codecs_are_left_out_with_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    source = make(tmp_path / "b.mkv")
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(source),
        "-c:v",
        "copy",
        "-c:a",
        "flac",
        str(path),
    ]
    subprocess.run(command, check=True)
    heard, frames = play(path, seconds=2.0)
    assert [note.codec for note in heard.tracks] == [Codec.H264]
    assert heard.warnings == ["track 1 (flac) is left out: the codec is not carried"]
    assert len(by_track(frames)) == 1


def test_a_file_without_a_known_track_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    source = ["-f", "lavfi", "-i", "sine=duration=1", "-c:a", "flac"]
    subprocess.run(["ffmpeg", "-v", "error", *source, str(path)], check=True)
    with pytest.raises(StreamError, match="no track of a codec"):
        play(path)


@pytest.mark.parametrize("name", ["a.mp3", "a.aac", "a.ogg"])
def test_audio_files_are_played(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    codec = {"a.mp3": "libmp3lame", "a.aac": "aac", "a.ogg": "libopus"}[name]
    tone = ["-f", "lavfi", "-i", "sine=duration=1:sample_rate=48000", "-ac", "2", "-c:a", codec]
    subprocess.run(["ffmpeg", "-v", "error", *tone, str(path)], check=True)
    heard, frames = play(path, seconds=2.5)
    (note,) = heard.tracks
    assert note.codec in (Codec.MP3, Codec.AAC, Codec.OPUS)
    assert all(frame.keyframe and frame.duration for _, frame in frames)
    assert len(frames) > 80


def test_subtitles_become_text(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n00:00:00,200 --> 00:00:00,700\nHello there\n\n")
    make(tmp_path / "b.mkv")
    path = tmp_path / "a.mp4"
    inputs = ["-i", str(tmp_path / "b.mkv"), "-i", str(tmp_path / "a.srt")]
    codecs = ["-c", "copy", "-c:s", "mov_text", "-metadata:s:s:0", "language=ger"]
    subprocess.run(["ffmpeg", "-v", "error", *inputs, *codecs, str(path)], check=True)
    heard, frames = play(path)
    (note,) = [note for note in heard.tracks if note.codec is Codec.TEXT]
    assert note.language == "de"
    (text,) = by_track(frames)[note.number]
    assert text.data == b"Hello there"
    assert Fraction(text.duration, note.clock) == Fraction(1, 2)


@pytest.mark.parametrize("cut", [100, 3000, 9000])
def test_damaged_files_are_stream_errors_or_end_early(tmp_path: Path, cut: int) -> None:
    whole = make(tmp_path / "a.mp4").read_bytes()
    path = tmp_path / "b.mp4"
    path.write_bytes(whole[:cut] + bytes(500) + whole[cut + 700 :])
    try:
        _, frames = play(path)
    except StreamError:
        return
    assert len(frames) < 80


def test_names_that_are_no_text_do_not_matter(tmp_path: Path) -> None:
    whole = make(tmp_path / "a.mkv").read_bytes()
    path = tmp_path / "b.mkv"
    path.write_bytes(whole.replace(b"Lavf", b"L\xffvf"))
    assert len(by_track(play(path)[1])) == 2


def test_a_playlist_or_script_is_no_format_that_is_played(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/secret\n")
    with pytest.raises(StreamError, match="no format that is played"):
        play(path)


def test_the_content_decides_what_format_a_file_has() -> None:
    assert detect_format(b"\0\0\0\x18ftypisom", "a.ts") == "mov"
    assert detect_format(b"\x1a\x45\xdf\xa3", "") == "matroska"
    assert detect_format(b"FLV\x01\x05", "") == "flv"
    assert detect_format(b"OggS", "") == "ogg"
    assert detect_format((b"\x47" + bytes(187)) * 2, "") == "mpegts"
    assert detect_format(b"ID3\x04", "song.aac") == "aac"
    assert detect_format(b"ID3\x04", "song.mp3") == "mp3"
    assert detect_format(b"\xff\xfb\x90\x64", "") == "mp3"
    assert detect_format(b"\xff\xf1\x50\x80", "") == "aac"
    assert detect_format(b"", "a.mp4") is None


def test_sources_are_paths_or_file_urls() -> None:
    assert parse_source("/srv/a b.mp4") == FileSource("/srv/a b.mp4")
    assert parse_source("file:///srv/a%20b.mp4?loop=0") == FileSource("/srv/a b.mp4", loop=False)
    for wrong in ("", "http://x/a.mp4", "file://host/a.mp4", "file:///a?speed=2", "file:a.mp4"):
        with pytest.raises(ConfigError):
            parse_source(wrong)


def test_languages_are_named_as_playlists_want_them() -> None:
    assert [bcp47(name) for name in ("eng", "GER", "de-CH", "", "x", "mis_", "und")] == [
        "en",
        "de",
        "de-CH",
        "und",
        "und",
        "und",
        "und",
    ]
    assert [iso639_2(tag) for tag in ("en", "de-CH", "gsw", "und", "xx")] == [
        "eng",
        "deu",
        "gsw",
        "und",
        "und",
    ]


def test_setup_bytes_that_change_in_a_transport_stream_are_announced_again(tmp_path: Path) -> None:
    first = make(tmp_path / "a.ts", "--audio", "none").read_bytes()
    second = make(tmp_path / "b.ts", "--audio", "none", "--size", "320x180").read_bytes()
    path = tmp_path / "c.ts"
    path.write_bytes(first + second)
    heard, _ = play(path)
    widths = [describe(note.codec, note.init).width for note in heard.tracks]
    assert widths == [160, 320]


def test_a_recovery_point_is_a_keyframe_only_if_the_container_says_so() -> None:
    avcc = bytes.fromhex(
        "014d401effe10016674d401eeca0d0fd08000003019000004af078b16cb001000568ebe3cb20"
    )
    chosen: Any = converter("h264", avcc)
    open_gop = b"\0\0\0\5\x06\x06\x01\xc4\x80" + b"\0\0\0\3\x41\x9a\x00"
    assert chosen.keyframe(open_gop, True)
    assert not chosen.keyframe(open_gop, False)
    assert not chosen.keyframe(b"\0\0\0\3\x41\x9a\x00", True)
