"""What the registry looks like inside Consul: services, keys and their JSON.

A node is the service ``PREFIX-ROLE`` with the id ``PREFIX:NAME``; its endpoints, capacities and so
on are metadata. The keys::

    PREFIX/live/owners/STREAM           who owns it; locked by the session of the origin
    PREFIX/live/standbys/STREAM@NODE    who can go on with it; locked likewise
    PREFIX/live/drains/NODE             there while a node is to be drained
    PREFIX/config/streams/STREAM        its definition
    PREFIX/numbers/STREAM               the highest term, epoch and segment number given out

Whatever else stands there is ignored: anybody with a token may write into Consul.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from common import __version__
from common.runtime.consul_settings import ConsulSettings
from common.runtime.embedded import start_time
from common.runtime.registry import DRAIN_TIMEOUT, NodeEntry, Owner, Standby

MAX_WEIGHT = 65535
"""The largest weight that Consul takes. A larger one is written as this."""

_MAINTENANCE = "_service_maintenance:"
_AGENT = "serfHealth"


class Health(Enum):
    """How sure it is that a node lives."""

    CERTAIN = "certain"
    DOUBTFUL = "doubtful"
    """Its agent is not heard of; the node was well the last time."""
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Instance:
    """A node as Consul has it."""

    entry: NodeEntry
    health: Health
    maintenance: bool
    datacenter: str
    """Of Consul; that of the entry may have been set to something else."""
    agent: str
    """Name of the agent it is registered with."""
    started: int
    """When its process started, as :func:`start_time` says."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The highest numbers of a stream that were given out."""

    epoch: int = 0
    term: int = 0
    segments: int = 0

    def joined(self, other: "Numbers") -> "Numbers":
        """Return the higher of each."""
        return Numbers(
            max(self.epoch, other.epoch),
            max(self.term, other.term),
            max(self.segments, other.segments),
        )


def service_id(settings: ConsulSettings, name: str) -> str:
    """Return the id of a node's service."""
    return f"{settings.prefix}:{name}"


def ttl_check(settings: ConsulSettings, name: str) -> str:
    """Return the id of the check that a node keeps passing."""
    return f"{service_id(settings, name)}:ttl"


def service(settings: ConsulSettings, entry: NodeEntry, starting: bool = False) -> dict[str, Any]:
    """Return the registration of a node; one that is ``starting`` is not shown to others."""
    identity = service_id(settings, entry.name)
    host, port = _address(entry.endpoints.get("http", ""))
    checks: list[dict[str, Any]] = [
        {
            "CheckID": ttl_check(settings, entry.name),
            "Name": "reports itself",
            "TTL": _seconds(settings.ttl),
            "Status": "passing",
            "DeregisterCriticalServiceAfter": "30m",
        }
    ]
    health = entry.endpoints.get("admin") or entry.endpoints.get("http")
    if health and not starting:
        url = health if "://" in health else f"http://{health}"
        checks.append(
            {
                "CheckID": f"{identity}:http",
                "Name": "answers /healthz",
                "HTTP": f"{url}/healthz",
                "Interval": _seconds(settings.check),
                "Timeout": _seconds(settings.timeout),
                "TLSSkipVerify": True,
                "Status": "passing",
            }
        )
    weight = int(entry.capacity.get("bits_per_second", 0) / 1e7)
    return {
        "ID": identity,
        "Name": f"{settings.prefix}-{entry.role}",
        "Address": host,
        "Port": port,
        "Tags": list(entry.tags),
        "Meta": _meta(entry, starting),
        "Weights": {"Passing": min(max(weight, 1), MAX_WEIGHT), "Warning": 1},
        "Checks": checks,
    }


def _meta(entry: NodeEntry, starting: bool) -> dict[str, str]:
    meta = {
        "node": entry.name,
        "role": entry.role,
        "version": __version__,
        "datacenter": entry.datacenter,
        "key": entry.key,
        "pid": str(entry.pid),
        "started": str(start_time(entry.pid)),
        **{f"at-{name}": address for name, address in entry.endpoints.items()},
        **{f"can-{name}": repr(float(much)) for name, much in entry.capacity.items()},
    }
    if starting:
        meta["starting"] = "1"
    if entry.location is not None:
        meta["latitude"], meta["longitude"] = map(repr, entry.location)
    return {name: value for name, value in meta.items() if value}


