import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.places import FAR_KM, Place, distance, kilometres, location

AMSTERDAM, NEW_YORK, NULL = (52.37, 4.90), (40.71, -74.01), (0.0, 0.0)
POINTS = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


def test_great_circles_are_as_long_as_they_are_on_maps() -> None:
    assert kilometres(AMSTERDAM, NEW_YORK) == pytest.approx(5863, rel=0.01)
    assert kilometres((0.0, 179.0), (0.0, -179.0)) == pytest.approx(222, rel=0.01)


def test_coordinates_decide_before_datacenters_and_zero_is_a_coordinate() -> None:
    a, b = Place("one", NULL), Place("two", (0.0, 9.0))
    assert distance(a, b) == pytest.approx(1001 / FAR_KM, rel=0.01)
    assert distance(a, Place("one")) == 0.0
    assert distance(a, Place("two")) == 1.0
    assert distance(a, Place()) == 0.0


def test_round_trips_between_datacenters_are_used_where_they_are_known() -> None:
    known = {("ams", "fra"): 0.0075, ("ams", "nyc"): 0.3}
    assert distance(Place("ams"), Place("fra"), lambda *pair: known.get(pair)) == 0.05
    assert distance(Place("ams"), Place("nyc"), lambda *pair: known.get(pair)) == 1.0
    assert distance(Place("ams"), Place("sin"), lambda *pair: known.get(pair)) == 1.0


@given(POINTS, POINTS)
def test_distance_is_a_share_and_the_same_both_ways(
    a: tuple[float, float], b: tuple[float, float]
) -> None:
    there, back = distance(Place("", a), Place("", b)), distance(Place("", b), Place("", a))
    assert 0 <= there <= 1
    assert there == pytest.approx(back)


@given(st.text(max_size=8), st.text(max_size=8))
def test_a_point_is_on_the_globe_or_none(latitude: str, longitude: str) -> None:
    found = location(latitude, longitude)
    assert found is None or (abs(found[0]) <= 90 and abs(found[1]) <= 180)


def test_what_is_no_point_is_none() -> None:
    assert location("52.4", "4.9") == (52.4, 4.9)
    assert location("0", "0") == NULL
    for pair in [("91", "0"), ("nan", "0"), ("", ""), (None, "1"), ("x", "1"), ("1", "inf")]:
        assert location(*pair) is None
