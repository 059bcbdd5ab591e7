import dataclasses

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError
from common.wire.gossip import MAX_GOSSIP, MAX_STREAMS, Gossip, decode_gossip, encode_gossip

COUNT = st.integers(0, 2**63 - 1)
SHARE = st.floats(0, 1)
REPORTS = st.builds(
    Gossip,
    node=st.text("abcdef-0123", min_size=1, max_size=20),
    boot=COUNT,
    sequence=COUNT,
    unix_ms=COUNT,
    bandwidth=st.floats(0, 1e12),
    sessions=COUNT,
    cpu=SHARE,
    memory=SHARE,
    draining=st.booleans(),
    accepted=COUNT,
    refused=COUNT,
    streams=st.just(("a", "b", "c")),
    viewers=st.lists(COUNT, max_size=3).map(tuple),
    bits=st.lists(st.floats(0, 1e12), max_size=3).map(tuple),
    restarting=st.floats(0, 60),
)
REPORT = Gossip(
    "edge-1", 5, 1, 1000, 4e6, 3, 0.5, 0.25, True, 7, 2, ("live", "live+a"), (2, 1), (3e6, 1e6), 2.5
)


@given(REPORTS)
def test_a_report_comes_back_as_it_was(report: Gossip) -> None:
    assert decode_gossip(encode_gossip(report)) == report


def test_the_layout_is_the_one_the_docstring_promises() -> None:
    topic, body = encode_gossip(REPORT)
    assert topic == b"Gedge-1\0"
    assert msgpack.unpackb(body) == [
        1, "edge-1", 5, 1, 1000, 4e6, 3, 0.5, 0.25, 1, 7, 2, ["live", "live+a"], [2, 1], [3e6, 1e6],
        2.5,
    ]  # fmt: skip


def test_fields_of_a_later_version_are_ignored() -> None:
    topic, body = encode_gossip(REPORT)
    more = msgpack.packb([*msgpack.unpackb(body), "new"])
    assert decode_gossip([topic, more]) == REPORT


def test_a_report_of_the_version_without_figures_is_understood() -> None:
    topic, body = encode_gossip(REPORT)
    old = msgpack.packb(msgpack.unpackb(body)[:13])
    known = dataclasses.replace(REPORT, viewers=(), bits=(), restarting=0.0)
    assert decode_gossip([topic, old]) == known


def test_a_report_of_the_version_without_restarts_is_understood() -> None:
    topic, body = encode_gossip(REPORT)
    old = msgpack.packb(msgpack.unpackb(body)[:15])
    assert decode_gossip([topic, old]) == dataclasses.replace(REPORT, restarting=0.0)


def test_streams_with_long_names_are_left_out_before_a_report_is_too_large() -> None:
    names = tuple(f"{n:0>200}" for n in range(MAX_STREAMS))
    many = dataclasses.replace(
        REPORT, streams=names, viewers=(2**62,) * MAX_STREAMS, bits=(1e9,) * MAX_STREAMS
    )
    parts = encode_gossip(many)
    assert len(parts[1]) <= MAX_GOSSIP
    report = decode_gossip(parts)
    assert len(report.streams) > 1000
    assert len(report.streams) == len(report.viewers) == len(report.bits)


def test_an_edge_with_too_many_streams_still_reports() -> None:
    many = dataclasses.replace(REPORT, streams=tuple(f"s{n}" for n in range(MAX_STREAMS + 5)))
    assert len(decode_gossip(encode_gossip(many)).streams) == MAX_STREAMS


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_garbage_is_a_format_error_and_nothing_else(parts: list[bytes]) -> None:
    with pytest.raises(FormatError):
        decode_gossip(parts)


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, 2), (1, "other"), (2, -1), (4, 2**64 - 1), (5, float("nan")), (7, 1.5), (8, -0.1),
     (12, [1]), (12, "x"), (10, -1), (3, None),
     (13, [1, 2, 3]), (13, [-1]), (14, ["x"]), (14, [-1.0]), (13, 1),
     (15, -1), (15, "x"), (15, None), (15, float("nan")), (15, 2**63)],
)  # fmt: skip
def test_a_wrong_field_is_refused(position: int, value: object) -> None:
    topic, body = encode_gossip(REPORT)
    items = msgpack.unpackb(body)
    items[position] = value
    with pytest.raises(FormatError):
        decode_gossip([topic, msgpack.packb(items)])


def test_a_huge_body_is_refused_unread() -> None:
    topic, _ = encode_gossip(REPORT)
    with pytest.raises(FormatError, match="too large"):
        decode_gossip([topic, b"\x90" * 300_000])
