"""A child process that misbehaves in the way its argument names."""

import os
import resource
import sys

from common.media.codec import Codec
from common.media.frame import Frame
from origin.child import MEMORY_LIMIT, TrackNote, standard_output


def main(how: str) -> int:
    """Do it."""
    writer = standard_output()
    note = TrackNote(1, Codec.JSON, b"", 1000)
    if how == "well":
        os.write(1, b"a library prints something\n")
        writer.track(note)
        writer.track(TrackNote(2, Codec.MP3, b"", 44_100))
        writer.beat()
        writer.warning("half a track is missing")
        writer.frame(Frame(1, -5, b"{}", 7, True, 40, 12345))
        writer.frame(Frame(2, 0, b"mp3"))
        writer.track(note)
    elif how == "complaining":
        writer.failure("there is no such file")
        return 1
    elif how == "silent":
        sys.stdin.close()
        while True:
            os.read(_never(), 1)
    elif how == "crashing":
        os.abort()
    elif how == "garbage":
        os.write(2, b"")
        os.write(_descriptor(writer), b"\xff" * 64)
    elif how == "unannounced":
        writer.frame(Frame(9, 0, b"{}"))
    elif how == "greedy":
        assert resource.getrlimit(resource.RLIMIT_AS)[0] == MEMORY_LIMIT
        try:
            bytearray(MEMORY_LIMIT)
        except MemoryError:
            writer.failure("no more memory")
    return 0


def _never() -> int:
    return os.pipe()[0]


def _descriptor(writer: object) -> int:
    descriptor = vars(writer)["_descriptor"]
    assert isinstance(descriptor, int)
    return descriptor


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
