"""What ``headwater doctor`` reads: files, sockets, the kernel, the registry, other nodes."""

import asyncio
import contextlib
import ctypes
import email.utils
import os
import resource
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from common.errors import FormatError, HeadwaterError, ListenError
from common.runtime import doctor, listen, ready
from common.runtime.doctor import Finding, Reach, Space
from common.runtime.registries import open_registry
from common.runtime.registry import NodeEntry
from common.runtime.tls import expiry

TIMEOUT = 2.0
"""Seconds that an address may take to answer."""

MAX_NODES = 200
"""Nodes whose addresses ``headwater doctor`` tries. Those listed after them are not tried."""

KERNEL = (
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.somaxconn",
    "net.ipv4.tcp_congestion_control",
)

PORTS = ("http", "rtmp", "admin", "bus", "control", "gossip")
"""Settings of roles that hold an address to listen on."""

TRIED = ("bus", "control", "gossip", "http")
"""Addresses of other nodes that are tried; admin ports are for their own machines."""

RTMP_HELLO = b"\x03" + bytes(1536)
"""C0 and C1 of an RTMP handshake."""

CERTIFICATES = ("ca", "cert", "certificate")
TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that nothing keeps right."""


async def examine(roles: Mapping[str, Any], token: str = "") -> list[Finding]:
    """Look at everything; ``roles`` holds the settings of the roles of this machine.

    ``token`` opens the APIs of nodes on other machines.
    """
    node = next(iter(roles.values())).node
    found = ports(roles)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found.append(doctor.descriptors(soft, hard, connections(roles)))
    found += doctor.kernel(read_kernel(), far=bool(node.consul.address))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for role, settings in roles.items():
        if role != "balancer":
            folder = settings.node.pages
            found += doctor.pages(folder, space(folder), settings.node.pages_max, float(memory))
    for name in ("run", "registry"):
        folder = getattr(node, name)
        found.append(doctor.disk(f"node.{name}", folder, space(folder)))
    found += keys(roles)
    found += certificates(roles)
    found += await cluster(roles, token)
    return found


def ports(roles: Mapping[str, Any]) -> list[Finding]:
    """Say of each address whether it is free, or the node itself has it."""
    found = []
    for role, settings in roles.items():
        running = ready.read(settings.node.run, settings.node.name)
        for name in PORTS:
            address = getattr(getattr(settings, role), name, "")
            if not address:
                continue
            setting = f"{role}.{name}"
            if running is not None and _alive(running.pid):
                what = f"{setting} {address}: {settings.node.name} runs (process {running.pid})"
                found.append(Finding("ports", "good", what))
                continue
            try:
                listen.bind(address, setting=setting).close()
            except (ListenError, HeadwaterError) as error:
                advice = f"stop what holds it, or set {setting} to another address"
                found.append(Finding("ports", "bad", str(error), advice))
            else:
                found.append(Finding("ports", "good", f"{setting} {address} is free"))
    return found


def connections(roles: Mapping[str, Any]) -> int:
    """Return how many connections one process of this machine has to hold."""
    most = 0
    if "edge" in roles:
        edge = roles["edge"].edge
        most = -(-edge.sessions // edge.viewer_processes())
    if "origin" in roles:
        most = max(most, roles["origin"].origin.publishers)
    return most


def read_kernel(root: Path = Path("/proc/sys")) -> dict[str, str]:
    """Return kernel settings; those that cannot be read are missing."""
    found = {}
    for name in KERNEL:
        with contextlib.suppress(OSError):
            found[name] = (root / name.replace(".", "/")).read_text().strip()
    return found


def space(folder: str) -> Space:
    """Return the file system of a folder, or of the first one above it that is there."""
    path = Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    usage = shutil.disk_usage(path)
    return Space(kind(path), float(usage.total), float(usage.free), os.access(path, os.W_OK))


def kind(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Return the type of the file system of a path."""
    best, found = "", "an unknown file system"
    try:
        rows = mounts.read_text().splitlines()
    except OSError:
        return found
    resolved = str(path.resolve())
    for row in rows:
        _, place, type_, *_ = row.split(" ")
        place = place.replace("\\040", " ")
        inside = resolved == place or resolved.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, found = place, type_
    return found


def keys(roles: Mapping[str, Any]) -> list[Finding]:
    """Judge who may read the secret keys of nodes."""
    found = []
    for settings in roles.values():
        path = Path(settings.node.keys)
        with contextlib.suppress(OSError):
            if path.stat().st_mode & 0o077:
                what = f"{path}: others may read the secret key"
                found.append(Finding("keys", "bad", what, f"chmod 600 {path}"))
    return found


def certificates(roles: Mapping[str, Any]) -> list[Finding]:
    """Judge every certificate that a setting names."""
    named = {}
    for role, settings in roles.items():
        for section, holder in (("node.consul", settings.node.consul), *_inner(role, settings)):
            for field in CERTIFICATES:
                path = getattr(holder, field, "")
                if isinstance(path, str) and path:
                    named[f"{section}.{field}"] = path
    return [
        doctor.certificate(setting, path, ends(Path(path)), time.time())
        for setting, path in sorted(named.items())
    ]


def _inner(role: str, settings: Any) -> Iterable[tuple[str, Any]]:
    own = getattr(settings, role)
    yield role, own
    for name in getattr(own, "__struct_fields__", ()):
        inner = getattr(own, name)
        if hasattr(inner, "__struct_fields__"):
            yield f"{role}.{name}", inner


def ends(path: Path) -> float | None:
    """Return when the certificate in a file ends, None if there is none to read."""
    try:
        return expiry(path.read_text("ascii", "replace"))
    except (OSError, FormatError):
        return None


