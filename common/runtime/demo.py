"""``headwater demo``: a whole cluster on loopback, with a test stream, until told to stop.

Everything it makes lies in two folders, one on disk and one on tmpfs, that are gone afterwards.
"""

import asyncio
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError, ListenError
from common.runtime import listen
from common.runtime.cluster import Cluster, Node, NodeDied, until
from common.runtime.config import NodeSettings
from common.runtime.consul_settings import ConsulSettings
from common.runtime.embedded import start_time
from common.runtime.registries import open_registry
from common.runtime.tasks import run_until_signalled

if TYPE_CHECKING:
    from common.runtime.consul_servers import ConsulServers

TEST, LIVE = "test", "live"
"""The stream that is generated, and the one that waits for an encoder."""

MAX_EDGES = 16
"""Edges of ``headwater demo``. More are refused."""

MAX_DATACENTERS = 3
"""Datacenters of ``headwater demo``. More are refused."""

_FOLDER = re.compile(r"headwater-demo-(\d+)-(\d+)-\w+")


@dataclass(frozen=True, slots=True)
class Plan:
    """One node: its name, its role, and its section of the configuration file."""

    name: str
    role: str
    settings: dict[str, str]
    datacenter: str = ""


def main(
    *,
    edges: int,
    any_ports: bool,
    duration: float | None,
    as_json: bool,
    datacenters: int = 1,
    consul: bool = False,
) -> int:
    """Run the demo; return the exit code.

    Raises:
        ConfigError: If there are too few or too many edges or datacenters, or Consul is missing.
        ListenError: If a port is taken.
    """
    if not 1 <= edges <= MAX_EDGES:
        raise ConfigError("--edges", f"must be 1 to {MAX_EDGES}")
    if not 1 <= datacenters <= MAX_DATACENTERS:
        raise ConfigError("--datacenters", f"must be 1 to {MAX_DATACENTERS}")
    plans = plan(edges, any_ports, datacenters)
    _check_ports(plans)
    sweep((Path("/tmp"), Path("/dev/shm")))
    mark = f"headwater-demo-{os.getpid()}-{start_time(os.getpid())}-"
    folders = [Path(tempfile.mkdtemp(prefix=mark, dir=place)) for place in ("/tmp", "/dev/shm")]
    try:
        run, pages = folders
        demo = Demo(plans, run, pages, consul)
        asyncio.run(run_until_signalled(demo.run(duration, as_json)))
    except NodeDied as death:
        sys.stderr.write(f"headwater: {death}\n")
        return death.code
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


