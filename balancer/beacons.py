"""How many balancers there are: each sends viewers that the others do not know of.

Those that the registry lists count, and those whose gossip is heard; one that was heard and has
become silent does not count, whatever the registry says.
"""

from collections.abc import Collection

from balancer.policy import MAX_AGE, NEVER

MAX_BALANCERS = 256
"""Balancers that are told apart. Further ones are not counted."""


class Beacons:
    """The balancers of the cluster, ourselves included."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._registered: frozenset[str] = frozenset()
        self._heard: dict[str, float] = {}

    def register(self, names: Collection[str]) -> None:
        """Take over what the registry says."""
        self._registered = frozenset(names)

    def hear(self, name: str, now: float) -> None:
        """Note the beacon of a balancer."""
        if name in self._heard or len(self._heard) < MAX_BALANCERS:
            self._heard[name] = now

    def count(self, now: float) -> int:
        """Return how many are there now, at least one."""
        fresh = {name for name in self._heard if self.fresh(name, now)}
        unheard = {name for name in self._registered if self._heard.get(name, NEVER) == NEVER}
        return len(fresh | unheard | {self._own})

    def fresh(self, name: str, now: float) -> bool:
        """Return whether a balancer was heard a moment ago."""
        return now - self._heard.get(name, NEVER) < MAX_AGE

    def forget(self, now: float, after: float) -> None:
        """Forget those that have been silent and unregistered for ``after`` seconds."""
        for name, heard in [*self._heard.items()]:
            if now - heard > after and name not in self._registered:
                del self._heard[name]
