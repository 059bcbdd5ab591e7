"""Questions to the capacity calculator as text: the command's options and the API's query alike."""

import dataclasses
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from balancer import figures
from balancer.sizing import MOST, PROTOCOLS, Audience, Group, Machine, Overflow, report
from common.errors import ConfigError
from common.runtime.config import state_folder
from common.runtime.loader import suggestion
from common.runtime.units import Duration, Size

MAX_GROUPS = 64
"""Groups of streams in one question. One with more is answered with 400."""

MAX_TEXT = 64
"""Letters of one answer to one option. A question with a longer one is answered with 400."""

_RATE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}

OPTIONS: dict[str, str] = {
    "streams": "how many streams (1)",
    "bitrate": "of each, such as 4M or 800k (4M)",
    "viewers": "how many watch (1000)",
    "group": "STREAMSxBITRATE:VIEWERS, such as 2x5M:300, instead of these three; repeat it",
    "protocol": f"{', '.join(PROTOCOLS)} (ll-hls)",
    "tls": "yes or no (yes)",
    "fps": "video frames a second (30)",
    "part": "duration of a part of low-latency HLS (200ms)",
    "segment": "duration of a segment (2s)",
    "window": "how far back viewers can go (60s)",
    "recording": "how much of each stream is kept on disk (0)",
    "cores": "of an edge (those of this machine)",
    "memory": "of an edge, such as 8GB (that of this machine)",
    "network": "of an edge, such as 10G bits a second (1G)",
    "disk": "of an origin for recordings (what is free here)",
    "share": "how much of CPU and network to use at most (0.7)",
    "price": "money an hour for an edge of one's own",
    "own": "edges of one's own, for cloud overflow",
    "spare": "how many of these may fail (0)",
    "rented-cores": "of a rented edge (as the own ones)",
    "rented-memory": "of a rented edge",
    "rented-network": "of a rented edge",
    "rented-price": "money an hour for a rented edge",
    "gigabyte": "money for a gigabyte that a rented edge sends",
    "hours": "how long the peak lasts each day (3)",
}
"""What can be asked, and what each means with its default."""


def answer(
    asked: Iterable[tuple[str, str]],
    here: Machine,
    costs: figures.Figures,
    calibrated: bool = False,
) -> dict[str, Any]:
    """Return the report for a question; ``here`` is the machine that is meant if none is named.

    Raises:
        ConfigError: If something is unknown or out of range; says which.
    """
    audience, machine, plan = question(asked, here)
    return report(audience, machine, plan, costs, calibrated)


def question(
    asked: Iterable[tuple[str, str]], here: Machine
) -> tuple[Audience, Machine, Overflow | None]:
    """Return a question as values.

    Raises:
        ConfigError: If something is unknown or out of range; says which.
    """
    given: dict[str, str] = {}
    groups: list[Group] = []
    for name, text in asked:
        if name not in OPTIONS:
            raise ConfigError(name, f"no such option{suggestion(name, OPTIONS)}")
        if len(text) > MAX_TEXT:
            raise ConfigError(name, f"more than {MAX_TEXT} letters")
        if name != "group":
            given[name] = text.strip()
        elif len(groups) < MAX_GROUPS:
            groups.append(group(text.strip()))
        else:
            raise ConfigError(name, f"more than {MAX_GROUPS} of them")
    return _audience(given, groups), _machine(given, here), _plan(given, here)


def group(text: str) -> Group:
    """Read ``STREAMSxBITRATE:VIEWERS``.

    Raises:
        ConfigError: If it is none.
    """
    match = re.fullmatch(r"(\d+)x([0-9.]+[kMG]?):(\d+)", text)
    if match is None:
        raise ConfigError("group", f"{text!r} is not such as 2x5M:300")
    given = {"streams": match[1], "bitrate": match[2], "viewers": match[3]}
    return _group(given)


