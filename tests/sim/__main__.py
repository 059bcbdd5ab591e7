"""Run simulations: ``python -m tests.sim [FIRST] [--seeds COUNT] [--trace]``."""

import argparse
import logging
import sys
import time

from tests.sim.world import Outcome, plan, simulate


def replay(seed: int) -> str:
    """Return the command that shows what happened under a seed."""
    return f"python -m tests.sim {seed} --trace"


def describe(outcome: Outcome) -> str:
    """Return a line about a simulation, and its problems."""
    what = outcome.plan
    head = (
        f"seed {what.seed}: {what.kind}, {what.relays} relays, paths {what.paths}, "
        f"repair {what.repair:g} s, {', '.join(f'{kind} at {at:g}' for at, kind in what.faults)}: "
        f"{outcome.published} records, {outcome.lost} counted as lost, {outcome.messages} messages,"
        f" {outcome.seconds:.2f} s, {outcome.digest}"
    )
    return "\n".join([head, *(f"    {text}"[:400] for text in outcome.problems)])


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print a line of the product's log."""
        print(f"          {record.name}: {record.getMessage()} {getattr(record, 'fields', '')}")


def main() -> int:
    """Return 1 if a simulation found something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", nargs="?", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()
    if not given.trace:
        logging.disable(logging.CRITICAL)
    else:
        logging.getLogger().addHandler(_Handler())
        logging.getLogger().setLevel(logging.INFO)
        print(plan(given.first))
    failed, began = [], time.process_time()
    published = lost = 0
    for seed in range(given.first, given.first + given.seeds):
        outcome = simulate(seed, trace=print if given.trace else None)
        published, lost = published + outcome.published, lost + outcome.lost
        if outcome.problems:
            failed.append(seed)
        if outcome.problems or given.seeds == 1:
            print(describe(outcome), flush=True)
            print(f"    again: {replay(seed)}", flush=True)
    spent = time.process_time() - began
    print(
        f"{given.seeds} seeds, {published} records, {lost} counted as lost, "
        f"{len(failed)} seeds failed {failed[:20]}, {spent:.1f} s of CPU"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
