"""The programs in C that the benchmarks use, compiled when they are first needed.

``lg`` puts load on a server and looks at what it used of the CPU; ``ref`` is the least that a
server could do. Their sources are in ``bench/native``; what they print is here as :class:`Load`.
"""

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench import machine

SOURCES = Path(__file__).parent / "native"
LIBRARIES = {"lg": ["-lssl", "-lcrypto"], "ref": []}
SATURATED = 0.9
"""Share of a core from which the load generator is what is measured."""

DELIVERED = 0.99
"""Share of what should have come that has to come."""

TRIES = 5


class Rejected(Exception):
    """A run that does not count: what was measured is not the server."""


@cache
def program(name: str) -> Path:
    """Compile ``lg`` or ``ref`` and return where it is.

    Raises:
        RuntimeError: If there is no compiler; it says how to get one.
    """
    if shutil.which("gcc") is None:
        raise RuntimeError("the benchmarks need gcc and libssl-dev: install them with `make peers`")
    source = [SOURCES / f"{name}.c", *sorted(SOURCES.glob("*.h"))]
    version = hashlib.sha256(b"".join(path.read_bytes() for path in source)).hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    target = Path(base) / "headwater-bench" / f"{name}-{version}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_suffix(f".{os.getpid()}")
        command = ["gcc", "-O2", "-Wall", "-o", str(made), str(source[0]), *LIBRARIES[name]]
        subprocess.run(command, check=True)
        made.rename(target)
    return target


@dataclass(frozen=True)
class Load:
    """What one run of the load generator saw."""

    seconds: float
    requests: int
    connections: int
    cpu: dict[int, float]
    """Seconds of CPU time by process of the server."""

    memory_kb: tuple[int, int]
    """Anonymous memory of the server: before the first connection, and at the end."""

    raw: dict[str, Any]

    @property
    def used(self) -> float:
        """Cores that the server used, all processes together."""
        return sum(self.cpu.values()) / self.seconds

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def us_per_request(self) -> float:
        """Microseconds of CPU time for a request."""
        return self.used * self.seconds * 1e6 / self.requests

    @property
    def us_per_viewer(self) -> float:
        """Microseconds of CPU time for a second of a viewer."""
        return self.used * 1e6 / self.connections


def load(mode: str, port: int, *words: str, pids: list[int], seconds: float = 3.0) -> Load:
    """Run the load generator once on the core that is its own, whatever it finds.

    Raises:
        Rejected: If it saturated, or requests failed.
    """
    command = [str(program("lg")), mode, "-P", str(port), "-d", str(seconds)]
    command += ["-pid", ",".join(map(str, pids)), *words]
    process = subprocess.Popen([*machine.BOUND, *command], stdout=subprocess.PIPE, text=True)
    machine.favour(process.pid)
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load generator failed: {' '.join(command)}")
    found = json.loads(said)
    made = Load(
        found["seconds"],
        found["requests"],
        found["connections"],
        {int(pid): used for pid, used in found["cpu"].items()},
        (found["memory_kb"][0], found["memory_kb"][1]),
        found,
    )
    if found["errors"] or found["bad_status"]:
        raise Rejected(f"{found['errors']} errors, {found['bad_status']} answers that are not 200")
    if found["lg_util"] >= SATURATED:
        raise Rejected(f"the load generator used {found['lg_util']:.2f} of its core")
    return made
