"""``headwater doctor``: look at this machine, and say what to do about each finding.

Checks are functions from what was read to findings, so that each can be tried; what reads is in
``doctor_look.py``. A finding is good, a warning (works, but not well or not for long), or bad.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Grade = Literal["good", "warning", "bad"]

SIGNS = {"good": "ok  ", "warning": "warn", "bad": "BAD "}

RESERVED_FILES = 1024
"""Descriptors that a process needs besides those of viewers."""

LEAST_BUFFER = 4 * 2**20
"""Bytes of a socket's buffer that a line of 1 Gbit/s and 30 ms needs."""

LEAST_BACKLOG = 1024
MOST_SKEW = 1.0
"""Seconds that two clocks may differ: times of capture and tokens are compared between machines."""

LEAST_FREE = 1e9
"""Bytes free on a disk that Headwater writes to."""

EXPIRES_SOON = 14 * 86_400.0

TMPFS = "tmpfs"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    grade: Grade
    what: str
    advice: str = ""
    """What to do; empty if it is good."""


@dataclass(frozen=True, slots=True)
class Space:
    """A folder's file system."""

    kind: str
    total: float
    free: float
    writable: bool = True


def clock(synchronised: bool | None, offsets: Mapping[str, float]) -> list[Finding]:
    """Judge the clock; ``offsets`` are seconds by which other machines are ahead of it."""
    found = []
    if synchronised is None:
        found.append(Finding("clock", "warning", "nobody says whether it is synchronised", NTP))
    elif synchronised:
        found.append(Finding("clock", "good", "the kernel says it is synchronised"))
    else:
        found.append(Finding("clock", "warning", "the kernel says it is not synchronised", NTP))
    for who, ahead in sorted(offsets.items()):
        # HTTP tells whole seconds only.
        if abs(ahead) > MOST_SKEW + 1:
            way = "ahead of" if ahead > 0 else "behind"
            what = f"{who} is {abs(ahead):.0f} s {way} this machine"
            found.append(Finding("clock", "bad", what, NTP))
    return found


NTP = "run chrony or systemd-timesyncd (timedatectl set-ntp true)"


def descriptors(soft: int, hard: int, needed: int) -> Finding:
    """Judge the limit of open files against the viewers that are to be let in by one process."""
    need = needed + RESERVED_FILES
    what = f"a process may open {soft} files; {need} are needed for {needed} connections"
    if soft >= need:
        return Finding("descriptors", "good", what)
    how = f"ulimit -n {need}" if hard >= need else f"LimitNOFILE={need} in the unit, as root"
    return Finding("descriptors", "warning", what, f"{how}, or lower edge.sessions")


def kernel(read: Mapping[str, str], far: bool) -> list[Finding]:
    """Judge kernel settings; ``far``: other datacenters are to reach this machine's bus."""
    buffers = ("net.core.rmem_max", "net.core.wmem_max")
    found = [_at_least(read, name, LEAST_BUFFER, 16 * 2**20) for name in buffers]
    found.append(_at_least(read, "net.core.somaxconn", LEAST_BACKLOG, 4096))
    name = "net.ipv4.tcp_congestion_control"
    value = read.get(name)
    if far and value is not None:
        if value == "bbr":
            found.append(Finding("kernel", "good", f"{name} is bbr"))
        else:
            why = f"{name} is {value}: streams fall behind where a long line loses packets"
            found.append(Finding("kernel", "warning", why, f"sysctl -w {name}=bbr"))
    return found


def _at_least(read: Mapping[str, str], name: str, least: int, better: int) -> Finding:
    text = read.get(name, "")
    if not text.isdigit():
        return Finding("kernel", "warning", f"{name} cannot be read", "look at it on the host")
    if int(text) >= least:
        return Finding("kernel", "good", f"{name} is {text}")
    what = f"{name} is {text}, less than {least}"
    return Finding("kernel", "warning", what, f"sysctl -w {name}={better}")


def pages(folder: str, space: Space, most: int, memory: float) -> list[Finding]:
    """Judge the place of the track pages."""
    found = []
    if space.kind != TMPFS:
        what = f"{folder} lies on {space.kind}, not in memory"
        advice = "set node.pages to a folder under /dev/shm, unless a long window is to be on disk"
        found.append(Finding("pages", "warning", what, advice))
    if not space.writable:
        found.append(Finding("pages", "bad", f"{folder} cannot be written", f"chown {folder}"))
    if space.total < most:
        what = f"{folder} holds {_size(space.total)}, node.pages_max is {_size(most)}"
        advice = f"mount -o remount,size={round(most * 1.1 / 2**20)}M on it, or lower pages_max"
        found.append(Finding("pages", "bad", what, advice))
    elif space.kind == TMPFS and memory and most > memory * 0.8:
        what = f"node.pages_max is {_size(most)}, the machine has {_size(memory)} of memory"
        found.append(Finding("pages", "warning", what, "lower node.pages_max"))
    if not found:
        what = f"{folder}: {_size(space.free)} free of {_size(space.total)}, {space.kind}"
        found.append(Finding("pages", "good", what))
    return found


