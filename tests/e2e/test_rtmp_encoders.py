"""What real encoders send over RTMP arrives byte for byte."""

import asyncio
import hashlib
import subprocess
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from common.errors import AccessDenied
from common.media.codec import Codec, Kind
from common.media.frame import Frame
from tests.harness.ingest import Origin, Stream, running
from tests.harness.media import FFMPEG, clip, clip_by_pyav, packets, push, push_enhanced

pytestmark = pytest.mark.e2e

Publish = Callable[[Path, str], "subprocess.Popen[bytes]"]

LONGEST = 40.0


def url_of(address: str) -> str:
    return f"rtmp://{address}/live/KEY"


async def publish(source: Path, start: Publish) -> Stream:
    """Publish ``source`` to an input; return what came, once the encoder has left."""
    async with running() as site:
        process = start(source, url_of(site.address))
        try:
            async with asyncio.timeout(LONGEST), site.stream.changed:
                await site.stream.changed.wait_for(lambda: bool(site.stream.left))
        finally:
            process.kill()
            process.wait()
        assert site.origin.asked == [("live", "KEY", "main", "rtmp")]
    return site.stream


def frames(stream: Stream, kind: Kind) -> list[Frame]:
    wanted = {n for n, track in enumerate(stream.tracks, 1) if track.codec.kind is kind}
    return [frame for frame in stream.frames if frame.track in wanted]


def hashes(found: Sequence[Frame]) -> list[str]:
    return [hashlib.sha256(frame.data).hexdigest() for frame in found]


def check(stream: Stream, source: Path) -> None:
    """Compare with what a foreign demuxer reads of the file."""
    for kind in (Kind.VIDEO, Kind.AUDIO):
        expected = packets(source, kind)
        assert len(expected) > 20
        assert hashes(frames(stream, kind)) == [packet.payload for packet in expected]
    keys = [packet.key for packet in packets(source, "video")]
    assert [frame.keyframe for frame in frames(stream, Kind.VIDEO)] == keys


async def test_ffmpeg_with_b_frames_arrives_byte_for_byte(tmp_path: Path) -> None:
    source = clip(tmp_path / "b.flv", 3, "-bf", "2", "-preset", "veryfast")
    stream = await publish(source, push)
    check(stream, source)
    assert {track.codec for track in stream.tracks} == {Codec.H264, Codec.AAC}
    assert any(frame.cts for frame in frames(stream, Kind.VIDEO))
    assert stream.left == [("FCUnpublish", True)]


@pytest.mark.parametrize("offset", [16775.5, 2147481.5])
async def test_ffmpeg_arrives_whole_across_the_limits_of_its_clock(
    tmp_path: Path, offset: float
) -> None:
    source = clip(tmp_path / "clip.flv", 4)

    def late(path: Path, url: str) -> "subprocess.Popen[bytes]":
        shift = ("-output_ts_offset", str(offset))
        return subprocess.Popen(
            [*FFMPEG, "-re", "-i", str(path), "-c", "copy", *shift, "-f", "flv", url]
        )

    stream = await publish(source, late)
    check(stream, source)
    times = [frame.dts for frame in frames(stream, Kind.VIDEO)]
    # FFmpeg counts 31 bits; the extended timestamp begins at 24.
    assert {(b - a) % 2**31 for a, b in pairwise(times)} == {40}
    assert (min(times) < 2**24 <= max(times)) or (min(times) < 10_000 and max(times) > 2**30)


@pytest.mark.parametrize(
    ("video", "audio", "codecs"),
    [
        ("libx265", "aac", {Codec.HEVC, Codec.AAC}),
        ("libsvtav1", "libopus", {Codec.AV1, Codec.OPUS}),
    ],
)
async def test_enhanced_rtmp_from_pyav_arrives_byte_for_byte(
    tmp_path: Path, video: str, audio: str, codecs: set[Codec]
) -> None:
    source = clip_by_pyav(tmp_path / "clip.mkv", video, audio, 3)
    stream = await publish(source, push_enhanced)
    check(stream, source)
    assert {track.codec for track in stream.tracks} == codecs


@pytest.mark.parametrize("sink", ["rtmp2sink", "rtmpsink"])
async def test_a_live_gstreamer_pipeline_arrives_byte_for_byte(tmp_path: Path, sink: str) -> None:
    copy = tmp_path / "copy.flv"

    def pipeline(path: Path, url: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [
                *("gst-launch-1.0", "-q", "-e"),
                *("flvmux", "name=mux", "streamable=true", "!", "tee", "name=both"),
                *("both.", "!", "queue", "!", "filesink", f"location={path}"),
                *("both.", "!", "queue", "!", sink, f"location={url}"),
                *("videotestsrc", "is-live=true", "num-buffers=100"),
                *("!", "video/x-raw,width=320,height=180,framerate=25/1,format=I420"),
                *("!", "x264enc", "speed-preset=ultrafast", "key-int-max=25", "aud=true"),
                *("!", "h264parse", "!", "mux."),
                *("audiotestsrc", "is-live=true", "num-buffers=180", "samplesperbuffer=1024"),
                *("!", "audio/x-raw,rate=48000,channels=2", "!", "avenc_aac", "!", "mux."),
            ]
        )

    stream = await publish(copy, pipeline)
    check(stream, copy)
    assert len(stream.tracks) == 2
    assert stream.inits == []


async def test_ffmpeg_shows_why_it_was_refused(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", 2)
    origin = Origin()
    origin.refusal = AccessDenied("the stream key is wrong")
    async with running(origin) as site:
        process = await asyncio.create_subprocess_exec(
            *(*FFMPEG, "-re", "-i", str(source), "-c", "copy", "-f", "flv", url_of(site.address)),
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(LONGEST):
            _, said = await process.communicate()
    assert process.returncode != 0
    assert b"the stream key is wrong" in said
