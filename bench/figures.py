"""Rows of the table: a figure, what it is compared with, the target, and whether it is met."""

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from bench import machine
from bench.generator import TRIES, Rejected

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One measured figure."""

    item: str
    """What was measured."""

    figure: float
    unit: str
    target: float
    least: bool
    """Whether the target is the least that is good enough, else the most."""

    reference: str = ""
    """What it was compared with, and its figure."""

    runs: list[float] = field(default_factory=list)
    """The figure of each run; ``figure`` is their median."""

    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.figure >= self.target if self.least else self.figure <= self.target

    @property
    def margin(self) -> float:
        """How far the worst run is on the good side of the target, as a share of it."""
        worst = (min if self.least else max)([*self.runs, self.figure])
        return (worst / self.target - 1) * (1 if self.least else -1)


def say(text: str) -> None:
    """Tell whoever waits how it goes."""
    print(f"  {text}", file=sys.stderr, flush=True)


def accepted(measure: Callable[[], T]) -> T:
    """Return a measurement that counts; try again where the load generator was at fault.

    Raises:
        Rejected: If it never did.
    """
    for _ in range(TRIES - 1):
        try:
            return measure()
        except Rejected as why:
            say(f"rejected: {why}")
    return measure()


def median(item: str, runs: list[float], unit: str, target: float, **more: object) -> Row:
    """Return the row of the median of several runs."""
    least = bool(more.pop("least", False))
    row = Row(
        item,
        round(statistics.median(runs), 4),
        unit,
        target,
        least,
        str(more.pop("reference", "")),
        [round(one, 4) for one in runs],
        str(more.pop("note", "")),
    )
    say(f"{item}: {row.figure:g} {unit}, target {target:g}: {'met' if row.met else 'MISSED'}")
    return row


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def markdown(rows: Iterable[Row], about: dict[str, str]) -> str:
    """Return the table and the machine."""
    lines = [
        "| Item | Figure | Target | | Compared with | Runs | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        limit = f"{'>=' if row.least else '<='} {_number(row.target)}"
        runs = ", ".join(map(_number, row.runs)) if len(row.runs) > 1 else ""
        verdict = "met" if row.met else "**missed**"
        lines.append(
            f"| {row.item} | {_number(row.figure)} {row.unit} | {limit} | {verdict} "
            f"| {row.reference} | {runs} | {row.note} |"
        )
    lines += ["", *(f"- {name}: {value}" for name, value in about.items())]
    return "\n".join(lines) + "\n"


def write(folder: Path, rows: list[Row]) -> None:
    """Write ``bench.md`` and ``bench.json``; rows of earlier runs that are not in it stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    about = machine.described()
    known: dict[str, Row] = {}
    if path.exists():
        earlier = json.loads(path.read_text())
        if earlier["machine"] == about:
            known = {one["item"]: Row(**one) for one in earlier["rows"]}
    known |= {row.item: row for row in rows}
    data = {"machine": about, "rows": [asdict(row) for row in known.values()]}
    path.write_text(json.dumps(data, indent=1) + "\n")
    (folder / "bench.md").write_text(markdown(known.values(), about))
