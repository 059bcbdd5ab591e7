"""Names of streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.names import MAX_NAME, base_name, check_name


@pytest.mark.parametrize(
    "name",
    ["live", "live+alice", "a", "4k.hdr_1-x", "live+Ab.=_-9", "x" * 100, "live+" + "x" * 100],
)
def test_a_name_of_the_grammar_is_returned_as_it_is(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "+alice", "live+", "Live", ".live", "a..b", "live+..", "a/b", "a\0b", "live+a+b"),
        *("live\n", " live", "x" * 101, "live+" + "x" * 101, "a%2fb", "live+a/b", "ä"),
    ],
)
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="a stream name is"):
        check_name(name)


@given(st.text(max_size=250))
def test_a_name_that_passes_is_safe_in_paths_topics_and_urls(name: str) -> None:
    try:
        check_name(name)
    except FormatError:
        return
    assert len(name) <= MAX_NAME
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set("/\\\0 ~%?#&")
    assert ".." not in name


def test_a_wildcard_stream_belongs_to_its_base() -> None:
    assert base_name("live+alice") == "live"
    assert base_name("live") == "live"
