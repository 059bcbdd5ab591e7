"""What a player asks a balancer, made by an edge."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.wire.steering import HLS_PREFIX, MAX_PATHWAYS, MAX_URIS, Ask, pathway_of, server_uri


def query(uri: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(uri).query))


def test_the_balancer_reads_what_the_edge_wrote() -> None:
    named = (["1.m3u8", "a/2.m3u8"], ["3.m3u8"], ["e1", "e2"])
    uri = server_uri("http://b", "/cmaf/live+a/index.m3u8", *named)
    assert urlsplit(uri).path == f"{HLS_PREFIX}/cmaf/live+a/index.m3u8"
    ask = Ask.of({**query(uri), "_HLS_pathway": "e2", "_HLS_throughput": "5000"}, "HLS")
    assert ask == Ask(("1.m3u8", "a/2.m3u8"), ("3.m3u8",), ("e1", "e2"), "", "e2", 5000.0)


def test_quotes_and_lists_of_players_are_understood() -> None:
    assert Ask.of({"_HLS_pathway": '"e2"'}, "HLS").current == "e2"
    told = {"_DASH_pathway": '"e1,e3"', "_DASH_throughput": '"100,200"'}
    ask = Ask.of(told, "DASH")
    assert (ask.current, ask.throughput) == ("e3", 200.0)
    assert Ask.of({}, "HLS") == Ask()


@pytest.mark.parametrize(
    "wrong",
    [
        {"variants": "../secret"},
        {"renditions": "http://evil/x.m3u8"},
        {"variants": "/1.m3u8"},
        {"variants": ",".join(["1.m3u8"] * (MAX_URIS + 1))},
        {"pathways": "a b"},
        {"pathways": ",".join(["e"] * (MAX_PATHWAYS + 1))},
        {"session": "x" * 300},
        {"_HLS_pathway": "<script>"},
        {"_HLS_throughput": "fast"},
        {"_HLS_throughput": "nan"},
        {"_HLS_throughput": "-1"},
    ],
)
def test_what_has_another_form_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        Ask.of(wrong, "HLS")


NAMES = ["variants", "pathways", "session", "_HLS_pathway", "_HLS_throughput"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=40)))
def test_garbage_raises_nothing_else(garbage: dict[str, str]) -> None:
    try:
        Ask.of(garbage, "HLS")
    except FormatError:
        return


@given(st.text(max_size=300))
def test_every_name_of_a_node_makes_a_legal_pathway(name: str) -> None:
    assert Ask.of({"_HLS_pathway": pathway_of(name)}, "HLS").current == pathway_of(name)
