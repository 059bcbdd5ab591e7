"""Consul servers of our own, one for each datacenter, for ``headwater demo --consul``.

They listen on addresses of the loopback network and keep their data in a folder that goes with the
demo. It is the real program: what can be tried with them holds for a Consul of several machines.
"""

import asyncio
import json
import random
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from pathlib import Path

from common.errors import ConfigError
from common.runtime import tasks
from common.runtime.cluster import until
from common.runtime.consul import Agent, ConsulDown
from common.runtime.consul_settings import ConsulSettings

HTTP = 8500
_PORTS = (8300, 8301, 8302, HTTP)

INSTALL = (
    "the program `consul` is not installed: get Consul 1.8 or later from your distribution or from "
    "its makers, or leave out --consul: the demo does without"
)


class ConsulServers:
    """One Consul server for each datacenter, joined."""

    def __init__(self, folder: Path, datacenters: Sequence[str]) -> None:
        """Choose addresses; nothing is started yet.

        Raises:
            ConfigError: If Consul is not installed, or no part of loopback is free.
        """
        program = shutil.which("consul")
        if program is None:
            raise ConfigError("--consul", INSTALL)
        self._program = program
        self._folder = folder
        network = _network(len(datacenters))
        self._hosts = {name: f"{network}.{n}" for n, name in enumerate(datacenters, 1)}
        self._processes: dict[str, Process] = {}

    def address(self, datacenter: str) -> str:
        """Return where the API of a datacenter's server is."""
        return f"{self._hosts[datacenter]}:{HTTP}"

    def pid(self, datacenter: str) -> int:
        """Return the pid of a datacenter's server."""
        return self._processes[datacenter].pid

    async def start(self) -> None:
        """Start all servers and wait until each of them can reach all datacenters.

        Raises:
            NotReady: If that takes too long.
        """
        for name, host in self._hosts.items():
            path = self._folder / f"consul-{name}.json"
            path.write_text(json.dumps(self._settings(name, host)))
            with (self._folder / f"consul-{name}.log").open("ab") as log:
                self._processes[name] = await tasks.spawn_child(
                    [self._program, "agent", "-config-file", str(path)],
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=log,
                    death_signal=signal.SIGKILL,
                )
        for name in self._hosts:
            agent = Agent(ConsulSettings(address=self.address(name)))
            try:
                for other in self._hosts:
                    await until(f"Consul of {name} to reach {other}", _Reaches(agent, other))
            finally:
                await agent.close()

    async def stop(self) -> None:
        """End all servers."""
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*map(tasks.ended, self._processes.values()))

    def _settings(self, name: str, host: str) -> dict[str, object]:
        return {
            "node_name": f"server-{name}",
            "datacenter": name,
            "data_dir": str(self._folder / f"consul-{name}"),
            "bind_addr": host,
            "client_addr": host,
            "server": True,
            "bootstrap_expect": 1,
            "retry_join_wan": [other for other in self._hosts.values() if other != host],
            "retry_interval_wan": "1s",
            "performance": {"raft_multiplier": 1},
            "ports": {"dns": -1, "grpc": -1},
            "log_level": "warn",
            "disable_update_check": True,
        }


class _Reaches:
    """Whether an agent can ask the servers of a datacenter."""

    def __init__(self, agent: Agent, datacenter: str) -> None:
        self._agent = agent
        self._datacenter = datacenter

    async def __call__(self) -> bool:
        try:
            await self._agent.read("headwater", self._datacenter)
        except ConsulDown:
            return False
        return True


def _network(hosts: int) -> str:
    """Return a part of loopback, ``127.0.N``, whose first addresses have Consul's ports free."""
    for number in random.sample(range(10, 250), 240):
        addresses = [f"127.0.{number}.{host}" for host in range(1, hosts + 1)]
        if all(_free(address) for address in addresses):
            return f"127.0.{number}"
    raise ConfigError("--consul", "no addresses with Consul's ports are free on 127.0.0.0/16")


def _free(address: str) -> bool:
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