async def cluster(roles: Mapping[str, Any], token: str) -> list[Finding]:
    """Look at the registry, at who reaches whom, and at the clocks of other machines."""
    node = next(iter(roles.values())).node
    where = f"Consul at {node.consul.address}" if node.consul.address else node.registry
    try:
        async with asyncio.timeout(TIMEOUT * 3), open_registry(node) as registry:
            entries = await registry.nodes()
            trouble = registry.trouble()
    except (HeadwaterError, OSError, TimeoutError) as error:
        entries, trouble = [], str(error) or "no answer"
    if trouble:
        advice = "look whether Consul runs and has a leader (consul operator raft list-peers)"
        return [
            Finding("registry", "bad", f"{where}: {trouble}", advice),
            *doctor.clock(synchronised(), {}),
        ]
    found = [Finding("registry", "good", f"{where} knows {len(entries)} nodes")]
    entries = entries[:MAX_NODES]
    ours = {settings.node.name for settings in roles.values()}
    found += doctor.reaches(await tried("this machine", entries))
    alone = all(_local(entry) for entry in entries)
    for entry in entries:
        if entry.name in ours:
            found += doctor.published(entry.name, entry.endpoints, alone)
    found += await encoders(entries)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT * 3)) as http:
        found += await asked(http, entries, ours, token)
        offsets = await clocks(http, entries)
    return [*found, *doctor.clock(synchronised(), offsets)]


async def tried(source: str, entries: Iterable[NodeEntry]) -> list[Reach]:
    """Connect to each address of nodes that others need."""
    ways = [
        (entry.name, purpose, address)
        for entry in entries
        for purpose, address in sorted(entry.endpoints.items())
        if purpose in TRIED
    ]
    troubles = await asyncio.gather(*(connect(address) for _, _, address in ways))
    return [
        Reach(source, name, purpose, address, trouble)
        for (name, purpose, address), trouble in zip(ways, troubles, strict=True)
    ]


async def connect(address: str, hello: bytes = b"") -> str:
    """Return why an address cannot be reached, nothing if it can.

    With ``hello`` the other side has to answer with the same first byte.
    """
    host, port = split(address)
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port)
            with contextlib.closing(writer):
                return await _shake(reader, writer, hello) if hello else ""
    except TimeoutError:
        return f"no answer within {TIMEOUT:g} s"
    except asyncio.IncompleteReadError:
        return "it hangs up"
    except OSError as error:
        return error.strerror or str(error)


async def _shake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: bytes) -> str:
    writer.write(hello)
    same = await reader.readexactly(1) == hello[:1]
    return "" if same else "it does not speak this protocol"


async def encoders(entries: Iterable[NodeEntry]) -> list[Finding]:
    """Shake hands with each origin as an encoder does."""
    found = []
    for entry in entries:
        address = entry.endpoints.get("rtmp")
        if address is None:
            continue
        trouble = await connect(address, RTMP_HELLO)
        if trouble:
            what = f"encoders do not get through to {entry.name} at rtmp://{address}: {trouble}"
            advice = "open the port of origin.rtmp, and set origin.public to what encoders reach"
            found.append(Finding("encoder", "bad", what, advice))
        else:
            what = f"{entry.name} shakes hands with encoders at rtmp://{address}"
            found.append(Finding("encoder", "good", what))
    return found


async def asked(
    http: aiohttp.ClientSession, entries: Iterable[NodeEntry], ours: set[str], token: str
) -> list[Finding]:
    """Have other nodes try the addresses of ours: the way back may be closed."""
    found: list[Finding] = []
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for entry in entries:
        address = entry.endpoints.get("admin") or entry.endpoints.get("http", "")
        url = f"http://{address}/api/v1/reach"
        for target in sorted(ours - {entry.name}) if address else ():
            found += doctor.reaches(await _ask(http, url, target, headers))
    return found


async def _ask(
    http: aiohttp.ClientSession, url: str, target: str, headers: Mapping[str, str]
) -> list[Reach]:
    """Return what a node says of its way to another; nothing if we may not ask it."""
    try:
        async with http.get(url, params={"node": target}, headers=headers) as answer:
            if answer.status != 200:
                return []
            told = await answer.json()
            return [Reach(**one) for one in told["reach"]]
    except (aiohttp.ClientError, TimeoutError, TypeError, KeyError, ValueError):
        return []  # its admin port is for its own machine; what we reach is told anyhow


async def clocks(http: aiohttp.ClientSession, entries: Iterable[NodeEntry]) -> dict[str, float]:
    """Return by how many seconds other machines are ahead, as far as they tell."""
    found = {}
    for entry in entries:
        address = entry.endpoints.get("http", "")
        if not address or _local(entry):
            continue
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError, TypeError):
            async with http.get(f"http://{address}/healthz") as answer:
                said = email.utils.parsedate_to_datetime(answer.headers["Date"])
                found[entry.name] = said.timestamp() - time.time()
    return found


def synchronised() -> bool | None:
    """Return whether something keeps the clock right (adjtimex(2)), None if nobody can tell."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        state = libc.adjtimex(ctypes.create_string_buffer(512))  # modes 0: only read
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != TIME_ERROR)


def split(address: str) -> tuple[str, int]:
    """Return host and port of an address of the registry."""
    text = address.partition("://")[2] or address
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    known = {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1", "": "127.0.0.1"}
    return known.get(host, host), int(port) if port.isdigit() else 0


def _local(entry: NodeEntry) -> bool:
    hosts = {split(address)[0] for address in entry.endpoints.values()}
    return all(host.startswith("127.") or host in ("::1", "localhost") for host in hosts)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