def read_service(tree: Any) -> Instance | None:
    """Return a node out of the answer of ``/v1/health/service``; None if it is none."""
    try:
        meta = tree["Service"]["Meta"]
        if "starting" in meta:
            return None
        place = None
        if "latitude" in meta:
            place = (float(meta["latitude"]), float(meta["longitude"]))
        entry = NodeEntry(
            name=meta["node"],
            role=meta["role"],
            endpoints=_named(meta, "at-"),
            capacity={name: float(much) for name, much in _named(meta, "can-").items()},
            datacenter=meta.get("datacenter") or tree["Node"]["Datacenter"],
            tags=tuple(map(str, tree["Service"]["Tags"] or ())),
            location=place,
            key=meta.get("key", ""),
            pid=int(meta["pid"]),
        )
        health, maintenance = _health(tree["Checks"])
        where = tree["Node"]["Datacenter"], tree["Node"]["Node"]
        return Instance(entry, health, maintenance, *where, int(meta["started"]))
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _named(meta: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {k.removeprefix(prefix): str(v) for k, v in meta.items() if k.startswith(prefix)}


def _health(checks: list[dict[str, Any]]) -> tuple[Health, bool]:
    critical = {c["CheckID"] for c in checks if c["Status"] == "critical"}
    maintenance = {check for check in critical if check.startswith(_MAINTENANCE)}
    own = {c["CheckID"] for c in checks if c.get("ServiceID")} - maintenance
    if critical & own:
        return Health.DEAD, bool(maintenance)
    return Health.DOUBTFUL if _AGENT in critical else Health.CERTAIN, bool(maintenance)


# Keys.


def owner_key(settings: ConsulSettings, stream: str) -> str:
    """Return the key that says who owns a stream."""
    return f"{settings.prefix}/live/owners/{stream}"


def standby_key(settings: ConsulSettings, stream: str, node: str) -> str:
    """Return the key that says that ``node`` can go on with a stream."""
    return f"{settings.prefix}/live/standbys/{stream}@{quote(node, safe='')}"


def drain_key(settings: ConsulSettings, node: str) -> str:
    """Return the key that is there while a node is to be drained."""
    return f"{settings.prefix}/live/drains/{quote(node, safe='')}"


def numbers_key(settings: ConsulSettings, stream: str) -> str:
    """Return the key of the highest numbers of a stream."""
    return f"{settings.prefix}/numbers/{stream}"


def definition_key(settings: ConsulSettings, stream: str) -> str:
    """Return the key of the definition of a stream."""
    return f"{settings.prefix}/config/streams/{stream}"


def value(pair: Mapping[str, Any] | None) -> Any:
    """Return the value of a key, None if there is none or it is not JSON."""
    try:
        return json.loads(pair["Value"]) if pair is not None else None
    except (LookupError, TypeError, ValueError):
        return None


def session_of(pair: Mapping[str, Any] | None) -> str:
    """Return the session that has locked a key; nothing if none has."""
    return str(pair.get("Session") or "") if pair is not None else ""


def owner_tree(owner: Owner) -> dict[str, Any]:
    """Return an owner as JSON."""
    return asdict(owner)


def read_owner(pair: Mapping[str, Any] | None) -> Owner | None:
    """Return the owner that a key names."""
    tree = value(pair)
    try:
        return Owner(
            stream=str(tree["stream"]),
            node=str(tree["node"]),
            epoch=int(tree["epoch"]),
            term=int(tree["term"]),
            endpoints={str(k): str(v) for k, v in tree["endpoints"].items()},
            pid=int(tree.get("pid", 0)),
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def standby_tree(standby: Standby) -> dict[str, Any]:
    """Return a standby as JSON."""
    return asdict(standby)


def read_standby(pair: Mapping[str, Any]) -> Standby | None:
    """Return the standby that a key names."""
    tree = value(pair)
    try:
        endpoints = {str(k): str(v) for k, v in tree["endpoints"].items()}
        return Standby(str(tree["stream"]), str(tree["node"]), endpoints, int(tree["pid"]))
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def read_numbers(pair: Mapping[str, Any] | None) -> Numbers | None:
    """Return the numbers of a stream; None if nothing is known of it."""
    tree = value(pair)
    try:
        return Numbers(int(tree["epoch"]), int(tree["term"]), int(tree["segments"]))
    except (LookupError, TypeError, ValueError):
        return None


def read_drain(pair: Mapping[str, Any]) -> float:
    """Return in how many seconds a node is to be drained."""
    tree = value(pair)
    try:
        return float(tree["timeout"])
    except (LookupError, TypeError, ValueError):
        return DRAIN_TIMEOUT


def read_definition(pair: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings in the definition of a stream."""
    tree = value(pair)
    return tree if isinstance(tree, dict) else None


def last_word(pair: Mapping[str, Any]) -> str:
    """Return what stands after the last slash of a key."""
    return unquote(str(pair.get("Key", "")).rpartition("/")[2])


def is_mine(instance: Instance) -> bool:
    """Return whether the process of a node on this machine is this one, or is gone."""
    running = start_time(instance.entry.pid) == instance.started != 0
    return instance.entry.pid == os.getpid() or not running


def _address(endpoint: str) -> tuple[str, int]:
    try:
        url = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        return url.hostname or "", url.port or {"https": 443}.get(url.scheme, 80)
    except ValueError:
        return "", 0


def _seconds(duration: float) -> str:
    return f"{int(float(duration) * 1000)}ms"
