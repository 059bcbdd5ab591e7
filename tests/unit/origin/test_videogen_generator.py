"""The generated pictures, tones and documents, as a foreign decoder sees them."""

import json
from collections import defaultdict
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest

from common.media.codec import Codec
from common.media.describe import describe
from common.media.frame import Frame
from common.media.nal import to_annexb
from origin.child import TrackNote
from origin.videogen.font import Font
from origin.videogen.generator import FastClock, Generator
from origin.videogen.picture import Painter, clock_bar, read_clock_bar
from origin.videogen.settings import parse_source

START_US = 1_795_176_896_789_000
"""2026-11-20 12:34:56.789."""


def generate(query: str, count: int) -> tuple[dict[int, TrackNote], dict[int, list[Frame]]]:
    generator = Generator(parse_source(f"videogen://?{query}"), FastClock(START_US))
    frames: dict[int, list[Frame]] = defaultdict(list)
    for batch in generator.run(count):
        for frame in batch:
            frames[frame.track].append(frame)
    return {note.number: note for note in generator.tracks()}, frames


def decode(note: TrackNote, frames: list[Frame]) -> list[Any]:
    """Return the pictures in presentation order."""
    name = {Codec.H264: "h264", Codec.HEVC: "hevc", Codec.AV1: "libdav1d"}[note.codec]
    decoder: Any = av.CodecContext.create(name, "r")
    decoder.extradata = note.init
    pictures: list[Any] = []
    for frame in frames:
        packet: Any = av.Packet(frame.data)
        packet.dts, packet.pts = frame.dts, frame.dts + frame.cts
        pictures += decoder.decode(packet)
    pictures += decoder.decode(None)
    return pictures


def test_the_clock_bar_says_the_time_in_forty_cells() -> None:
    row = clock_bar(640, 0x1_89AB_CDEF)
    cells = [int(value > 125) for value in row[8::16]]
    assert cells[:8] == [1, 0, 1, 0, 1, 0, 1, 0]
    assert int("".join(map(str, cells[8:])), 2) == 0x89ABCDEF
    assert set(row.tolist()) == {235, 16}
    picture = np.tile(clock_bar(426, 12_345), (16, 1))
    assert read_clock_bar(picture) == 12_345
    assert read_clock_bar(np.zeros((16, 640), np.uint8)) is None


def test_the_text_is_drawn_with_the_font_and_unknown_characters_are_blank() -> None:
    font = Font(2, 235, 16)
    line = font.render("Aé0")
    assert line.shape == (18, 36)
    assert line[:, :12].max() == 235
    assert line[:, 12:24].max() == 16


def test_only_what_moves_changes_from_picture_to_picture() -> None:
    painter = Painter(320, 180, Fraction(25))
    first = [plane.copy() for plane in painter.paint(0, START_US)]
    again = painter.paint(0, START_US)
    assert all((old == new).all() for old, new in zip(first, again, strict=True))
    later = painter.paint(40, START_US + 1_600_000)
    assert (later[0] != first[0]).any()
    assert (later[0] != first[0]).mean() < 0.15


