"""What proxies say of those behind them, well-formed and not."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.formats import forwarded


def test_elements_of_rfc_7239_are_read_with_quotes_and_over_lines() -> None:
    said = forwarded.elements(
        [
            'For="[2001:db8:cafe::17]:4711";proto=https',
            'for=192.0.2.60;by=203.0.113.43;host="a\\"b"',
        ]
    )
    assert said == [
        {"for": "[2001:db8:cafe::17]:4711", "proto": "https"},
        {"for": "192.0.2.60", "by": "203.0.113.43", "host": 'a"b'},
    ]
    assert forwarded.elements([]) == [{}]


@pytest.mark.parametrize(
    "value",
    [
        "for",
        "for=a;for=b",
        "for=a;;proto=b",
        "for=a,",
        'for="a',
        "for=a b",
        ",".join(["for=a"] * 17),
    ],
)
def test_a_field_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(FormatError):
        forwarded.elements([value])


@given(st.lists(st.text(st.characters(max_codepoint=0x17F), max_size=60), max_size=3))
def test_any_text_is_read_or_refused(values: list[str]) -> None:
    for read in (forwarded.elements, forwarded.listed):
        with contextlib.suppress(FormatError):
            assert len(read(values)) <= forwarded.MAX_HOPS
    for value in values:
        assert forwarded.address(value).count(" ") == 0
        assert forwarded.base(value) in ("", value.rstrip("/"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", ""),
        ("unknown", ""),
        ("_gazonk", ""),
        ("", ""),
    ],
)
def test_a_hop_is_an_address_or_nothing(text: str, found: str) -> None:
    assert forwarded.address(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://live.example.org/", "https://live.example.org"),
        ("http://[2001:db8::1]:8080/a/b/", "http://[2001:db8::1]:8080/a/b"),
        ("https://live.example.org/a?b", ""),
        ("https://live.example.org/<script>", ""),
        ("https://live.example.org/a/../b", ""),
        ('https://live.example.org/";alert(1)//', ""),
        ("javascript:alert(1)", ""),
        ("https://user@example.org/", ""),
        ("https://live.example.org/" + "a" * 500, ""),
        ("//live.example.org/", ""),
    ],
)
def test_a_base_is_a_plain_url(text: str, found: str) -> None:
    assert forwarded.base(text) == found
