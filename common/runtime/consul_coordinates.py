"""How far datacenters are from each other, by the network coordinates that Consul keeps.

Consul's servers measure each other across datacenters all the time and give each of them a place
in a space in which the distance is the round trip (Vivaldi; the library is ``coordinate`` of
Serf). Sans-IO: the answer of ``/v1/coordinate/datacenters`` goes in, seconds come out.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

MAX_SERVERS = 8
"""Servers of a datacenter that are looked at. Those listed after them do not count."""

MAX_DATACENTERS = 64
"""Datacenters whose distance is looked at. Those listed after them have none."""

MAX_DIMENSIONS = 32
"""Numbers of a place; Serf uses 8. A place with more is none."""

UNKNOWN_ERROR = 1.5
"""What Serf calls the error of a server that has not measured anything yet."""

Pair = frozenset[str]
"""The names of two datacenters."""


@dataclass(frozen=True, slots=True)
class Coordinate:
    """Where one server is; all numbers are seconds."""

    vector: tuple[float, ...]
    height: float
    """The way to the core of the network, which every packet takes."""

    adjustment: float

    def seconds(self, other: "Coordinate") -> float:
        """Return the round trip to another server, as ``coordinate.DistanceTo`` of Serf does."""
        straight = math.dist(self.vector, other.vector) + self.height + other.height
        adjusted = straight + self.adjustment + other.adjustment
        return adjusted if adjusted > 0 else straight


def round_trips(answer: Any) -> dict[Pair, float]:
    """Return the seconds from one datacenter to another and back, where they have been measured.

    It is the median of all pairs of their servers, as it is for Consul itself. What is no
    coordinate is left out; so are servers that have not measured anything yet.
    """
    places: dict[tuple[str, str], list[Coordinate]] = {}
    for tree in answer[:MAX_DATACENTERS] if isinstance(answer, list) else ():
        try:
            key = str(tree["AreaID"]), str(tree["Datacenter"])
            servers = [_read(one["Coord"]) for one in tree["Coordinates"][:MAX_SERVERS]]
        except (LookupError, TypeError, ValueError, AttributeError):
            continue
        places[key] = [one for one in servers if one is not None]
    found: dict[Pair, float] = {}
    for (area, name), (other_area, other) in combinations(sorted(places), 2):
        if area != other_area or name == other:
            continue  # places in different areas cannot be compared
        seconds = _median(places[area, name], places[other_area, other])
        if seconds is not None:
            pair = frozenset((name, other))
            found[pair] = min(seconds, found.get(pair, seconds))
    return found


def translated(measured: Mapping[Pair, float], names: Mapping[str, set[str]]) -> dict[Pair, float]:
    """Return round trips under other names; ``names`` has those of each datacenter of Consul.

    Nodes may call a datacenter otherwise than Consul does (``node.datacenter``), also several
    places in one of Consul's. One without nodes keeps its name.
    """
    found: dict[Pair, float] = {}
    for pair, seconds in measured.items():
        one, other = sorted(pair)
        for a, b in product(names.get(one) or {one}, names.get(other) or {other}):
            if a != b:
                key = frozenset((a, b))
                found[key] = min(seconds, found.get(key, seconds))
    return found


def _read(tree: Mapping[str, Any]) -> Coordinate | None:
    """Read a coordinate; None if it says nothing yet.

    Raises:
        ValueError: If it is none; also LookupError, TypeError or AttributeError.
    """
    vector = tuple(map(float, tree["Vec"]))
    error, adjustment, height = (float(tree[n]) for n in ("Error", "Adjustment", "Height"))
    if len(vector) > MAX_DIMENSIONS or not all(map(math.isfinite, (*vector, adjustment, height))):
        raise ValueError("not a place")
    return None if error >= UNKNOWN_ERROR else Coordinate(vector, height, adjustment)


def _median(ours: list[Coordinate], theirs: list[Coordinate]) -> float | None:
    pairs = [(a, b) for a, b in product(ours, theirs) if len(a.vector) == len(b.vector)]
    return statistics.median(a.seconds(b) for a, b in pairs) if pairs else None
