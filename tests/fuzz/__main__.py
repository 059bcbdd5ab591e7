"""Fuzz one target: ``python -m tests.fuzz TARGET [SECONDS [RUNS]]``; 77 says it found something.

It ends after so many seconds (0: never) or so many runs, whichever comes first.

What it finds is written to ``crash-...`` in the working folder: put it into
``tests/data/fuzz/TARGET`` once it is understood, where every later run starts from it.
"""

import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["common", "edge", "balancer"]):
    from tests.fuzz.targets import CORPORA, MAX_BYTES, TARGETS

MAX_MEMORY = 1024
"""Megabytes; an input that makes a parser take more is a finding."""

SLOW = 2
"""Seconds; likewise."""


def main(name: str, seconds: str = "60", runs: str = "-1") -> None:
    """Fuzz until the time is up or it ran often enough; new inputs go to a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="headwater-fuzz-") as found:
        arguments = [
            *(sys.argv[0], found, str(CORPORA / name)),
            *(f"-max_total_time={seconds}", f"-runs={runs}", f"-max_len={MAX_BYTES}"),
            *(f"-rss_limit_mb={MAX_MEMORY}", f"-timeout={SLOW}", "-print_final_stats=1"),
        ]
        atheris.Setup(arguments, TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
