"""Who is moved to which edge, and who stays."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from balancer.steering import MOST, STARTING, Edge, Steering, steer
from common.runtime import http

SESSIONS = [f"s{n}" for n in range(2000)]


def edge(name: str, load: float = 0.3, free: float = 1.0, refused: str = "") -> Edge:
    return Edge(name, f"http://{name}:80", load, free, refused)


def firsts(edges: list[Edge], current: str) -> Counter[str]:
    return Counter(steer(edges, current, one).edges[0].node for one in SESSIONS)


def test_a_viewer_is_not_moved_for_a_little_less_load() -> None:
    edges = [edge("a", 0.91), edge("b", 0.0, 100.0), edge("c", 0.95, 0.0, "full")]
    assert firsts(edges, "a") == {"a": 2000}
    assert firsts(edges, "c") == {"c": 2000}


@pytest.mark.parametrize("refused", ["draining", "no gossip"])
def test_who_leaves_is_spread_in_proportion_to_what_is_free(refused: str) -> None:
    edges = [edge("a", refused=refused), edge("b", free=1.0), edge("c", free=3.0)]
    found = firsts(edges, "a")
    assert set(found) == {"b", "c"}
    assert 1420 < found["c"] < 1580
    plan = steer(edges, "a", "x")
    assert plan.reason == ("draining" if refused == "draining" else "dead")
    assert plan.edges[-1].node == "a", "still better than nothing"


def test_who_stays_has_a_spread_second_choice_for_when_its_edge_dies() -> None:
    edges = [edge("a"), edge("b"), edge("c"), edge("d", refused="draining")]
    seconds = Counter(steer(edges, "a", one).edges[1].node for one in SESSIONS)
    assert set(seconds) == {"b", "c"}
    assert abs(seconds["b"] - 1000) < 100


def test_an_overloaded_edge_is_relieved_of_what_is_too_much_and_of_the_same_viewers() -> None:
    edges = [edge("a", 1.15), edge("b"), edge("c")]
    found = firsts(edges, "a")
    assert abs(found["a"] / 2000 - 0.8) < 0.04
    moved = [one for one in SESSIONS if steer(edges, "a", one).edges[0].node != "a"]
    assert moved == [one for one in SESSIONS if steer(edges, "a", one).edges[0].node != "a"]


def test_nobody_is_moved_where_there_is_nowhere_to_go_or_nothing_is_known_yet() -> None:
    assert steer([edge("a", refused="draining")], "a", "x").edges[0].node == "a"
    silent = [edge("a", refused="no gossip"), edge("b", refused="no gossip")]
    assert steer(silent, "a", "x").edges[0].node == "a"
    half = [edge("a", refused="no gossip"), edge("b")]
    assert steer(half, "a", "x", starting=True).edges[0].node == "a"
    assert steer([], "a", "x").edges == []


@given(
    st.lists(st.sampled_from("abcdefghijklmnop"), unique=True),
    st.sampled_from(["", "a", "z"]),
    st.sampled_from(["", "full", "draining", "no gossip"]),
    st.floats(0, 3),
    st.floats(0, 1e12),
)
def test_a_plan_names_each_edge_once_and_no_more_than_a_player_tries(
    names: list[str], current: str, refused: str, load: float, free: float
) -> None:
    edges = [edge(name, load, free, refused if name < "d" else "") for name in names]
    plan = steer(edges, current, "x")
    found = [one.node for one in plan.edges]
    able = [name for name in names if name != current and not (refused and name < "d")]
    # Who has to leave is told only of edges that take it, and of its own for the worst case.
    leaves = current in names and found[0] != current
    assert len(found) == len(set(found)) == min(MOST, len(able) + 1 if leaves else len(names))
    if current in names and refused in ("", "full") and load < 1:
        assert found[0] == current


class Cluster:
    """A steering server for edges that a test changes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.edges = [edge("e1"), edge("e2"), edge("e3"), edge("e 4")]
        self.sent: list[tuple[str, str]] = []
        self.steering = Steering(
            lambda *_: self.edges, lambda *what: self.sent.append(what), 10, lambda: self.now
        )
        self.now = STARTING
        self.client: Any

    async def get(self, url: str, status: int = 200) -> dict[str, Any]:
        answer = await self.client.get(url)
        assert answer.status == status, await answer.text()
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        return dict(await answer.json(content_type=None))


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    server = TestServer(http.application(made.steering.routes()))
    async with TestClient(server) as made.client:
        yield made


