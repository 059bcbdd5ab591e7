"""A real cluster in real processes: ``headwater demo`` as a script would run it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_TIMEOUT = 60.0
STOP_TIMEOUT = 3.0


@dataclass
class Cluster:
    """One running demo and what it said about itself."""

    process: subprocess.Popen[str]
    said: dict[str, Any]
    log: Path

    @property
    def edges(self) -> list[str]:
        return [edge["http"] for edge in self.said["edges"]]

    @property
    def admins(self) -> list[str]:
        return [edge["admin"] for edge in self.said["edges"]]

    @property
    def balancer(self) -> str:
        return str(self.said["balancer"]["http"])

    @property
    def ingest(self) -> str:
        return str(self.said["ingest"][0]["url"])

    @property
    def pids(self) -> list[int]:
        return list(self.said["pids"])


def command_line(pid: int) -> str:
    """Return the command line of a process, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Return whether a process runs; one that waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def leftovers(pid: int) -> list[str]:
    """Return the files and folders that the demo with this pid has on the machine now."""
    places = {"/dev/shm", "/tmp", os.environ.get("TMPDIR", "/tmp")}
    return [str(path) for place in places for path in Path(place).glob(f"*headwater*-{pid}-*")]


@contextlib.contextmanager
def demo(log: Path, *arguments: str) -> Iterator[Cluster]:
    """Run ``headwater demo --json`` with free ports; stop it and check that nothing is left."""
    command = [str(Path(sys.executable).with_name("headwater")), "demo", "--json", "--ports", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, f"the demo said nothing and ended with {process.wait()}: {log.read_text()}"
        assert leftovers(process.pid), "its folders are not where they are looked for"
        yield Cluster(process, json.loads(line), log)
    finally:
        family = [process.pid, *descendants(process.pid)] if process.poll() is None else []
        if family:
            process.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            process.wait(READY_TIMEOUT)
        finally:
            took = time.monotonic() - began
            running = [pid for pid in family if alive(pid)]
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.stdout.close()
    assert not running, f"still running after the end: {running}"
    assert took < STOP_TIMEOUT, f"stopping took {took:.1f} s"
    assert not leftovers(process.pid)
