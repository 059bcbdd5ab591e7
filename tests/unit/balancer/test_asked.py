import json

from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from balancer.asked import MAX_ADJUSTMENT_TEXT, MAX_EXCLUDED, adjustments, excluded, viewer_of
from balancer.places import Place


def test_a_request_says_where_its_viewer_is_and_what_it_wants() -> None:
    headers = {"X-Latitude": "52.4", "X-Longitude": "0", "X-Tag-Adjust": '{"eu": 100, "-ssd": -50}'}
    request = make_mocked_request("GET", "/live.mp4?not=a,b&lat=9&lon=9", headers=headers)
    viewer = viewer_of(request, "live", "mp4", "ams")
    assert viewer.place == Place("ams", (52.4, 0.0))
    assert viewer.excluded == {"a", "b"}
    assert viewer.tags == {"eu": 0.1, "-ssd": -0.05}
    plain = viewer_of(make_mocked_request("GET", "/?lat=1&lon=-2"), "", "", "ams")
    assert plain.place == Place("ams", (1.0, -2.0))
    assert viewer_of(make_mocked_request("GET", "/x"), "", "").place == Place()


def test_what_makes_no_sense_counts_as_not_said() -> None:
    for text in ("", "[]", "{", "1", '{"a": "b"}', '{"a": true}', '{"a": NaN}', "[" * 900):
        assert adjustments(text) == {}
    assert adjustments(json.dumps({"a": 1e9, "b": -1e9})) == {"a": 1.0, "b": -1.0}
    assert adjustments('{"' + "a" * MAX_ADJUSTMENT_TEXT + '": 1}') == {}
    request = make_mocked_request("GET", "/x?lat=north&lon=1")
    assert viewer_of(request, "", "").place.location is None


def test_only_some_nodes_can_be_excluded() -> None:
    assert excluded(",".join(f"n{n}" for n in range(99))) == {f"n{n}" for n in range(MAX_EXCLUDED)}
    assert excluded(",,") == frozenset()


@given(st.text(max_size=60))
def test_tags_of_any_text_are_shares_of_load(text: str) -> None:
    assert all(-1 <= share <= 1 for share in adjustments(text).values())
