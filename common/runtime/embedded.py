"""The registry of the nodes on one machine: a folder of small JSON files.

A first run needs no server. Every change is made under one lock (``flock``) and by atomic rename;
readers take no lock. A node is live while the process that registered it is. The file of a stream
stays when it is released, so that terms, epochs and segment numbers only ever rise.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.errors import ConfigError, NodeUnavailable, StreamBusy
from common.names import check_name
from common.runtime.registry import DRAIN_TIMEOUT, NodeEntry, Owner, Standby, now_us

LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process that changes the registry."""


class EmbeddedRegistry:
    """The :class:`Registry` of the nodes on one machine.

    Changes are made in a thread: the disk may take its time.
    """

    def __init__(self, folder: Path | str, clock: Callable[[], int] = now_us) -> None:
        """Use ``folder``, created if need be; ``clock`` tells Unix microseconds."""
        self._nodes = Path(folder) / "nodes"
        self._streams = Path(folder) / "streams"
        self._standbys = Path(folder) / "standbys"
        self._drains = Path(folder) / "drains"
        self._definitions = Path(folder) / "definitions"
        self._lock = Path(folder) / "lock"
        self._clock = clock
        for path in self._folders():
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _folders(self) -> tuple[Path, ...]:
        return self._nodes, self._streams, self._standbys, self._drains, self._definitions

    async def register(self, entry: NodeEntry) -> None:
        """Make a node known; entries of dead nodes are swept.

        Raises:
            ConfigError: If another live process has this name.
        """
        await asyncio.to_thread(self._register, entry)

    async def unregister(self, name: str) -> None:
        """Take a node out."""
        await asyncio.to_thread(self._unregister, name)

    async def nodes(self, role: str = "") -> list[NodeEntry]:
        """Return the live nodes."""
        trees = [_read(path) for path in sorted(self._nodes.glob("*.json"))]
        return self._entries(tree for tree in trees if _alive(tree) and role in ("", tree["role"]))

    async def members(self) -> list[NodeEntry]:
        """Return all nodes that registered and were not taken out."""
        return self._entries(filter(None, map(_read, sorted(self._nodes.glob("*.json")))))

    def _drained(self, entry: NodeEntry) -> NodeEntry:
        tree = _read(self._drains / _file_name(entry.name))
        timeout = float(tree.get("timeout", DRAIN_TIMEOUT))
        return replace(entry, draining=True, drain_timeout=timeout)

    async def acquire(
        self, stream: str, node: str, endpoints: Mapping[str, str], epoch: int = 0, over: int = 0
    ) -> Owner:
        """Become the owner of a stream."""
        return await asyncio.to_thread(self._acquire, stream, node, dict(endpoints), epoch, over)

    async def release(self, owner: Owner) -> None:
        """Give a stream up, unless somebody else has it by now."""
        await asyncio.to_thread(self._release, owner)

    async def owner(self, stream: str) -> Owner | None:
        """Return the live owner of a stream."""
        tree = _read(self._stream(stream))
        return _owner(tree) if _owned(tree) else None

    async def owners(self) -> list[Owner]:
        """Return the live owners of all streams."""
        trees = [_read(path) for path in sorted(self._streams.glob("*.json"))]
        return [_owner(tree) for tree in trees if _owned(tree)]

    async def reserve_segments(self, stream: str, count: int, at_least: int = 0) -> int:
        """Return the first of ``count`` segment numbers that nobody was given before."""
        return await asyncio.to_thread(self._reserve, stream, count, at_least)

    async def stand_by(self, stream: str, node: str, endpoints: Mapping[str, str]) -> None:
        """Make known that ``node`` can go on with a stream that another node owns."""
        standby = Standby(check_name(stream), node, dict(endpoints), os.getpid())
        tree = {**asdict(standby), "started": start_time(standby.pid)}
        await asyncio.to_thread(self._change, self._standby(stream, node), tree)

    async def stand_down(self, stream: str, node: str) -> None:
        """Take that back."""
        await asyncio.to_thread(self._change, self._standby(stream, node), None)

    async def standbys(self, stream: str) -> list[Standby]:
        """Return the live nodes that can go on with a stream."""
        paths = sorted(self._standbys.glob("*.json"))
        trees = [tree for path in paths if _alive(tree := _read(path))]
        return [_standby(tree) for tree in trees if tree["stream"] == stream]

    async def drain(self, name: str, draining: bool, timeout: float = DRAIN_TIMEOUT) -> None:
        """Say that the viewers of a node are to be moved away, or take that back."""
        if name not in {entry.name for entry in await self.nodes()}:
            raise NodeUnavailable(f"no live node is called {name!r}")
        tree = {"node": name, "timeout": timeout} if draining else None
        await asyncio.to_thread(self._change, self._drains / _file_name(name), tree)

    async def define(self, stream: str, settings: Mapping[str, Any] | None) -> None:
        """Write down the settings of a stream or wildcard base; None deletes them."""
        path = self._definitions / f"{quote(check_name(stream), safe='+')}.json"
        tree = None if settings is None else {"stream": stream, "settings": dict(settings)}
        await asyncio.to_thread(self._change, path, tree)

    async def definitions(self) -> dict[str, dict[str, Any]]:
        """Return the settings that were written down, by stream."""
        trees = [_read(path) for path in sorted(self._definitions.glob("*.json"))]
        return {tree["stream"]: tree["settings"] for tree in trees if tree}

    async def round_trips(self) -> dict[frozenset[str], float]:
        """Return nothing: all nodes are on this machine."""
        return {}

    def trouble(self) -> str:
        """Return nothing: the files say what there is."""
        return ""

    def _entries(self, trees: Iterable[dict[str, Any]]) -> list[NodeEntry]:
        draining = {path.name for path in self._drains.iterdir()}
        found = map(_node, trees)
        return [self._drained(one) if _file_name(one.name) in draining else one for one in found]

    def _change(self, path: Path, tree: Mapping[str, Any] | None) -> None:
        with self._locked():
            if tree is None:
                path.unlink(missing_ok=True)
            else:
                _write(path, tree)

    def _register(self, entry: NodeEntry) -> None:
        with self._locked():
            for path in self._nodes.glob("*.json"):
                if not _alive(_read(path)):
                    path.unlink(missing_ok=True)
            old = _read(self._file(entry.name))
            if old and old["pid"] != entry.pid:
                reason = f"{entry.name!r} is the name of a node that runs as process {old['pid']}"
                raise ConfigError("node.name", reason)
            _write(self._file(entry.name), {**asdict(entry), "started": start_time(entry.pid)})

    def _unregister(self, name: str) -> None:
        with self._locked():
            self._file(name).unlink(missing_ok=True)

    def _acquire(
        self, stream: str, node: str, endpoints: dict[str, str], epoch: int, over: int
    ) -> Owner:
        path = self._stream(stream)
        with self._locked():
            old = _read(path)
            ours = (old.get("pid"), old.get("node")) == (os.getpid(), node)
            if _owned(old) and not ours and old["term"] != over:
                raise StreamBusy(f"{stream} is already published on {old['node']}")
            now = self._clock()
            owner = Owner(
                stream=stream,
                node=node,
                epoch=epoch or max(old.get("epoch", 0) + 1, now),
                term=max(old.get("term", 0) + 1, now),
                endpoints=endpoints,
                pid=os.getpid(),
            )
            started = start_time(owner.pid)
            _write(path, {**old, **asdict(owner), "started": started, "owned": True})
        return owner

    def _release(self, owner: Owner) -> None:
        path = self._stream(owner.stream)
        with self._locked():
            tree = _read(path)
            if tree.get("term") == owner.term:
                _write(path, {**tree, "owned": False})

    def _reserve(self, stream: str, count: int, at_least: int) -> int:
        path = self._stream(stream)
        with self._locked():
            tree = _read(path)
            first: int = max(tree.get("segments", 0), at_least)
            _write(path, {**tree, "segments": first + count})
        return first

    def _file(self, node: str) -> Path:
        return self._nodes / _file_name(node)

    def _standby(self, stream: str, node: str) -> Path:
        return self._standbys / f"{quote(check_name(stream), safe='+')}@{_file_name(node)}"

    def _stream(self, stream: str) -> Path:
        return self._streams / f"{quote(check_name(stream), safe='+')}.json"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        give_up = time.monotonic() + LOCK_TIMEOUT
        with self._lock.open("w") as file:
            while not _try_lock(file.fileno()):
                if time.monotonic() > give_up:
                    raise NodeUnavailable(f"the registry {self._lock.parent} is locked")
                time.sleep(0.005)
            yield


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if there is none.

    A pid may be given to another process later; the pair of both is given only once.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(tree: dict[str, Any]) -> bool:
    return bool(tree) and tree["started"] != 0 and start_time(tree["pid"]) == tree["started"]


