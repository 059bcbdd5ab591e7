"""The benchmarks: ``python -m bench [--quick] [--out FOLDER] [ROW...]``; ``make bench`` runs all.

Each prints how it goes and adds its rows to a table, as Markdown and JSON with the machine in it.
The method is in docs/performance.md.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import fanout, frames, machine, parking, publishing, serving
from bench.figures import Row, markdown, say, write
from bench.generator import Rejected

Measure = Callable[[bool], Iterator[Row]]


def _times(quick: bool) -> tuple[int, float]:
    return (3, 1.0) if quick else (5, 3.0)


GROUPS: dict[str, Measure] = {
    "serving": lambda quick: serving.measure(*_times(quick)),
    "secure": lambda quick: serving.secure(*_times(quick)),
    "fanout": lambda quick: fanout.measure(*_times(quick), 500),
    "crowd": lambda quick: fanout.crowd(5 if quick else 15, 500 if quick else fanout.CORE),
    "wakes": lambda quick: parking.wakes(*_times(quick), 500 if quick else parking.PARKED),
    "watching": lambda quick: parking.watching(*_times(quick), 500 if quick else 1000),
    "memory": lambda quick: parking.memory(*((300, "HLS", "progressive") if quick else (1000,))),
    "frames": lambda quick: frames.measure(*((3, 300) if quick else (5, 2000))),
    "latency": lambda quick: fanout.pushed(3 if quick else 10),
    "joins": lambda quick: publishing.joins(5 if quick else 20),
    "publishers": lambda quick: publishing.publishers(3 if quick else 10),
    "churn": lambda quick: publishing.churn(20 if quick else 300),
}


def main() -> int:
    """Run what is asked for; return 1 if a target is missed, or a row could not be measured."""
    parser = argparse.ArgumentParser(prog="bench", description="measure Headwater on this machine")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of: {', '.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder of tables")
    given = parser.parse_args()
    unknown = [name for name in given.rows if name not in GROUPS]
    if unknown:
        parser.error(f"no rows called {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    machine.own_network()
    machine.prepare()
    rows: list[Row] = []
    complete = True
    for name in given.rows or GROUPS:
        say(f"== {name}")
        try:
            for row in GROUPS[name](given.quick):
                rows.append(row)
                write(given.out, rows)
        except Rejected as why:
            complete = False
            say(f"{name} is given up, the machine is too busy: {why}")
    print(markdown(rows, machine.described()))
    return int(not complete or not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
