"""``headwater size``: the capacity calculator as a command."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balancer.sizing_ask import OPTIONS, answer, load, this_machine

RESOURCES = {"cpu": "CPU", "memory": "memory", "network": "network"}


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``headwater size``; the options are those of the API."""
    top = argparse.ArgumentParser(
        prog="headwater size",
        description="Reckon what hardware an audience needs, and what a machine can serve.",
    )
    for name, what in OPTIONS.items():
        top.add_argument(f"--{name}", action="append", default=[], metavar="X", help=what)
    top.add_argument("--figures", type=Path, metavar="FILE", help="what headwater bench wrote")
    top.add_argument("--json", action="store_true", help="print JSON")
    return top


def main(argv: Sequence[str]) -> int:
    """Print the answer; what ``headwater bench`` wrote is read if it is there.

    Raises:
        ConfigError: If the question cannot be answered; says what is wrong with it.
    """
    arguments = parser().parse_args(argv)
    asked = [
        (name, text) for name in OPTIONS for text in getattr(arguments, name.replace("-", "_"))
    ]
    costs, calibrated = load(arguments.figures)
    told = answer(asked, this_machine(), costs, calibrated)
    sys.stdout.write(json.dumps(told, indent=2) + "\n" if arguments.json else words(told))
    return 0


def words(told: dict[str, Any]) -> str:
    """Return a report as text for people."""
    asked, edges, one = told["asked"], told["edges"], told["capacity"]
    lines = ["For"]
    for group in asked["groups"]:
        rate = bits(group["bitrate"])
        lines.append(f"  {group['streams']:,} x {rate}, watched by {group['viewers']:,}")
    secure = "over TLS" if asked["tls"] else "without TLS"
    lines += [f"  {asked['protocol']} {secure}, window {asked['window']:g} s", ""]
    need = edges["needs"]
    lines += ["All edges together", *_needs(need), ""]
    lines += ["The origin", *_needs(told["origin"])]
    if asked["recording"]:
        lines.append(f"  disk      {size(told['storage'])} for recordings")
    machine = told["machine"]
    has = f"{machine['cores']:g} cores, {size(machine['memory'])}, {bits(machine['network'])}"
    lines += ["", f"An edge with {has}, used to {machine['share']:.0%}"]
    for name, count in one["by_resource"].items():
        first = "  <- first limit" if name == one["limit"] else ""
        lines.append(f"  {RESOURCES[name]:<9} allows {count:,} viewers{first}")
    if edges["possible"]:
        lines.append(f"  so {edges['count']:,} of them serve {_viewers(asked):,} viewers")
    else:
        lines.append("  it cannot even hold the streams")
    lines += _bill(told.get("overflow"))
    if told["advice"]:
        lines += ["", "Settings", *(f"  {line}" for line in told["advice"])]
    lines += ["", _measured(told["calibrated"])]
    return "\n".join(lines) + "\n"


def _measured(calibrated: bool) -> str:
    if calibrated:
        return "Reckoned with what headwater bench measured on this machine."
    return "Reckoned with measured costs of another machine; headwater bench measures this one."


def _needs(need: dict[str, float]) -> list[str]:
    return [
        f"  CPU       {need['cpu']:.2f} cores",
        f"  memory    {size(need['memory'])}",
        f"  network   {bits(need['sent'])} out, {bits(need['received'])} in",
    ]


def _bill(bill: dict[str, Any] | None) -> list[str]:
    if bill is None:
        return []
    even = bill["breakeven_hours"]
    lines = [
        "",
        "At the peak",
        f"  own edges serve {bill['own_serve']:,}, {bill['rented']:,} rented ones the other "
        f"{bill['rented_serve']:,}",
        f"  an hour costs {bill['hour']:,.2f}; rented edges send "
        f"{bill['traffic_gigabytes']:,.0f} GB in it",
        f"  a month costs {bill['month']:,.2f}; with {bill['own_instead']:,} own edges instead "
        f"{bill['month_instead']:,.2f}",
    ]
    if even is not None and even < 24:
        lines.append(f"  own edges are cheaper once the peak lasts {even:.1f} hours a day")
    return lines


def _viewers(asked: dict[str, Any]) -> int:
    return sum(int(group["viewers"]) for group in asked["groups"])


def bits(value: float) -> str:
    """Return bits a second for people."""
    return _scaled(value, "bit/s")


def size(value: float) -> str:
    """Return bytes for people."""
    return _scaled(value, "B")


def _scaled(value: float, unit: str) -> str:
    power = min(4, max(0, math.floor(math.log10(value) / 3))) if value >= 1 else 0
    prefix = ("", "k", "M", "G", "T")[power]
    return f"{value / 1000**power:.3g} {prefix}{unit}"