class Demo:
    """One run of the demo."""

    def __init__(self, plans: list[Plan], run: Path, pages: Path, consul: bool = False) -> None:
        """Keep sockets and settings in ``run``, and track pages in ``pages``.

        Raises:
            ConfigError: If there is no Consul and ``consul`` asks for one.
        """
        self._plans = plans
        self._run = run
        self._pages = pages
        self._key = secrets.token_urlsafe(12)
        self._places = list(dict.fromkeys(p.datacenter for p in plans))
        self._consul = _servers(run, self._places) if consul else None
        nodes = [Node(p.name, p.role, ["--config", str(self._write(p))]) for p in plans]
        self._cluster = Cluster(nodes, run)

    async def run(self, duration: float | None, as_json: bool) -> None:
        """Start, say where everything is, and run until cancelled or ``duration`` is over.

        Raises:
            NodeDied: If a node ends by itself.
        """
        watch = None
        try:
            if self._consul is not None:
                await self._consul.start()
            await self._cluster.start()
            watch = asyncio.create_task(self._cluster.watch())
            starting = asyncio.create_task(self._ready())
            await asyncio.wait({watch, starting}, return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                starting.cancel()
                await watch
            found = await starting
            print_line(json.dumps(found) if as_json else describe(found))
            await asyncio.wait({watch}, timeout=duration)
            if watch.done():
                await watch
        finally:
            if watch is not None:
                watch.cancel()
            await self._cluster.stop()
            if self._consul is not None:
                await self._consul.stop()

    async def _ready(self) -> dict[str, Any]:
        """Wait until a viewer would be served; return where everything is."""
        where = {p.name: (await self._cluster.announced(p.name)).endpoints for p in self._plans}
        node = NodeSettings(
            run=str(self._run),
            registry=str(self._run / "registry"),
            consul=ConsulSettings(address=self._address(self._places[0])),
        )
        async with open_registry(node) as registry:

            async def listed() -> bool:
                return await registry.owner(TEST) is not None

            await until(f"the stream {TEST!r} to be live", listed)
        edges = [p.name for p in self._plans if p.role == "edge"]
        balancers = [p.name for p in self._plans if p.role == "balancer"]
        for name in ["origin", *edges, *balancers]:
            health = where[name].get("admin", where[name]["http"])
            await until(f"{name} to answer /readyz", partial(_answers, health, "/readyz", 200))
        playlist = f"/cmaf/{TEST}/index.m3u8"
        for name in edges:
            address = where[name]["http"]
            await until(f"{name} to play", partial(_answers, address, playlist, 200))
        for name in balancers:
            address = where[name]["http"]
            await until(f"{name} to know an edge", partial(_answers, address, playlist, 307))
        return {
            **self._beyond(where, balancers),
            "stream": TEST,
            "ingest": [
                {"stream": LIVE, "url": f"rtmp://{where['origin']['rtmp']}/live/{self._key}"}
            ],
            "origin": {"api": f"http://{where['origin']['http']}"},
            "edges": [
                {
                    "name": name,
                    "http": f"http://{where[name]['http']}",
                    "admin": f"http://{where[name]['admin']}",
                }
                for name in edges
            ],
            "balancer": {"http": f"http://{where['balancer']['http']}"},
            "pids": self._cluster.pids(),
        }

    def _beyond(self, where: dict[str, dict[str, str]], balancers: list[str]) -> dict[str, Any]:
        """Return what there is only with several datacenters, or with Consul."""
        found: dict[str, Any] = {}
        if len(self._places) > 1:
            places = {p.name: p.datacenter for p in self._plans}
            found["datacenters"] = self._places
            found["balancers"] = [
                {"name": n, "datacenter": places[n], "http": f"http://{where[n]['http']}"}
                for n in balancers
            ]
        if self._consul is not None:
            found["consul"] = [
                {
                    "datacenter": name or "dc1",
                    "http": f"http://{self._address(name)}",
                    "pid": self._consul.pid(name or "dc1"),
                }
                for name in self._places
            ]
        found["config"] = str(self._run / "origin.toml")
        return found if len(found) > 1 else {}

    def _address(self, datacenter: str) -> str:
        return self._consul.address(datacenter or "dc1") if self._consul is not None else ""

    def _write(self, plan: Plan) -> Path:
        """Write the configuration file of a node."""
        sections: dict[str, dict[str, str]] = {
            "node": {
                "name": plan.name,
                "run": str(self._run),
                "pages": str(self._pages / plan.name),
                "registry": str(self._run / "registry"),
                "keys": str(self._run / "keys" / f"{plan.name}.key"),
                "datacenter": plan.datacenter,
            },
            "node.consul": {"address": self._address(plan.datacenter)},
            plan.role: plan.settings,
        }
        if plan.role == "edge":  # all edges end together: there is nowhere for viewers to go
            sections["edge"] = {**plan.settings, "drain": "0s"}
        if plan.role == "origin":
            sections[f"streams.{TEST}"] = {"source": "videogen://"}
            sections[f"streams.{LIVE}"] = {"key": self._key}
        lines = []
        for section, values in sections.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        path = self._run / f"{plan.name}.toml"
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n")
        return path


def _servers(run: Path, places: list[str]) -> "ConsulServers":
    from common.runtime.consul_servers import ConsulServers  # a slow import, and seldom wanted

    return ConsulServers(run, [name or "dc1" for name in places])


def plan(edges: int, any_ports: bool, datacenters: int = 1) -> list[Plan]:
    """Return the nodes of the demo with the addresses they listen on.

    With several datacenters each of them has ``edges`` edges, a relay and a balancer; the origin is
    in the first.
    """

    def at(**ports: int) -> dict[str, str]:
        return {name: f"127.0.0.1:{0 if any_ports else port}" for name, port in ports.items()}

    plans = [
        Plan("origin", "origin", at(rtmp=1935, http=4242, bus=5550, control=5560, gossip=5571))
    ]
    for number in range(edges):
        step = 100 * number
        ports = at(http=8080 + step, admin=8081 + step, gossip=5570 + step, control=5561 + step)
        plans.append(Plan(f"edge{number + 1}", "edge", ports))
    plans.append(Plan("balancer", "balancer", at(http=8042, gossip=5572)))
    if datacenters == 1:
        return plans
    near, found = [*plans, Plan("relay", "relay", at(bus=5551, control=5569, admin=8082))], []
    for number in range(datacenters):
        place, step = f"dc{number + 1}", 2000 * number
        for one in near if number == 0 else [p for p in near if p.role != "origin"]:
            name = one.name if number == 0 else f"{place}-{one.name}"
            settings = {key: _moved(address, step) for key, address in one.settings.items()}
            found.append(Plan(name, one.role, settings, place))
    return found


def _moved(address: str, step: int) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + step if int(port) else 0}"