@pytest.mark.parametrize("query", ["", "bframes=2", "video=hevc", "video=av1"])
def test_every_picture_carries_the_time_it_was_captured(query: str) -> None:
    notes, frames = generate(f"{query}&size=320x180&gop=400ms&audio=none", 25)
    video = frames[1]
    pictures = decode(notes[1], video)
    assert len(pictures) == len(video) == 25
    captured = {frame.dts + frame.cts: frame.capture_us for frame in video}
    read = [read_clock_bar(picture.to_ndarray(format="gray")) for picture in pictures]
    assert read == [captured[picture.pts] // 1000 & 0xFFFFFFFF for picture in pictures]
    assert sorted(captured.values()) == [START_US + 40_000 * n for n in range(25)]
    assert (pictures[0].width, pictures[0].height) == (320, 180)


@pytest.mark.parametrize("query", ["", "bframes=2", "video=hevc&bframes=2", "video=av1"])
def test_keyframes_come_exactly_at_every_gop(query: str) -> None:
    _, frames = generate(f"{query}&size=320x180&gop=400ms&audio=none&metadata=0", 31)
    keys = [frame.dts + frame.cts for frame in frames[1] if frame.keyframe]
    assert keys == [0, 36_000, 72_000, 108_000]
    dts = [frame.dts for frame in frames[1]]
    assert [after - before for before, after in pairwise(dts)] == [3600] * 30
    assert (min(frame.cts for frame in frames[1]) < max(frame.cts for frame in frames[1])) == (
        "bframes" in query
    )


def test_renditions_have_their_keyframes_together_and_languages_their_tracks() -> None:
    query = "renditions=320x180,160x90&languages=en,de&gop=200ms"
    notes, frames = generate(query, 12)
    assert [note.codec for note in notes.values()] == [
        Codec.H264,
        Codec.H264,
        Codec.AAC,
        Codec.AAC,
        Codec.JSON,
    ]
    assert [note.language for note in notes.values()][2:4] == ["en", "de"]
    assert [describe(notes[n].codec, notes[n].init).height for n in (1, 2)] == [180, 90]
    keys = [[frame.dts for frame in frames[number] if frame.keyframe] for number in (1, 2)]
    assert keys[0] == keys[1] == [0, 18_000, 36_000]


def test_fractional_frame_rates_keep_exact_time() -> None:
    _, frames = generate("size=160x90&fps=29.97&audio=none&metadata=0", 20)
    assert [frame.dts for frame in frames[1]] == [n * 3003 for n in range(20)]


@pytest.mark.parametrize(("codec", "size"), [("aac", 1024), ("opus", 960)])
def test_audio_frames_follow_each_other_and_beep_on_the_second(codec: str, size: int) -> None:
    notes, frames = generate(f"video=none&audio={codec}&metadata=0", 100)
    audio = frames[1]
    steps = [after.dts - before.dts for before, after in pairwise(audio)]
    assert set(steps) == {size}
    name = "aac" if codec == "aac" else "libopus"
    loud = _loud_samples(notes[1], audio, name)
    # The first full second comes 211 ms after the start, the others a second later each.
    beeps = [round(sample / 48_000 - 0.211, 1) for sample in loud]
    assert set(beeps) <= {0.0, 0.1, 1.0, 1.1, 2.0, 2.1, 3.0, 3.1}
    assert {0.0, 1.0, 2.0, 3.0} <= set(beeps)
    assert all(frame.capture_us <= START_US + 4_000_000 for frame in audio)


def _loud_samples(note: TrackNote, frames: list[Frame], name: str) -> list[int]:
    decoder: Any = av.CodecContext.create(name, "r")
    decoder.extradata = note.init
    if name == "libopus":
        decoder.sample_rate, decoder.layout = 48_000, "stereo"
    loud = []
    for frame in frames:
        packet: Any = av.Packet(frame.data)
        packet.pts = packet.dts = frame.dts
        for sound in decoder.decode(packet):
            values = sound.to_ndarray().astype(float).reshape(-1)
            if values.size and abs(values).max() > 0.2 * (
                32_768 if sound.format.is_planar is False else 1
            ):
                loud.append(frame.dts)
    return loud


def test_documents_say_wall_clock_and_frame_number() -> None:
    notes, frames = generate("size=160x90&audio=none&metadata=10", 25)
    assert notes[2].codec is Codec.JSON
    documents = [json.loads(frame.data) for frame in frames[2]]
    assert documents == [{"wall": START_US // 1000 + 400 * n, "frame": 10 * n} for n in range(3)]
    assert [frame.dts for frame in frames[2]] == [0, 36_000, 72_000]


def test_annexb_of_the_frames_decodes_with_the_parameter_sets_in_front() -> None:
    notes, frames = generate("size=160x90&audio=none&metadata=0", 3)
    assert to_annexb(frames[1][0].data).startswith(b"\0\0\0\1")
    assert describe(notes[1].codec, notes[1].init).codec_string == "avc1.42C00B"
