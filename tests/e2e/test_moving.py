"""Running viewers are moved: off an edge that drains, and away from one that dies."""

import pytest

from tests.e2e.test_browser import node

pytestmark = [pytest.mark.e2e, pytest.mark.alone]


def test_the_player_changes_between_edges_at_a_keyframe_and_knows_where_to_go() -> None:
    seen = node("seam.mjs")
    for kind in ("level", "ahead", "behind"):
        assert seen[kind]["shown"] == [*range(60)], kind
        assert seen[kind]["changed"] < 35, kind
        assert seen[kind]["header"] == [{"codecs": "avc1.42C01E,mp4a.40.2"}, {"data": "init"}]
    dead = seen["dead"]["shown"]
    assert dead == [*range(27), *range(20, 60)], "it begins at the newest keyframe"
    chosen = seen["chosen"]["moved"]
    assert chosen == ["http://e3", "http://e4", "http://e1", "https://e9:8443"]
