"""The process that generates: ``python -m origin.videogen.child SOURCE``, frames on stdout."""

import sys

import av.logging

from common.errors import HeadwaterError
from origin.child import ChildWriter, standard_output
from origin.videogen.generator import Generator, RealClock
from origin.videogen.settings import parse_source

_BEAT_US = 1_000_000


def generate(source: str, writer: ChildWriter, count: int | None = None) -> None:
    """Generate in real time what ``source`` asks for, for ever or for ``count`` pictures.

    Raises:
        ConfigError: If the source cannot be read.
        StreamError: If an encoder misbehaves.
    """
    clock = RealClock()
    generator = Generator(parse_source(source), clock)
    announced = False
    beat_us = 0
    for frames in generator.run(count):
        if not announced:
            announced = True
            for note in generator.tracks():
                writer.track(note)
        for frame in frames:
            writer.frame(frame)
        if clock.wall_us() - beat_us > _BEAT_US:
            beat_us = clock.wall_us()
            writer.beat()


def main(argv: list[str]) -> int:
    """Run the process; return its exit code."""
    av.logging.set_level(av.logging.ERROR)
    writer = standard_output()
    try:
        generate(argv[0], writer)
    except HeadwaterError as error:
        writer.failure(str(error))
        return 1
    except BrokenPipeError:
        return 0  # the origin has gone or wants no more
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