def _owned(tree: dict[str, Any]) -> bool:
    return bool(tree.get("owned")) and _alive(tree)


def _file_name(node: str) -> str:
    return f"{quote(node, safe='')}.json"


def _node(tree: dict[str, Any]) -> NodeEntry:
    location = tree["location"]
    return NodeEntry(
        name=tree["name"],
        role=tree["role"],
        endpoints=tree["endpoints"],
        capacity=tree["capacity"],
        datacenter=tree["datacenter"],
        tags=tuple(tree["tags"]),
        location=(location[0], location[1]) if location else None,
        key=tree["key"],
        pid=tree["pid"],
    )


def _standby(tree: dict[str, Any]) -> Standby:
    return Standby(tree["stream"], tree["node"], tree["endpoints"], tree["pid"])


def _owner(tree: dict[str, Any]) -> Owner:
    return Owner(
        stream=tree["stream"],
        node=tree["node"],
        epoch=tree["epoch"],
        term=tree["term"],
        endpoints=tree["endpoints"],
        pid=tree["pid"],
    )


def _read(path: Path) -> dict[str, Any]:
    """Return what a file says; nothing if there is none or it is damaged."""
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _write(path: Path, tree: Mapping[str, Any]) -> None:
    new = path.with_suffix(f".{os.getpid()}.new")
    with open(new, "w", opener=_private) as file:
        file.write(json.dumps(tree))
        file.flush()
        os.fsync(file.fileno())  # else a crash of the machine may leave an empty file: terms fall
    new.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
