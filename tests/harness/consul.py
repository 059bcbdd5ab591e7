"""A real Consul on loopback: three servers and a client agent in dc1, one server in dc2.

Each agent has an address of its own and the usual ports. The whole has a network of its own,
127.0.N.0/24, so that several may run on one machine.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from common.runtime.tasks import die_with_parent

START_TIMEOUT = 60.0
CALL_TIMEOUT = 2.0
HTTP, HTTPS = 8500, 8501
_PORTS = (8300, 8301, 8302, HTTP, HTTPS)

FAST: dict[str, Any] = {
    "performance": {"raft_multiplier": 1, "leave_drain_time": "0s"},
    "gossip_lan": {
        "gossip_interval": "50ms",
        "probe_interval": "200ms",
        "probe_timeout": "100ms",
        "suspicion_mult": 2,
    },
    "gossip_wan": {"gossip_interval": "100ms", "probe_interval": "500ms", "probe_timeout": "200ms"},
    "retry_interval": "250ms",
    "retry_interval_wan": "250ms",
}
"""Timers for one machine, where a second without an answer means that there will be none."""


@dataclass
class Agent:
    """One Consul agent that can be killed, frozen, and started again with the same data."""

    name: str
    datacenter: str
    address: str
    folder: Path
    server: bool
    token: str = ""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def http(self) -> str:
        """Where its API is, ``HOST:PORT``."""
        return f"{self.address}:{HTTP}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def write(self, settings: Mapping[str, Any]) -> None:
        """Write its configuration."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{self.name}.json").write_text(json.dumps(settings, indent=1))

    def start(self) -> None:
        """Start the process; it is not waited for."""
        parent = os.getpid()
        program = shutil.which("consul")
        assert program, "the program `consul` is missing: run deploy/peers.sh"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [program, "agent", "-config-file", str(self.folder / f"{self.name}.json")],
                stdout=log,
                stderr=log,
                preexec_fn=lambda: die_with_parent(parent),
            )

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Let it hang: connections are accepted, and nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Remove all that it has stored; it must not run."""
        assert not self.running
        shutil.rmtree(self.folder / self.name, ignore_errors=True)

    def call(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Ask its API; raises OSError if it does not answer or answers with an error."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.http}/v1/{path}", data, method=method)
        if self.token:
            request.add_header("X-Consul-Token", self.token)
        with urllib.request.urlopen(request, timeout=CALL_TIMEOUT) as response:
            text = response.read()
        return json.loads(text) if text else None


class Consul:
    """All agents of one test."""

    def __init__(self, folder: Path, network: str) -> None:
        self.folder = folder
        self.network = network
        self.agents: dict[str, Agent] = {}

    def add(
        self, name: str, datacenter: str = "dc1", *, server: bool = True, **settings: Any
    ) -> Agent:
        """Make one more agent; ``settings`` go into its configuration."""
        address = f"{self.network}.{len(self.agents) + 1}"
        agent = Agent(name, datacenter, address, self.folder, server)
        self.agents[name] = agent
        agent.write(
            {
                "node_name": name,
                "datacenter": datacenter,
                "data_dir": str(self.folder / name),
                "bind_addr": address,
                "client_addr": address,
                "server": server,
                "ports": {"dns": -1, "grpc": -1},
                "log_level": "warn",
                "disable_update_check": True,
                **FAST,
                **settings,
            }
        )
        return agent

    def usual(self, second: bool = True) -> None:
        """Make three servers and a client in dc1 and, if ``second``, a server in dc2."""
        servers = [f"{self.network}.{number}" for number in (1, 2, 3)]
        for number in (1, 2, 3):
            self.add(f"server{number}", bootstrap_expect=3, retry_join=servers)
        self.add("client", server=False, retry_join=servers)
        if second:
            self.add("far", "dc2", bootstrap_expect=1, retry_join_wan=servers)

    @property
    def client(self) -> Agent:
        """The agent that nodes of dc1 talk to."""
        return self.agents["client"]

    @property
    def far(self) -> Agent:
        """The agent that nodes of dc2 talk to."""
        return self.agents["far"]

    def servers(self, datacenter: str = "dc1") -> list[Agent]:
        return [a for a in self.agents.values() if a.server and a.datacenter == datacenter]

    def start(self) -> None:
        """Start what does not run, and wait until all answer."""
        for agent in self.agents.values():
            if not agent.running:
                agent.start()
        self.wait()

    def wait(self) -> None:
        """Wait until every running agent knows a leader, and every datacenter."""
        running = [agent for agent in self.agents.values() if agent.running]
        places = {agent.datacenter for agent in running}
        for agent in running:
            until(f"{agent.name} to know a leader", partial(_led, agent), self.tails)
            for place in places:
                look = partial(agent.call, f"catalog/nodes?dc={place}")
                until(f"{agent.name} to reach {place}", look, self.tails)

    def leader(self) -> Agent:
        """Return the server that leads dc1."""
        address = self.client.call("status/leader").rpartition(":")[0]
        return next(agent for agent in self.servers() if agent.address == address)

    def kill_all(self) -> None:
        for agent in self.agents.values():
            if agent.running:
                agent.kill()

    def tails(self) -> str:
        """Return the last words of all agents."""
        logs = [agent.log for agent in self.agents.values() if agent.log.exists()]
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)


def until(
    what: str,
    check: Callable[[], Any],
    explain: Callable[[], str] = lambda: "",
    timeout: float = START_TIMEOUT,
) -> Any:
    """Wait until ``check`` returns something true without an OSError; return that."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError):
            if found := check():
                return found
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {what}\n{explain()}"
        time.sleep(0.05)


def _led(agent: Agent) -> bool:
    return bool(agent.call("status/leader")) and bool(agent.call("catalog/nodes"))


@contextlib.contextmanager
def network() -> Iterator[str]:
    """Reserve a part of loopback, ``127.0.N``, for the time of a block."""
    numbers = list(range(10, 250))
    for number in secrets.SystemRandom().sample(numbers, len(numbers)):
        path = Path(f"/tmp/headwater-loopback-{number}.lock")
        with path.open("w") as lock:
            if not _locked(lock) or not _free(f"127.0.{number}"):
                continue
            try:
                yield f"127.0.{number}"
            finally:
                path.unlink(missing_ok=True)
            return
    raise AssertionError("no part of 127.0.0.0/16 is free")


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free(network: str) -> bool:
    try:
        for port in _PORTS:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((f"{network}.1", port))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def consul(folder: Path) -> Iterator[Consul]:
    """A Consul without agents yet; those that were added and started are killed at the end."""
    with network() as prefix:
        made = Consul(folder / "consul", prefix)
        try:
            yield made
        finally:
            made.kill_all()
