"""Clips made by foreign encoders, pushes by foreign publishers, and what foreign demuxers read."""

import hashlib
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from tests.harness.netns import Space

FFMPEG = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]


@dataclass(frozen=True)
class Packet:
    """What a foreign demuxer says of one frame."""

    dts: float
    pts: float
    key: bool
    payload: str
    """SHA-256 of the bytes."""


def clip(path: Path, seconds: int, *video: str, size: str = "640x360") -> Path:
    """Make an FLV file with H.264 and AAC by ffmpeg; ``video`` are more x264 options."""
    picture = f"testsrc2=size={size}:rate=25:duration={seconds}"
    tone = f"sine=frequency=440:sample_rate=48000:duration={seconds}"
    subprocess.run(
        [
            *FFMPEG,
            *("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone),
            *("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "50"),
            *("-b:v", "800k", *video, "-c:a", "aac", "-ac", "2", "-b:a", "96k", "-f", "flv"),
            str(path),
        ],
        check=True,
    )
    return path


def push(path: Path, url: str, space: Space | None = None) -> "subprocess.Popen[bytes]":
    """Start ffmpeg pushing a file in real time, its coded bytes untouched."""
    command = [*FFMPEG, "-re", "-i", str(path), "-c", "copy", "-f", "flv", url]
    return subprocess.Popen(space.command(command) if space else command)


PUSH_BY_PYAV = """
import sys, time, av
source, url = av.open(sys.argv[1]), sys.argv[2]
options = {"rtmp_enhanced_codecs": "hvc1,av01,vp09,Opus"}
target = av.open(url, "w", format="flv", options=options)
streams = {s.index: target.add_stream_from_template(s, opaque=True) for s in source.streams}
began = None
for packet in source.demux():
    if packet.dts is None:
        continue
    due = float(packet.dts * packet.time_base)
    began = time.monotonic() - due if began is None else began
    time.sleep(max(0.0, began + due - time.monotonic()))
    packet.stream = streams[packet.stream.index]
    target.mux_one(packet)
target.close()
"""


def push_enhanced(path: Path, url: str) -> "subprocess.Popen[bytes]":
    """Start PyAV in a child process pushing a file in real time over Enhanced RTMP."""
    return subprocess.Popen([sys.executable, "-c", PUSH_BY_PYAV, str(path), url])


ENCODE_BY_PYAV = """
import sys, math, av, numpy as np
from fractions import Fraction
path, vcodec, acodec, seconds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
out = av.open(path, "w")
video = out.add_stream(vcodec, rate=25)
video.width, video.height, video.pix_fmt, video.gop_size = 320, 180, "yuv420p", 25
video.options = {"libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=2"},
                 "libsvtav1": {"preset": "12", "svtav1-params": "pred-struct=1"}}[vcodec]
audio = out.add_stream(acodec, rate=48000)
audio.layout = "stereo"
for number in range(25 * seconds):
    picture = np.full((270, 320), 128, np.uint8)
    picture[:180] = (np.add.outer(np.arange(180), np.arange(320)) + 4 * number) % 220
    frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, 25)
    out.mux(video.encode(frame))
    if number % 24 == 0:
        start = number // 24 * 46080
        wave = (np.sin(np.arange(start, start + 46080) / 20) * 0.2).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        sound.sample_rate, sound.pts, sound.time_base = 48000, start, Fraction(1, 48000)
        out.mux(audio.encode(sound))
out.mux(video.encode(None))
out.mux(audio.encode(None))
out.close()
"""


def clip_by_pyav(path: Path, video: str, audio: str, seconds: int) -> Path:
    """Make a Matroska file with codecs that only newer encoders have, in a child process."""
    subprocess.run(
        [sys.executable, "-c", ENCODE_BY_PYAV, str(path), video, audio, str(seconds)], check=True
    )
    return path


def packets(
    data: bytes | Path | Sequence[bytes], kind: str, *, container: str | None = None
) -> list[Packet]:
    """Return what FFmpeg's demuxer reads of the first track of ``kind`` ("video" or "audio")."""
    if isinstance(data, Path):
        data = data.read_bytes()
    blob = data if isinstance(data, bytes) else b"".join(data)
    found = []
    with av.open(io.BytesIO(blob), "r", format=container, metadata_errors="replace") as source:
        streams = [stream for stream in source.streams if stream.type == kind]
        for packet in source.demux(streams[0]):
            if packet.dts is None or packet.pts is None or packet.time_base is None:
                continue
            digest = hashlib.sha256(bytes(packet)).hexdigest()
            scale = packet.time_base
            found.append(
                Packet(
                    float(packet.dts * scale), float(packet.pts * scale), packet.is_keyframe, digest
                )
            )
    return found
