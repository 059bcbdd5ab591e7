"""Single nodes in real processes, each with its own folders, hash seed and time zone."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.runtime import ready
from tests.harness.cluster import alive, descendants
from tests.harness.netns import Space

START_TIMEOUT = 60.0
"""Seconds; so long a start takes only if it never ends, however busy the machine is."""

STOP_TIMEOUT = 5.0


@dataclass
class Node:
    """One node that can be killed and started again under the same configuration."""

    role: str
    name: str
    folder: Path
    environment: dict[str, str]
    space: Space | None = None
    """The network that it is in, if not that of the tests."""
    before: tuple[str, ...] = ()
    """Words put before its command line."""
    process: "subprocess.Popen[bytes] | None" = None
    endpoints: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://{self.endpoints['http']}"

    def start(self) -> None:
        """Start the process and wait until it says that it is ready."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the process; it is not waited for."""
        stale = ready.path_of(self.folder / "run", self.name)
        stale.unlink(missing_ok=True)
        config = f"{self.folder}/{self.name}.toml"
        command = [*self.before, sys.executable, "-m", self.role, "--config", config]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.space.command(command) if self.space else command,
                env={**os.environ, **self.environment},
                stderr=log,
                stdout=log,
            )

    def wait(self) -> None:
        """Wait until the process says that it is ready."""
        assert self.process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while (found := ready.read(self.folder / "run", self.name)) is None:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.02)
        self.endpoints = found.endpoints

    def child(self, module: str) -> int:
        """Return the pid of the child process that runs ``module``."""
        for pid in descendants(self.pid):
            _, _, *what = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if what[:1] == [module.encode()] and alive(pid):  # python -m MODULE
                return pid
        raise LookupError(f"{self.name} has no {module}")

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the process and whatever it started."""
        if self.process is None or self.process.poll() is not None:
            return
        family = descendants(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT)
        for pid in [self.process.pid, *family]:
            if alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


def start(*nodes: Node) -> None:
    """Start nodes side by side and wait until all are ready."""
    for node in nodes:
        node.launch()
    for node in nodes:
        node.wait()


class Site:
    """Nodes on one machine that share nothing but a registry folder, or not even that."""

    KEY = "a-key-for-tests"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages = Path(tempfile.mkdtemp(prefix="hwtest-", dir="/dev/shm"))
        self.nodes: dict[str, Node] = {}

    def add(
        self,
        role: str,
        name: str,
        settings: Mapping[str, str] = {},
        *,
        registry: Path | None = None,
        stream: Mapping[str, str] = {},
        seed: int = 0,
        zone: str = "UTC",
        space: Space | None = None,
        consul: Mapping[str, str] = {},
        security: str = "auto",
        datacenter: str = "",
    ) -> Node:
        """Write the configuration of a node; it is not started yet."""
        ports = {
            "origin": ("rtmp", "http", "bus", "control", "gossip"),
            "edge": ("http", "admin", "gossip", "control"),
            "relay": ("bus", "control", "admin"),
            "balancer": ("http", "gossip"),
        }[role]
        host = space.address if space else "127.0.0.1"
        if role == "origin":
            settings = {"public": f'"{host}"', **settings}
        lines = [
            "[node]",
            f'name = "{name}"',
            f'run = "{self.folder}/run"',
            f'pages = "{self.pages}/{name}"',
            f'registry = "{registry or self.folder / "registry"}"',
            f'keys = "{self.folder}/keys/{name}.key"',
            f'bus_security = "{security}"',
            f'datacenter = "{datacenter}"',
            "[log]",
            'style = "text"',
            "[node.consul]",
            *(f"{key} = {value}" for key, value in consul.items()),
            f"[{role}]",
            *(f'{port} = "{host}:0"' for port in ports if port not in settings),
            *(f"{key} = {value}" for key, value in settings.items()),
            "[streams.live]",
            f'key = "{self.KEY}"',
            *(f"{key} = {value}" for key, value in stream.items()),
        ]
        (self.folder / f"{name}.toml").write_text("\n".join(lines) + "\n")
        environment = {"PYTHONHASHSEED": str(seed), "TZ": zone}
        node = self.nodes[name] = Node(role, name, self.folder, environment, space)
        return node

    def ingest(self, origin: Node) -> str:
        """Return where to push the stream ``live``."""
        return f"rtmp://{origin.endpoints['rtmp'].removeprefix('rtmp://')}/live/{self.KEY}"

    def close(self) -> None:
        for node in reversed(self.nodes.values()):
            node.stop()
        shutil.rmtree(self.pages)


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Nodes that are all stopped at the end."""
    made = Site(folder)
    try:
        yield made
    finally:
        made.close()
