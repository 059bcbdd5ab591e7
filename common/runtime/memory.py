"""How much memory is in use: of the machine, of the control group that bounds this process."""

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")


def memory_used(proc: Path = PROC, groups: Path = GROUPS) -> float:
    """Return the share of the memory that is not available, 0 to about 1.

    That of the machine, or of a control group that this process is in (version 2, as systemd's
    ``MemoryMax=`` makes them), whichever is fuller. What the kernel can take back at once is
    available: copies of files; not so files in memory, such as pages of streams.
    """
    return max(_machine(proc), *_groups(proc, groups))


def private_bytes(pid: int, proc: Path = PROC) -> int:
    """Return the bytes of memory that are a process's own; 0 if it has ended."""
    try:
        return _figures(proc / str(pid) / "status").get("RssAnon:", 0) * 1024
    except OSError:
        return 0


def _machine(proc: Path) -> float:
    found = _figures(proc / "meminfo")
    return 1 - found.get("MemAvailable:", 0) / max(found.get("MemTotal:", 1), 1)


def _groups(proc: Path, groups: Path) -> Iterator[float]:
    """Return how full this process's control group is, and each that contains it."""
    yield 0.0
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for path in (line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
        for group in (groups / path, *(groups / path).parents):
            if group.is_relative_to(groups):
                yield _group(group)


def _group(group: Path) -> float:
    try:
        most = (group / "memory.max").read_text().strip()
        if not most.isdigit():
            return 0.0  # "max": nothing bounds it
        current = int((group / "memory.current").read_text())
        parts = _figures(group / "memory.stat")
    except OSError:
        return 0.0
    back = sum(parts.get(name, 0) for name in ("active_file", "inactive_file", "slab_reclaimable"))
    return max(0, current - back) / max(int(most), 1)


def _figures(path: Path) -> dict[str, int]:
    """Return the numbers of a file of the kernel's with lines such as ``name 5 kB``."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
