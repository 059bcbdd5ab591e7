"""Origins as encoders are told of them."""

import pytest

from balancer.ingest import Found, check_form, said
from balancer.nodes import NodeTable, Registration
from common.errors import FormatError, NodeUnavailable


def found(**endpoints: str) -> Found:
    table = NodeTable()
    given = Registration("o1", "https://o1.test:4242", 1e9, 100, endpoints=endpoints)
    table.register(given, 0.0)
    return Found(table.nodes["o1"], "owner", [])


def test_an_encoder_gets_a_url_that_it_takes_as_it_is() -> None:
    origin = found(rtmp="rtmp://o1.test:1935", srt="[::1]:8889")
    assert said(origin, "live+anna", "k~1", "rtmp") == "rtmp://o1.test:1935/live+anna/k~1"
    assert said(origin, "live", "", "rtmp") == "rtmp://o1.test:1935/live"
    assert said(origin, "live", "k", "srt") == (
        "srt://[::1]:8889?streamid=%23%21%3A%3Am%3Dpublish%2Cr%3Dlive%2Cs%3Dk"
    )
    assert said(origin, "live", "k", "http") == "https://o1.test:4242/"
    assert said(origin, "live", "k", "host") == "o1.test"


def test_an_input_that_the_origin_has_not_is_not_promised() -> None:
    with pytest.raises(NodeUnavailable, match="nothing over srt"):
        said(found(rtmp="o1.test:1935"), "live", "k", "srt")


def test_a_form_that_is_none_is_refused_with_those_there_are() -> None:
    check_form("srt")
    with pytest.raises(FormatError, match="host, rtmp, srt or http"):
        check_form("rtsp")