HLS = "/steering/hls/cmaf/live+a/index.m3u8?variants=1.m3u8&renditions=2.m3u8&pathways=e1,e2"


async def test_an_hls_player_gets_a_list_and_clones_of_what_its_playlist_lacks(
    cluster: Cluster,
) -> None:
    answer = await cluster.client.get(f"{HLS}&_HLS_pathway=e1&_HLS_throughput=4000000")
    assert answer.content_type == "application/vnd.apple.steering-list"
    assert answer.headers["Cache-Control"] == "no-store"
    tree = await answer.json(content_type=None)
    assert tree["VERSION"] == 1
    assert tree["TTL"] in (9, 10, 11)
    assert tree["PATHWAY-PRIORITY"][0] == "e1"
    assert set(tree["PATHWAY-PRIORITY"]) == {"e1", "e2", "e3", "e_4"}
    clones = {clone["ID"]: clone for clone in tree["PATHWAY-CLONES"]}
    assert set(clones) == {"e3", "e_4"}
    assert clones["e3"]["BASE-ID"] == "e1"
    assert clones["e3"]["URI-REPLACEMENT"] == {
        "PER-VARIANT-URIS": {"1.m3u8": "http://e3:80/cmaf/live+a/1.m3u8"},
        "PER-RENDITION-URIS": {"2.m3u8": "http://e3:80/cmaf/live+a/2.m3u8"},
    }
    again = f"/steering/hls/cmaf/live+a/{tree['RELOAD-URI']}&_HLS_pathway=e1"
    second = await cluster.get(again)
    assert second["RELOAD-URI"] == tree["RELOAD-URI"], "the session stays"
    assert second["PATHWAY-PRIORITY"] == tree["PATHWAY-PRIORITY"]
    assert cluster.sent == []


async def test_a_drained_player_hurries_and_is_counted_where_it_goes(cluster: Cluster) -> None:
    cluster.edges[0] = edge("e1", refused="draining")
    tree = await cluster.get(f"{HLS}&_HLS_pathway=e1")
    assert tree["TTL"] in (1, 2)
    first = tree["PATHWAY-PRIORITY"][0]
    assert first != "e1"
    assert cluster.sent == [({"e_4": "e 4"}.get(first, first), "live+a")]
    moved = await cluster.get(f"{HLS}&session=abc&_HLS_pathway={first}")
    assert moved["PATHWAY-PRIORITY"][0] == first
    assert moved["TTL"] >= 9


async def test_a_dash_player_is_told_the_same_in_its_words(cluster: Cluster) -> None:
    cluster.edges = [edge("e1", refused="draining"), edge("e2")]
    url = "/steering/dash/cmaf/live/index.mpd"
    tree = await cluster.get(f"{url}?_DASH_pathway=%22e1%22&_DASH_throughput=5140000")
    assert tree["SERVICE-LOCATION-PRIORITY"] == tree["PATHWAY-PRIORITY"] == ["e2", "e1"]
    assert tree["TTL"] in (1, 2)
    assert tree["VERSION"] == 1
    assert tree["RELOAD-URI"].startswith("index.mpd?session=")
    assert "PATHWAY-CLONES" not in tree


async def test_a_player_is_left_where_it_is_when_no_edge_is_known(cluster: Cluster) -> None:
    cluster.edges = []
    assert (await cluster.get(f"{HLS}&_HLS_pathway=e9"))["PATHWAY-PRIORITY"] == ["e9"]


@pytest.mark.parametrize(
    "url",
    [
        "/steering/hls/cmaf/live/index.m3u8?variants=../../x",
        "/steering/hls/cmaf/LIVE%00/index.m3u8",
        "/steering/hls/robots.txt",
        "/steering/dash/cmaf/live/index.mpd?_DASH_throughput=x",
    ],
)
async def test_what_makes_no_sense_is_refused(cluster: Cluster, url: str) -> None:
    await cluster.get(url, 400)
