"""The process that plays a file: ``python -m origin.files.child SOURCE``, frames on stdout."""

import sys
import time
from fractions import Fraction
from pathlib import Path

import av.logging

from common.errors import HeadwaterError, StreamError
from origin.child import ChildWriter, standard_output
from origin.files.player import FilePlayer
from origin.files.source import FileSource, parse_source

_BEAT = 1.0


class _Pace:
    """Waits until a frame is due, and shows signs of life meanwhile."""

    def __init__(self, writer: ChildWriter) -> None:
        self._writer = writer
        self._start = time.monotonic()
        self._beaten = 0.0

    def wait(self, due: Fraction) -> None:
        target = self._start + float(due)
        while True:
            now = time.monotonic()
            if now - self._beaten >= _BEAT:
                self._beaten = now
                self._writer.beat()
            if now >= target:
                return
            time.sleep(min(target - now, _BEAT))


def play(source: FileSource, writer: ChildWriter) -> None:
    """Play a file in real time until its end, or for ever.

    Raises:
        StreamError: If it cannot be opened or played.
    """
    path = Path(source.path)
    try:
        if not path.is_file():
            raise StreamError(f"{path} is not a file")
        with path.open("rb") as file:
            pace = _Pace(writer)
            pace.wait(Fraction(0))
            for due, frame in FilePlayer(file, path.name, writer).passes(source.loop):
                pace.wait(due)
                frame.capture_us = time.time_ns() // 1000
                writer.frame(frame)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StreamError(f"{path} cannot be read: {error.strerror or error}") from error


def main(argv: list[str]) -> int:
    """Run the process; return its exit code."""
    av.logging.set_level(av.logging.PANIC)
    writer = standard_output()
    try:
        play(parse_source(argv[0]), writer)
    except HeadwaterError as error:
        writer.failure(str(error))
        return 1
    except BrokenPipeError:
        return 0  # the origin has gone or wants no more
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
