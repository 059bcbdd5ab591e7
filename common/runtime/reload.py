"""Take up changed settings while a node runs: all of them or none, and a plan of it first.

What changed is found by reading file, environment and command line again and comparing with what
the node runs with. An option is taken up in one of three ways: *now*, in the running process;
*restart*, by a restart in place (``common/runtime/restart.py``), which cuts no viewer; or not at
all, with the reason. One option of the last kind, or one wrong value, and nothing is changed.

A reload is asked for with ``POST /api/v1/reload`` (``headwater reload``), by the file itself
(``node.watch``), or with SIGHUP, which always restarts in place and so takes up new code, too.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from common.errors import AccessDenied, ConfigError, HeadwaterError, NodeUnavailable, ProtocolError
from common.runtime import loader, logs, metrics, restart
from common.runtime.logs import Log
from common.runtime.options import SECRET, leaves
from common.runtime.trust import trusted

LOOK = 1.0
"""Seconds between two looks at the configuration file; it has to stay the same for one of them."""

log = Log("reload")

How = Literal["now", "restart", "refused"]

ANOTHER_NODE = "that is another node: start it beside this one, drain this one, then stop it"
PLACE = "what the running node keeps lies there: drain the node, stop it, start it"
CLUSTER = "the node would leave the cluster of its streams: drain the node, stop it, start it"

REFUSED = {
    "node.name": ANOTHER_NODE,
    "node.datacenter": ANOTHER_NODE,
    "node.run": PLACE,
    "node.pages": PLACE,
    "node.registry": CLUSTER,
    "node.consul.address": CLUSTER,
    "node.consul.prefix": CLUSTER,
    "node.consul.primary": CLUSTER,
}
"""Options that a running node cannot change, and what to do instead."""

SOURCES = "streams.*.source"
"""Where an origin fetches streams from; it begins to when it starts."""

CONSEQUENCE = {
    "origin": "publishers connect again; with a second origin that follows, viewers see nothing",
    "edge": "no viewer is cut, no request fails",
    "relay": "edges take the streams from another relay, or the origin, meanwhile",
    "balancer": "no request fails",
}
"""What a restart in place means to others."""

HIDDEN = "(hidden)"


@dataclass(frozen=True, slots=True)
class Change:
    """One option that would change."""

    key: str
    before: Any
    after: Any
    how: How
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reload would do."""

    changes: tuple[Change, ...] = ()
    how: Literal["nothing", "now", "restart", "refused"] = "nothing"
    consequence: str = ""

    def plain(self) -> dict[str, Any]:
        """Return the plan as plain values, secrets hidden."""
        told = asdict(self)
        told["changes"] = [_hidden(change) for change in told["changes"]]
        return told

    def refusal(self) -> str:
        """Return why it cannot be done, nothing if it can."""
        said = [f"{one.key}: {one.why}" for one in self.changes if one.how == "refused"]
        return "; ".join(said)


def compare(
    role: str, before: Mapping[str, Any], after: Mapping[str, Any], now: tuple[str, ...]
) -> Plan:
    """Return the plan that leads from settings to others, both plain.

    ``now`` are patterns of keys that the running process can take up.
    """
    old, new = dict(leaves(before)), dict(leaves(after))
    changes = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        how, why = decide(role, key, now)
        changes.append(Change(key, old.get(key), new.get(key), how, why))
    ways = {change.how for change in changes}
    order: tuple[How, ...] = ("refused", "restart", "now")
    overall: How | Literal["nothing"] = next((way for way in order if way in ways), "nothing")
    return Plan(tuple(changes), overall, CONSEQUENCE.get(role, "") if overall == "restart" else "")


def decide(role: str, key: str, now: tuple[str, ...]) -> tuple[How, str]:
    """Return how a role takes up an option, and why so."""
    if key in REFUSED:
        return "refused", REFUSED[key]
    if any(fnmatchcase(key, one) for one in now) and not fnmatchcase(key, SOURCES):
        return "now", "taken up by the running process"
    return "restart", f"a restart in place: {CONSEQUENCE.get(role, '')}"


