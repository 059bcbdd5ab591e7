"""How far nodes and viewers are from each other, on a scale from 0, here, to 1, very far.

Coordinates on the globe decide if both sides have them; else the datacenters do, by a table of
round trips that is handed in (:data:`RoundTrip`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

FAR_KM = 5000.0
"""Kilometres that count as very far; what is farther is no worse."""

FAR_SECONDS = 0.15
"""Seconds of round trip that count as very far."""

EARTH_KM = 6371.0

RoundTrip = Callable[[str, str], float | None]
"""Seconds from one datacenter to another and back, None if nobody knows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody is, as far as it is known."""

    datacenter: str = ""
    location: tuple[float, float] | None = None
    """Latitude and longitude in degrees."""


NOWHERE = Place()


def unknown(_: str, __: str) -> float | None:
    """Know nothing about round trips: every other datacenter is very far."""
    return None


def kilometres(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the length of the great circle between two points, by the haversine formula."""
    lat_a, lon_a, lat_b, lon_b = map(math.radians, (*a, *b))
    half = math.sin((lat_b - lat_a) / 2) ** 2
    half += math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_KM * math.asin(min(1.0, math.sqrt(half)))


def distance(a: Place, b: Place, round_trip: RoundTrip = unknown) -> float:
    """Return how far two places are, 0 to 1; 0 also if it cannot be told."""
    if a.location is not None and b.location is not None:
        return min(1.0, kilometres(a.location, b.location) / FAR_KM)
    if not a.datacenter or not b.datacenter or a.datacenter == b.datacenter:
        return 0.0
    seconds = round_trip(a.datacenter, b.datacenter)
    return 1.0 if seconds is None else min(1.0, max(0.0, seconds) / FAR_SECONDS)


def location(latitude: str | None, longitude: str | None) -> tuple[float, float] | None:
    """Return the point that two texts name, None if they do not name one."""
    try:
        point = float(latitude or "x"), float(longitude or "x")
    except ValueError:
        return None
    return point if abs(point[0]) <= 90 and abs(point[1]) <= 180 else None
