"""What real encoders make, through our boxes, and back out of FFmpeg frame by frame."""

import io
import struct
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from common.formats.cmaf import fragment, init_segment, part
from common.formats.mp4_read import read_fragments, read_init
from common.media import av1, h264, hevc
from common.media.codec import Codec
from common.media.color import Display
from common.media.describe import describe
from common.media.nal import split_annexb, to_length_prefixed
from common.media.track import Track
from common.track.record import Flag, Record

Frames = list[tuple[Record, bytes]]

FRAMES = 30
START = 10


def make_video(encoder: str, options: dict[str, str], codec: Codec) -> tuple[Track, Frames]:
    context = av.CodecContext.create(encoder, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = 320, 180
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, 25)
    context.framerate = Fraction(25)
    context.gop_size = 10
    context.options = options
    context.thread_count = 1
    packets: list[av.Packet[Any]] = []
    for index in range(FRAMES):
        picture = np.full((270, 320), 16 + index * 7 % 200, np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
        frame.pts = index
        packets += context.encode(frame)
    packets += context.encode(None)
    start = min(p.dts for p in packets if p.dts is not None)
    init, payloads = setup(codec, bytes(context.extradata or b""), [bytes(p) for p in packets])
    records = []
    for seq, (packet, payload) in enumerate(zip(packets, payloads, strict=True)):
        assert packet.pts is not None
        assert packet.dts is not None
        dts = (packet.dts - start) * 3600 + START * 90_000
        flags = Flag.KEY if packet.is_keyframe else Flag(0)
        cts = (packet.pts - packet.dts) * 3600
        records.append(Record(seq, dts, 0, 0, cts, 3600, 0, seq // 5, 0, len(payload), 0, flags, 0))
    track = Track(1, codec, 90_000, (init,), frame_duration=3600)
    return track, list(zip(records, payloads, strict=True))


def setup(codec: Codec, extra: bytes, packets: list[bytes]) -> tuple[bytes, list[bytes]]:
    if codec is Codec.AV1:
        units = [av1.drop_temporal_delimiters(packet) for packet in packets]
        sequence = av1.sequence_header(units[0])
        assert sequence is not None
        return av1.build_av1c(sequence), units
    nals = split_annexb(extra) + split_annexb(packets[0])
    from_nals = h264.avcc_from_nals if codec is Codec.H264 else hevc.hvcc_from_nals
    init = from_nals(nals)
    assert init is not None
    return init, [to_length_prefixed(packet) for packet in packets]


def make_audio(encoder: str, codec: Codec, number: int = 2) -> tuple[Track, Frames]:
    context = av.CodecContext.create(encoder, "w")
    assert isinstance(context, av.AudioCodecContext)
    context.sample_rate = 48_000
    context.layout = "stereo"
    context.format = "s16p" if codec is Codec.MP3 else "flt" if codec is Codec.OPUS else "fltp"
    context.bit_rate = 96_000
    context.time_base = Fraction(1, 48_000)
    context.open()
    size = context.frame_size
    packets: list[av.Packet[Any]] = []
    for index in range(FRAMES):
        kind = np.int16 if codec is Codec.MP3 else np.float32
        shape = (1, 2 * size) if codec is Codec.OPUS else (2, size)
        frame = av.AudioFrame.from_ndarray(
            np.zeros(shape, kind), format=context.format.name, layout="stereo"
        )
        frame.sample_rate = 48_000
        frame.pts = index * size
        packets += context.encode(frame)
    packets += context.encode(None)
    init = b"" if codec is Codec.MP3 else bytes(context.extradata or b"")
    frames = []
    for seq, packet in enumerate(packets):
        data = bytes(packet)
        dts = START * 48_000 + seq * size
        record = Record(seq, dts, 0, 0, 0, size, 0, seq // 9, 0, len(data), 0, Flag.KEY, 0)
        frames.append((record, data))
    return Track(number, codec, 48_000, (init,), language="nl", frame_duration=size), frames


MAKERS = {
    "h264": lambda: make_video("libx264", {"preset": "ultrafast"}, Codec.H264),
    "h264 with B-frames": lambda: make_video(
        "libx264", {"preset": "ultrafast", "x264-params": "bframes=2:b-adapt=0"}, Codec.H264
    ),
    "hevc": lambda: make_video(
        "libx265", {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"}, Codec.HEVC
    ),
    "av1": lambda: make_video(
        "libsvtav1", {"preset": "12", "svtav1-params": "lp=1:pred-struct=1"}, Codec.AV1
    ),
    "aac": lambda: make_audio("aac", Codec.AAC),
    "opus": lambda: make_audio("libopus", Codec.OPUS),
    "mp3": lambda: make_audio("libmp3lame", Codec.MP3),
}


def parts_of(track: Track, frames: Frames) -> list[bytes]:
    grouped: dict[int, Frames] = {}
    for record, payload in frames:
        grouped.setdefault(record.part, []).append((record, payload))
    return [
        part(track, [r for r, _ in group], [p for _, p in group], None, (group[0][0].dts, 10**15))
        for group in grouped.values()
    ]


@pytest.fixture(params=MAKERS, scope="module")
def made(request: pytest.FixtureRequest) -> tuple[Track, Frames]:
    return MAKERS[request.param]()


def test_ffmpeg_reads_back_every_frame_as_it_was(made: tuple[Track, Frames]) -> None:
    track, frames = made
    data = init_segment([(track, 0)]) + b"".join(parts_of(track, frames))
    with av.open(io.BytesIO(data), "r", format="mp4") as container:
        stream = container.streams[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert [bytes(p) for p in packets] == [payload for _, payload in frames]
        assert [p.dts for p in packets] == [record.dts for record, _ in frames]
        assert [p.pts for p in packets] == [record.dts + record.cts for record, _ in frames]
        assert [p.is_keyframe for p in packets] == [record.key for record, _ in frames]
        assert stream.time_base == Fraction(1, track.timescale)


COLOURS = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"


@pytest.mark.parametrize(
    ("encoder", "codec", "options"),
    [
        ("libx264", Codec.H264, {"x264-params": f"sar=4/3:{COLOURS}:fullrange=on"}),
        (
            "libx265",
            Codec.HEVC,
            {"x265-params": f"sar=14:{COLOURS}:range=full:log-level=none:pools=1"},
        ),
    ],
)
def test_the_shape_of_pixels_and_their_colours_are_told_to_players(
    encoder: str, codec: Codec, options: dict[str, str]
) -> None:
    track, frames = make_video(encoder, {"preset": "ultrafast", **options}, codec)
    about = describe(codec, track.inits[0])
    assert about.display == Display((4, 3), (9, 16, 9), full_range=True)
    assert about.display.video_range == "PQ"
    assert (about.width, about.shown_width, about.height) == (320, 427, 180)
    init = init_segment([(track, 0)])
    assert struct.pack(">I4sII", 16, b"pasp", 4, 3) in init
    assert struct.pack(">I4s4sHHHB", 19, b"colr", b"nclx", 9, 16, 9, 0x80) in init
    movie = read_init(init)
    assert (movie.tracks[0].width, movie.tracks[0].height) == (320, 180)
    with av.open(io.BytesIO(init + parts_of(track, frames)[0]), "r", format="mp4") as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_our_reader_gives_back_what_was_written(made: tuple[Track, Frames]) -> None:
    track, frames = made
    movie = read_init(init_segment([(track, 0)]))
    assert [(t.id, t.timescale, t.language) for t in movie.tracks] == [
        (track.id, track.timescale, track.language)
    ]
    runs = read_fragments(b"".join(parts_of(track, frames)), movie)
    samples = [sample for run in runs for sample in run.samples]
    assert [(s.dts, s.cts, s.key, s.data) for s in samples] == [
        (r.dts, r.cts, r.key, payload) for r, payload in frames
    ]


def test_ffprobe_decodes_every_frame_of_a_file_with_picture_and_sound(tmp_path: Path) -> None:
    video, pictures = MAKERS["h264 with B-frames"]()
    audio, sounds = MAKERS["aac"]()
    data = init_segment([(video, 0), (audio, 0)])
    for (picture, shown), (sound, heard) in zip(pictures, sounds, strict=False):
        data += fragment([video, audio], [([picture], [shown]), ([sound], [heard])])
    path = tmp_path / "both.mp4"
    path.write_bytes(data)
    command = "ffprobe -v warning -count_frames -of csv=p=0 -show_entries"
    probe = subprocess.run(
        [*command.split(), "stream=codec_type,nb_read_frames", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert probe.stderr == ""
    assert sorted(probe.stdout.split()) == [f"audio,{FRAMES}", f"video,{FRAMES}"]
