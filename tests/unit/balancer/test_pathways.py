"""The edges as steering sees them."""

from random import Random

from aiohttp.test_utils import make_mocked_request

from balancer.api import Redirector
from balancer.director import Director
from balancer.nodes import NodeTable, Registration
from balancer.pathways import Pathways
from balancer.places import Place
from common.wire.gossip import Gossip

PATH = "/cmaf/live/index.m3u8"


def seen(
    loads: dict[str, float], *, current: str = "", near: str = "", draining: str = ""
) -> dict[str, tuple[float, str]]:
    """Return what each edge can take, and why it may not, for edges that send so many bits."""
    table = NodeTable()
    for name, load in loads.items():
        place = Place("here" if not near or name == near else "far away")
        table.register(Registration(name, f"http://{name}", 1e9, 1e6, place), 0.0)
        report = Gossip(name, 1, 1, 0, load * 1e9, 10, 0.0, 0.0, draining=name == draining)
        table.deliver(report, 0.0)
    director = Director(table, clock=lambda: 1.0, random=Random(1))
    redirector = Redirector(director, datacenter="here")
    request = make_mocked_request("GET", f"/steering/hls{PATH}?pathways=e1")
    found = Pathways(director, redirector).seen(request, PATH, "live", current)
    assert all(one.url == f"http://{one.node}" for one in found)
    return {one.node: (one.free, one.refused) for one in found}


def test_what_is_free_counts_and_why_an_edge_is_refused_is_told() -> None:
    found = seen({"a": 0.12, "b": 0.52, "c": 0.95, "d": 0.12}, draining="d")
    assert found["a"][0] > found["b"][0] > found["c"][0] == 0.0
    assert [found[name][1] for name in "abcd"] == ["", "", "full", "draining"]


def test_an_edge_that_is_near_is_liked_better() -> None:
    found = seen({"a": 0.3, "b": 0.3}, near="b")
    assert found["b"][0] > 4 * found["a"][0]


def test_the_edge_that_a_player_is_on_is_there_also_among_very_many() -> None:
    many = {f"e{number}": 0.3 for number in range(300)}
    for current in ("e7", "e299"):
        found = seen(many, current=current)
        assert current in found
        assert len(found) < 300
    assert "nobody" not in seen(many, current="nobody")
