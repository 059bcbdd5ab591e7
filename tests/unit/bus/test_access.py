"""Which nodes may have a stream."""

import pytest

from common.bus.access import EVERYBODY, Access, check, fits
from common.bus.subscriptions import Subscriptions, Verdict
from common.errors import ConfigError
from common.runtime.config import StreamSettings
from common.runtime.connections import Sender
from common.runtime.registry import NodeEntry
from tests.harness.secure import Nodes

ENTRY = NodeEntry("edge-1", "edge", {}, datacenter="fra", tags=("paid", "new"))


@pytest.mark.parametrize(
    ("rule", "fitting"),
    [
        ("edge-1", True),
        ("edge-*", True),
        ("edge-2", False),
        ("edge", False),
        ("tag:paid", True),
        ("tag:pai", False),
        ("tag:*", False),
        ("datacenter:fra", True),
        ("datacenter:ams", False),
        ("zone:fra", False),
    ],
)
def test_a_rule_names_nodes(rule: str, fitting: bool) -> None:
    assert fits(rule, ENTRY) is fitting


async def test_the_entry_of_the_registry_decides() -> None:
    nodes = Nodes()
    guard = nodes.add("origin", "origin")
    nodes.add("edge", "edge", datacenter="fra")
    rules = {"paid": ["datacenter:fra", "vip"], "open": []}
    access = Access(guard, lambda stream: rules[stream])
    assert guard.roster is not None
    await guard.roster.look()
    assert access.allows("edge", "paid")
    assert not access.allows("origin", "paid")
    assert not access.allows("vip", "paid"), "its key is not in the registry"
    assert access.allows("origin", "open")
    before = access.state(rules)
    assert before == access.state(rules)
    rules["open"] = ["nobody"]
    assert before != access.state(rules)


def test_a_plain_bus_gives_a_restricted_stream_to_nobody() -> None:
    access = Access(rules_of=lambda stream: ["*"] if stream == "paid" else [])
    assert not access.allows("edge", "paid")
    assert access.allows("", "open")
    assert EVERYBODY.allows("", "paid")


@pytest.mark.parametrize("rule", ["", "tag:", "datacenter:", "zone:fra", ":x"])
def test_a_rule_that_says_nothing_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"streams\.live\.nodes"):
        check({"live": StreamSettings(open=True, nodes=[rule])}, secure=True)


def test_rules_need_nodes_that_can_be_told_apart() -> None:
    streams = {"live": StreamSettings(open=True, nodes=["edge"])}
    check(streams, secure=True)
    with pytest.raises(ConfigError, match="bus_security"):
        check(streams, secure=False)
    check({"live": StreamSettings(open=True)}, secure=False)


def test_what_is_denied_counts_and_is_judged_again() -> None:
    allowed = {"open"}
    known = Subscriptions(3, lambda node, stream: stream in allowed)
    sender = Sender("edge", 4, "a")
    assert known.subscribe(sender, b"Mpaid\0") is Verdict.IGNORE
    assert known.subscribe(sender, b"Mopen\0") is Verdict.ACCEPT
    assert b"Mpaid\0" not in known
    assert known.asked() == {"paid", "open"}
    assert known.misjudged() == []
    allowed.add("paid")
    assert known.misjudged() == [sender]
    allowed.clear()
    assert known.misjudged() == [sender]
    known.unsubscribe(sender, b"Mopen\0")
    assert known.misjudged() == []
    for number in range(2):
        assert known.subscribe(sender, b"M%d\0" % number) is Verdict.IGNORE
    assert known.subscribe(sender, b"M9\0") is Verdict.CUT
