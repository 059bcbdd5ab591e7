"""Distances between datacenters, out of the answers of Consul."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.runtime.consul_coordinates import Coordinate, round_trips, translated


def server(*vector: float, height: float = 0.0, adjustment: float = 0.0, error: float = 0.2) -> Any:
    """Return a server as ``/v1/coordinate/datacenters`` tells of it."""
    place = {"Vec": [*vector], "Height": height, "Adjustment": adjustment, "Error": error}
    return {"Node": "s", "Coord": place}


def area(name: str, *servers: Any, of: str = "wan") -> Any:
    return {"Datacenter": name, "AreaID": of, "Coordinates": [*servers]}


def test_the_distance_is_that_of_serf() -> None:
    """The arithmetic of ``coordinate.DistanceTo``, also where it would be absurd."""
    one = Coordinate((-0.5, 1.3, 2.4), 0.0, 0.0)
    two = Coordinate((1.2, -2.3, 3.4), 0.0, 0.0)
    assert one.seconds(one) == 0
    assert one.seconds(two) == two.seconds(one) == pytest.approx(4.104875150354758)
    negative = Coordinate(two.vector, 0.0, -1.0e6)
    assert one.seconds(negative) == pytest.approx(4.104875150354758), "an adjustment that is absurd"
    adjusted = Coordinate(one.vector, 0.0, 0.1), Coordinate(two.vector, 0.0, 0.2)
    assert adjusted[0].seconds(adjusted[1]) == pytest.approx(4.104875150354758 + 0.3)
    high = Coordinate(one.vector, 0.7, 0.0), Coordinate(two.vector, 0.1, 0.0)
    assert high[0].seconds(high[1]) == pytest.approx(4.104875150354758 + 0.8)


def test_the_median_of_all_pairs_of_servers_counts() -> None:
    answer = [
        area("ams", server(0, 0), server(0, 0)),
        area("fra", server(0.008, 0), server(0.010, 0), server(5, 0)),
        area("nyc", server(0, 0.08, height=0.002)),
    ]
    found = round_trips(answer)
    assert found == {
        frozenset(("ams", "fra")): pytest.approx(0.010),
        frozenset(("ams", "nyc")): pytest.approx(0.082),
        frozenset(("fra", "nyc")): pytest.approx(0.0826, abs=0.0001),
    }


def test_who_has_not_measured_yet_or_is_elsewhere_says_nothing() -> None:
    new = area("new", server(0, 0, error=1.5))
    assert round_trips([area("ams", server(0, 0)), new]) == {}
    other = area("fra", server(1, 1), of="7")
    assert round_trips([area("ams", server(0, 0)), other]) == {}
    assert round_trips([area("ams", server(0, 0)), area("fra", server(1, 1, 1))]) == {}
    assert round_trips([area("ams", server(0, 0)), area("fra")]) == {}
    broken = [area("x", {"Coord": {"Vec": [float("nan")]}}), area("y", server(float("inf")))]
    assert round_trips([*broken, area("ams", server(0)), area("fra", server(0.1))]) == {
        frozenset(("ams", "fra")): 0.1
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "AreaID",
                    "Datacenter",
                    "Coordinates",
                    "Coord",
                    "Vec",
                    "Error",
                    "Height",
                    "Adjustment",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON | st.lists(JSON, max_size=4))
def test_whatever_consul_answers_is_read_or_left_out(answer: Any) -> None:
    assert all(seconds >= 0 for seconds in round_trips(answer).values())


def test_datacenters_are_called_as_their_nodes_call_them() -> None:
    measured = {frozenset(("dc1", "dc2")): 0.02, frozenset(("dc2", "dc3")): 0.05}
    names = {"dc1": {"ams"}, "dc2": {"fra-1", "fra-2"}, "dc4": {"sin"}}
    assert translated(measured, names) == {
        frozenset(("ams", "fra-1")): 0.02,
        frozenset(("ams", "fra-2")): 0.02,
        frozenset(("fra-1", "dc3")): 0.05,
        frozenset(("fra-2", "dc3")): 0.05,
    }
    assert translated(measured, {"dc1": {"x"}, "dc2": {"x"}}) == {frozenset(("x", "dc3")): 0.05}
