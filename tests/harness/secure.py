"""Nodes with keys, and a registry that knows them."""

from collections.abc import Sequence

from common.runtime.curve import Guard
from common.runtime.keys import Keys
from common.runtime.registry import NodeEntry
from common.runtime.roster import Roster


class Nodes:
    """Stands for a cluster's registry: who is in it, and with which key."""

    def __init__(self) -> None:
        self.entries: dict[str, NodeEntry] = {}
        self.keys: dict[str, Keys] = {}

    async def members(self) -> list[NodeEntry]:
        return list(self.entries.values())

    def add(self, name: str, role: str, *, datacenter: str = "", tags: Sequence[str] = ()) -> Guard:
        """Register a node; return the guard of its process, whose roster nobody runs."""
        keys = self.keys[name] = Keys.new()
        self.entries[name] = NodeEntry(
            name, role, {}, datacenter=datacenter, tags=tuple(tags), key=keys.public
        )
        return Guard(keys, Roster(self.members, name), secure=True, mode="curve")

    def stranger(self) -> Guard:
        """Return the guard of a process whose key nobody knows."""
        return Guard(Keys.new(), Roster(self.members, "nobody"), secure=True, mode="curve")