def rate(name: str, text: str) -> float:
    """Read bits a second, such as ``4M``, ``800k`` or ``2.5G``.

    Raises:
        ConfigError: If it is none above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMG]?)(?:bit/s|bps|b)?", text)
    value = float(match[1]) * _RATE[match[2]] if match else 0.0
    if not 0 < value <= 1e15:
        raise ConfigError(name, f"{text!r} is not a rate such as 4M or 800k, in bits a second")
    return value


def _audience(given: Mapping[str, str], groups: Sequence[Group]) -> Audience:
    protocol = given.get("protocol", "ll-hls")
    if protocol not in PROTOCOLS:
        raise ConfigError("protocol", f"unknown{suggestion(protocol, PROTOCOLS)}")
    if groups and given.keys() & {"streams", "bitrate", "viewers"}:
        raise ConfigError("group", "instead of streams, bitrate and viewers, not beside them")
    if given.get("tls", "yes") not in ("yes", "no"):
        raise ConfigError("tls", "must be yes or no")
    return Audience(
        groups=tuple(groups) or (_group(given),),
        protocol=protocol,  # type: ignore[arg-type]  # one of them, see above
        tls=given.get("tls", "yes") == "yes",
        fps=_number("fps", given, 30.0, 1, 1000),
        part=_time("part", given, 0.2, 0.05, 10),
        segment=_time("segment", given, 2.0, 0.5, 60),
        window=_time("window", given, 60.0, 0, 1e9),
        recording=_time("recording", given, 0.0, 0, 1e10),
    )


def _group(given: Mapping[str, str]) -> Group:
    return Group(
        round(_number("streams", given, 1, 1, MOST)),
        rate("bitrate", given["bitrate"]) if "bitrate" in given else 4e6,
        round(_number("viewers", given, 1000, 0, MOST)),
    )


def _machine(given: Mapping[str, str], here: Machine, prefix: str = "") -> Machine:
    def text(name: str) -> str | None:
        return given.get(prefix + name)

    network, memory, disk = text("network"), text("memory"), text("disk")
    return Machine(
        cores=_number(f"{prefix}cores", given, here.cores, 0.1, 10_000),
        memory=_size(f"{prefix}memory", memory) if memory else here.memory,
        network=rate(f"{prefix}network", network) if network else here.network,
        disk=_size(f"{prefix}disk", disk) if disk else here.disk,
        share=_number("share", given, here.share, 0.05, 1),
        price=_number(f"{prefix}price", given, 0.0, 0, 1e6),
    )


def _plan(given: Mapping[str, str], here: Machine) -> Overflow | None:
    if "own" not in given:
        return None
    own = round(_number("own", given, 0, 0, MOST))
    return Overflow(
        own=own,
        rented=_machine(given, _machine(given, here), "rented-"),
        gigabyte=_number("gigabyte", given, 0.0, 0, 1e6),
        hours=_number("hours", given, 3.0, 0, 24),
        spare=round(_number("spare", given, 0, 0, MOST)),
    )


def _number(
    name: str, given: Mapping[str, str], default: float, least: float, most: float
) -> float:
    text = given.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise ConfigError(name, f"must be a number from {least:g} to {most:g}")
    return value


def _time(name: str, given: Mapping[str, str], default: float, least: float, most: float) -> float:
    try:
        value = float(Duration.parse(given[name])) if name in given else default
    except ValueError as error:
        raise ConfigError(name, str(error)) from error
    if not least <= value <= most:
        raise ConfigError(name, f"must be {least:g} to {most:g} seconds")
    return value


def _size(name: str, text: str) -> float:
    try:
        return float(Size.parse(text))
    except ValueError as error:
        raise ConfigError(name, str(error)) from error


def load(named: Path | None = None) -> tuple[figures.Figures, bool]:
    """Return the figures, and whether they were measured on this machine.

    ``named`` is a file of ``headwater bench``; without one, that of this machine if it is there.

    Raises:
        ConfigError: If it cannot be read.
    """
    path = named or state_folder() / "figures.json"
    try:
        return figures.read(path.read_bytes()), True
    except OSError as error:
        if named is None:
            return figures.Figures(), False
        raise ConfigError(str(path), error.strerror or str(error)) from error


def this_machine(folder: Path = Path("/")) -> Machine:
    """Return what this machine has; the network is what a card says, 1 Gbit/s if none does."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = shutil.disk_usage(folder).free
    return dataclasses.replace(
        Machine(), cores=float(cores), memory=float(memory), network=_card(), disk=float(disk)
    )


def _card() -> float:
    """Return the bits a second of the fastest network card that tells."""
    speeds = []
    for path in Path("/sys/class/net").glob("*/speed"):
        try:
            speeds.append(int(path.read_text()) * 1e6)
        except (OSError, ValueError):
            continue  # a card without a cable, or a virtual one
    return max([speed for speed in speeds if speed > 0], default=1e9)