def disk(name: str, folder: str, space: Space) -> Finding:
    """Judge a folder on disk."""
    if not space.writable:
        return Finding("disk", "bad", f"{name}: {folder} cannot be written", f"chown {folder}")
    if space.free < LEAST_FREE:
        what = f"{name}: {folder} has {_size(space.free)} left"
        return Finding("disk", "warning", what, "make room, or point the setting elsewhere")
    return Finding("disk", "good", f"{name}: {folder}, {_size(space.free)} free")


def certificate(setting: str, path: str, ends: float | None, now: float) -> Finding:
    """Judge a certificate; ``ends`` is None if the file has none that can be read."""
    if ends is None:
        what = f"{setting}: {path} has no certificate that can be read"
        return Finding("certificates", "bad", what, "name a PEM file that this user may read")
    left = ends - now
    if left <= 0:
        what = f"{setting}: {path} has expired"
        return Finding("certificates", "bad", what, "renew it; nodes take the new file up alone")
    what = f"{setting}: {path} is good for {left / 86_400:.0f} days"
    if left < EXPIRES_SOON:
        return Finding("certificates", "warning", what, "renew it now: see why it was not renewed")
    return Finding("certificates", "good", what)


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether one address of a node can be reached from another."""

    source: str
    target: str
    purpose: str
    address: str
    trouble: str = ""
    """Why not; empty if it can."""


def reaches(tried: Iterable[Reach]) -> list[Finding]:
    """Judge who reaches whom."""
    found = []
    for one in tried:
        what = f"{one.source} reaches {one.purpose} of {one.target} at {one.address}"
        if not one.trouble:
            found.append(Finding("reach", "good", what))
            continue
        what = f"{one.source} does not reach {one.purpose} of {one.target} at {one.address}"
        advice = (
            f"open that port in the firewall between them; set the {one.purpose} address of "
            f"{one.target} to one that {one.source} can route to"
        )
        found.append(Finding("reach", "bad", f"{what}: {one.trouble}", advice))
    return found


def published(node: str, endpoints: Mapping[str, str], alone: bool) -> list[Finding]:
    """Judge what a node tells others to reach it at; ``alone``: no other machine is there."""
    if alone:
        return []
    local = [
        f"{purpose} {address}"
        for purpose, address in sorted(endpoints.items())
        if purpose != "admin" and _loopback(address)
    ]
    if not local:
        return []
    what = f"{node} tells other machines loopback addresses: {', '.join(local)}"
    advice = f"let {node} listen on an address of the network, and set its public address"
    return [Finding("reach", "bad", what, advice)]


def _loopback(address: str) -> bool:
    host = address.partition("://")[2] or address
    return host.startswith(("127.", "[::1]", "localhost"))


def worst(found: Sequence[Finding]) -> int:
    """Return the exit code: 1 if something is bad, else 0."""
    return int(any(one.grade == "bad" for one in found))


def as_json(found: Sequence[Finding]) -> str:
    """Return findings for machines."""
    return json.dumps({"findings": [asdict(one) for one in found], "good": not worst(found)})


def as_text(found: Sequence[Finding]) -> str:
    """Return findings for people, the worst last."""
    order = {"good": 0, "warning": 1, "bad": 2}
    lines = []
    for one in sorted(found, key=lambda one: order[one.grade]):
        lines.append(f"{SIGNS[one.grade]} {one.check:<12} {one.what}")
        if one.advice:
            lines.append(f"{'':18}-> {one.advice}")
    counts = [sum(one.grade == grade for one in found) for grade in ("good", "warning", "bad")]
    lines += ["", "{} good, {} to look at, {} bad".format(*counts)]
    return "\n".join(lines)


def _size(value: float) -> str:
    for unit in ("GB", "MB", "kB"):
        if value >= (scale := {"GB": 1e9, "MB": 1e6, "kB": 1e3}[unit]):
            return f"{value / scale:.1f} {unit}"
    return f"{value:.0f} B"