def describe(found: dict[str, Any]) -> str:
    """Return what a person wants to know."""
    balancer = found["balancer"]["http"]
    url = found["ingest"][0]["url"]
    server, _, key = url.rpartition("/")
    lines = ["Headwater is running. Watch the test stream:", ""]
    lines += [f"  {edge['name']:<10} {edge['http']}/{TEST}.html" for edge in found["edges"]]
    balancers = found.get("balancers", [{"name": "balancer", "http": balancer}])
    lines += [f"  {one['name']:<10} {one['http']}/{TEST}.html" for one in balancers]
    lines += [
        "",
        "In any other player:",
        "",
        f"  LL-HLS     {balancer}/cmaf/{TEST}/index.m3u8",
        f"  fMP4       {balancer}/{TEST}.mp4",
        f"  FLV        {balancer}/{TEST}.flv",
        "",
        f"Send your own stream, then watch {balancer}/{LIVE}.html",
        "",
        f"  OBS        server {server}   key {key}",
        f"  ffmpeg     ffmpeg -re -i FILE -c:v libx264 -g 50 -c:a aac -f flv {url}",
        "",
        "Look inside:",
        "",
        f"  origin     {found['origin']['api']}/metrics",
        *(f"  {edge['name']:<10} {edge['admin']}/metrics" for edge in found["edges"]),
        f"  balancer   {balancer}/metrics",
        *(
            f"  {'consul':<10} {one['http']} of {one['datacenter']}, process {one['pid']}"
            for one in found.get("consul", [])
        ),
        *(
            [f"  nodes      headwater nodes --config {found['config']}"]
            if "config" in found
            else []
        ),
        "",
        "Ctrl-C stops everything.",
    ]
    return "\n".join(lines)


def print_line(text: str) -> None:
    """Write to standard output at once, also into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def sweep(places: Iterable[Path]) -> None:
    """Remove the folders of demos that were killed before they could."""
    for place in places:
        for folder in place.iterdir():
            match = _FOLDER.fullmatch(folder.name)
            if match and start_time(int(match[1])) != int(match[2]):
                shutil.rmtree(folder, ignore_errors=True)


def _check_ports(plans: list[Plan]) -> None:
    for plan in plans:
        for name, address in plan.settings.items():
            try:
                listen.bind(address, setting=f"{plan.name}.{name}").close()
            except ListenError as error:
                reason = str(error).partition(";")[0]
                raise ListenError(
                    f"{reason}; `headwater demo --ports 0` takes free ones"
                ) from error


async def _answers(address: str, path: str, status: int) -> bool:
    """Return whether a GET is answered with this status."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(15):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                return f" {status} ".encode() in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
