"""The machine that a benchmark runs on: its cores, its network, and what processes use of it."""

import contextlib
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from tests.harness.cluster import descendants

BOUND = ("setpriv", "--pdeathsig", "KILL", "--")
"""Put before a command: what it starts dies with the benchmark, however that ends."""

SERVER_CORE, LOAD_CORE = 0, 1
"""The server that is measured has a core for itself; everything else runs on the other one."""

NICE = -10
FILES = 65_536
_INSIDE = "HEADWATER_BENCH_NETWORK"


def own_network() -> None:
    """Execute this program again in a network namespace of its own, where root runs it.

    Nobody else's connections are in its tables, and its congestion control is the kernel's usual.
    Without root the machine's own loopback is used.
    """
    if os.geteuid() != 0 or os.environ.get(_INSIDE):
        return
    spec = sys.modules["__main__"].__spec__
    assert spec is not None
    module = spec.name.removesuffix(".__main__")
    # A network that is not the machine's first cannot set its default, but each route can.
    route = "dev lo table local proto kernel scope host src 127.0.0.1 congctl cubic"
    commands = (
        f"ip link set lo up && ip route change local 127.0.0.0/8 {route} && "
        f'ip route change local 127.0.0.1 {route} && exec "$@"'
    )
    os.environ[_INSIDE] = "1"
    inside = ["sh", "-c", commands, "sh", sys.executable, "-m", module, *sys.argv[1:]]
    bound = ("setpriv", "--pdeathsig", "TERM", "--")
    os.execvp("setsid", ["setsid", "--wait", *bound, "unshare", "--net", "--", *inside])


def prepare() -> None:
    """Move this process and all that it will start to the core of the load; allow many sockets.

    From here on SIGTERM ends what was started, and removes folders, as any error does.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if (os.cpu_count() or 1) > LOAD_CORE:
        os.sched_setaffinity(0, {LOAD_CORE})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # only root may have more than the hard limit
        hard = max(hard, FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def own_core(pid: int) -> None:
    """Give a process, with all its threads, the core of the server; first in the row, if root."""
    for task in os.listdir(f"/proc/{pid}/task"):
        if (os.cpu_count() or 1) > LOAD_CORE:
            os.sched_setaffinity(int(task), {SERVER_CORE})
    favour(pid)


def favour(pid: int) -> None:
    """Let a process, and those of its session, go before others, where root runs this."""
    if os.geteuid() != 0:
        return
    os.setpriority(os.PRIO_PROCESS, pid, NICE)
    # The kernel may share cores among sessions first; niceness then counts only within one.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(NICE))


def family(pid: int) -> list[int]:
    """Return a process and all that it started."""
    return [pid, *descendants(pid)]


def cpu_ns(pids: Iterable[int]) -> int:
    """Return the CPU time that processes have used, all threads, in nanoseconds."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
    return total


def anonymous_kb(pids: Iterable[int]) -> int:
    """Return the memory of processes that is theirs alone, without shared pages."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                total += int(line.split()[1])
    return total


def descriptors(pids: Iterable[int]) -> int:
    """Return how many descriptors processes have open."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


@contextlib.contextmanager
def running(command: list[str], *, server: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program, on the core of the server if it is one; ended with the block."""
    process = subprocess.Popen([*BOUND, *command], stdout=subprocess.DEVNULL)
    try:
        if server:
            own_core(process.pid)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def described() -> dict[str, str]:
    """Return what somebody who compares figures has to know of this machine."""
    model, frequency = "unknown", ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        match name.strip():
            case "model name":
                model = value.strip()
            case "cpu MHz":
                frequency = f", {float(value) / 1000:.1f} GHz"
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 2**20
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    try:
        loop = f"uvloop {metadata.version('uvloop')}"
    except metadata.PackageNotFoundError:
        loop = "asyncio"
    return {
        "cpu": f"{model}{frequency}, {os.cpu_count()} cores",
        "memory": f"{memory} GB",
        "kernel": platform.release(),
        "python": f"{platform.python_version()}, {loop}",
        "network": "namespace of its own, cubic"
        if os.environ.get(_INSIDE)
        else f"loopback, {control}",
    }