class Reloader:
    """The settings that a process runs with, and how to read them again."""

    def __init__(
        self, role: str, running: Any, read: Callable[[], Any], file: Path | None = None
    ) -> None:
        """``read`` returns the settings as they are written now."""
        self.role = role
        self.running = running
        self.file = file
        self._read = read
        self._now: dict[str, Callable[[Any], object]] = {}
        self._lock = asyncio.Lock()

    def at_once(self, patterns: Mapping[str, Callable[[Any], object]]) -> None:
        """Say which options the process takes up itself; each is called with all new settings."""
        self._now.update(patterns)

    def plan(self) -> tuple[Plan, Any]:
        """Return what a reload would do, and the settings it would lead to.

        Raises:
            ConfigError: If what is written now is wrong.
        """
        fresh = self._read()
        made = compare(self.role, loader.dump(self.running), loader.dump(fresh), tuple(self._now))
        return made, fresh

    def forbid(self) -> None:
        """Refuse a restart that would change what cannot be changed.

        Raises:
            RestartRefused: Which options, and what to do instead.
        """
        try:
            refusal = self.plan()[0].refusal()
        except ConfigError as error:
            raise restart.RestartRefused(str(error)) from error
        if refusal:
            raise restart.RestartRefused(refusal)

    async def apply(self) -> Plan:
        """Reload; return what was done. After a plan of ``restart`` the process is soon replaced.

        Raises:
            ConfigError: If what is written now is wrong; nothing has changed.
            RestartRefused: If an option cannot be changed; nothing has changed.
        """
        async with self._lock:
            try:
                return await self._apply()
            except HeadwaterError:
                metrics.CONFIG_LAST_RELOAD_SUCCESSFUL.set(0)
                raise

    async def _apply(self) -> Plan:
        plan, fresh = self.plan()
        if plan.how == "refused":
            raise restart.RestartRefused(plan.refusal())
        if plan.how == "restart":
            await restart.current().begin()
        elif plan.how == "now":
            for pattern, take in self._now.items():
                if any(fnmatchcase(change.key, pattern) for change in plan.changes):
                    take(fresh)
            self.running = fresh
        if plan.changes:
            keys = ",".join(change.key for change in plan.changes)
            log.info("settings changed", extra={"keys": keys, "how": plan.how})
        metrics.CONFIG_LAST_RELOAD_SUCCESSFUL.set(1)
        return plan

    async def watch(self) -> None:
        """Reload whenever the file has changed, until cancelled."""
        if self.file is None:
            return
        done = seen = signature(self.file)
        while True:
            await asyncio.sleep(LOOK)
            found = signature(self.file)
            settled, seen = found == seen, found
            if found == done or not settled or not found or restart.under_way():
                continue  # an image that follows reads the file anyhow
            done = found
            try:
                await self.apply()
            except HeadwaterError as error:
                log.error("reload refused", extra={"error": str(error)})


def signature(file: Path) -> tuple[int, ...]:
    """Return what tells one state of a file from another, empty if it is not there."""
    with contextlib.suppress(OSError):
        found = file.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return ()


_current: Reloader | None = None


def begin(role: str, running: Any, read: Callable[[], Any], file: Path | None) -> Reloader:
    """Make this process one that reloads; the logs are taken up at once unless it has children."""
    global _current  # like restart: a process runs one role
    _current = Reloader(role, running, read, file)
    if role != "edge":  # its children have logs of their own; a restart reaches them all
        _current.at_once({"log.*": _take_logs})
    return _current


def current() -> Reloader:
    """Return how this process reloads.

    Raises:
        NodeUnavailable: If no role of its own runs in it.
    """
    if _current is None:
        raise NodeUnavailable("this process cannot reload its settings")
    return _current


def at_once(patterns: Mapping[str, Callable[[Any], object]]) -> None:
    """Say which options this process takes up itself (:meth:`Reloader.at_once`)."""
    if _current is not None:
        _current.at_once(patterns)


async def alongside(reloader: Reloader, watch: bool, role: Coroutine[Any, Any, None]) -> None:
    """Run a role, and watch the file meanwhile."""
    watching = asyncio.create_task(reloader.watch()) if watch else None
    try:
        await role
    finally:
        if watching is not None:
            watching.cancel()


def routes(token: str = "") -> list[web.RouteDef]:
    """Return the API: what runs, what a reload would do, and the reload.

    For clients of this machine, and those that bear ``token``.
    """

    def allow(request: web.Request) -> None:
        if not trusted(request, token):
            raise AccessDenied("settings are for clients of this machine, or with the token")

    async def show(request: web.Request) -> web.Response:
        allow(request)
        return _json({"settings": _without_secrets(loader.dump(current().running))})

    async def plan(request: web.Request) -> web.Response:
        allow(request)
        try:
            return _json(current().plan()[0].plain())
        except ConfigError as error:
            raise restart.RestartRefused(str(error)) from error

    async def reload(request: web.Request) -> web.Response:
        allow(request)
        if request.content_type != "application/json":
            raise ProtocolError("send Content-Type: application/json, also without a body")
        try:
            done = await current().apply()
        except ConfigError as error:
            raise restart.RestartRefused(str(error)) from error
        return _json(done.plain(), status=202 if done.how == "restart" else 200)

    return [
        web.get("/api/v1/config", show),
        web.get("/api/v1/config/plan", plan),
        web.post("/api/v1/reload", reload),
    ]


def _take_logs(settings: Any) -> None:
    logs.configure(settings.log.level, settings.log.style)


def _hidden(change: dict[str, Any]) -> dict[str, Any]:
    if change["key"].rpartition(".")[2] in SECRET:
        return {**change, "before": HIDDEN, "after": HIDDEN}
    return change


def _without_secrets(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {
        key: HIDDEN if key in SECRET and value else _without_secrets(value)
        for key, value in tree.items()
    }


def _json(tree: dict[str, Any], status: int = 200) -> web.Response:
    text = json.dumps(tree, default=str)
    headers = {"Cache-Control": "no-store"}
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")
