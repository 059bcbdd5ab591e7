"""``headwater videogen TARGET``: the test stream into a file, a pipe or a server."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import av.error
import av.logging

from common.errors import ConfigError, StreamError
from common.media.frame import Frame
from common.runtime.units import Duration
from origin.videogen.generator import FastClock, Generator, RealClock
from origin.videogen.mux import Muxer, Target, parse_target
from origin.videogen.settings import Settings, from_options

_OPTIONS = {
    "size": ("WxH[@RATE]", "size of the picture (640x360)"),
    "renditions": ("WxH[@RATE],…", "several sizes, instead of --size"),
    "fps": ("N", "frames a second, 29.97 and the like too (25)"),
    "gop": ("DURATION", "from keyframe to keyframe (2s)"),
    "video": ("CODEC", "h264, hevc, av1 or none (h264)"),
    "audio": ("CODEC", "aac, opus or none (aac)"),
    "bframes": ("N", "B-frames between references (0)"),
    "languages": ("TAG,…", "one audio track each (und)"),
}


def parser() -> argparse.ArgumentParser:
    """Return the command's argument parser."""
    top = argparse.ArgumentParser(
        prog="headwater videogen",
        description="Send a moving test picture with its clock, and a beep on the second.",
    )
    top.add_argument("target", metavar="TARGET", help="file, - for stdout, rtmp:// rtsp:// udp://")
    for name, (form, what) in _OPTIONS.items():
        top.add_argument(f"--{name}", metavar=form, help=what)
    top.add_argument("--duration", metavar="DURATION", help="end after so long (never)")
    top.add_argument("--format", default="", help="container, where TARGET does not tell")
    top.add_argument("--fast", action="store_true", help="do not wait for real time")
    return top


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code.

    Raises:
        ConfigError: If an option has a wrong value.
        StreamError: If the target does not take the stream.
    """
    arguments = parser().parse_args(argv)
    given = {name: getattr(arguments, name) for name in _OPTIONS if getattr(arguments, name)}
    settings = from_options(given, "videogen")
    target = parse_target(arguments.target, arguments.format, sys.stdout.buffer)
    count = None
    if arguments.duration:
        count = max(1, round(_seconds(arguments.duration) * settings.fps))
    av.logging.set_level(av.logging.ERROR)
    try:
        send(settings, target, count, fast=arguments.fast and not target.live)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        return 0  # whoever read standard output has enough
    except (av.error.FFmpegError, OSError) as error:
        raise StreamError(f"{arguments.target}: {error}") from error
    return 0


def _seconds(text: str) -> float:
    try:
        return float(Duration.parse(text))
    except ValueError as error:
        raise ConfigError("--duration", str(error)) from error


def send(settings: Settings, target: Target, count: int | None, *, fast: bool) -> None:
    """Generate ``count`` pictures (for ever if None) into ``target``.

    Raises:
        av.error.FFmpegError: If the target does not take the stream.
    """
    clock = FastClock(time.time_ns() // 1000) if fast else RealClock()
    generator = Generator(settings, clock)
    frames = generator.run(count)
    first = next(frames)
    with closing(Muxer(target, generator.tracks())) as muxer:
        for batch in _chain(first, frames):
            for frame in batch:
                muxer.write(frame)
            _flush(target)


def _chain(first: list[Frame], rest: Iterator[list[Frame]]) -> Iterator[list[Frame]]:
    yield first
    yield from rest


def _flush(target: Target) -> None:
    if not isinstance(target.place, str):
        target.place.flush()
