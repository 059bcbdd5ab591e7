"""Viewers behind proxies are the same ones on both ways, and told apart on one connection."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.runtime.proxies import Proxies, ProxySettings
from tests.unit.edge.lines import Line, Node, get, settle

PROXIES = Proxies(ProxySettings(trusted=["10.0.0.0/8"]), "edge.proxies")
PLAYLIST = "/cmaf/live/1.m3u8"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = await Node(tmp_path, proxies=PROXIES).start()
    yield made
    await made.close()


def from_(*addresses: str) -> bytes:
    return b"X-Forwarded-For: " + ", ".join(addresses).encode()


def peers(node: Node) -> list[str]:
    return sorted(session.peer for session in node.sessions._all.values())


async def test_viewers_of_one_connection_of_a_proxy_have_visits_of_their_own(node: Node) -> None:
    line = await Line(node.quick, "10.0.0.1").feed(
        get(PLAYLIST, from_("192.0.2.1")), get(PLAYLIST, from_("192.0.2.2"))
    )
    assert peers(node) == ["192.0.2.1", "192.0.2.2"]
    assert node.bypass.answered == 0
    await line.feed(*[get(PLAYLIST, from_(f"192.0.2.{number}")) for number in (1, 2, 1)])
    assert node.bypass.answered == 3
    assert peers(node) == ["192.0.2.1", "192.0.2.2"]
    sizes = {session.peer: session.bytes for session in node.sessions._all.values()}
    assert sizes["192.0.2.1"] * 2 == sizes["192.0.2.2"] * 3


async def test_a_viewer_cannot_send_in_the_name_of_another(node: Node) -> None:
    await Line(node.quick, "10.0.0.1").feed(get(PLAYLIST, from_("192.0.2.1")))
    forged = get(PLAYLIST, from_("192.0.2.1"))
    line = await Line(node.quick, "198.51.100.6").feed(forged)
    await line.feed(forged)
    assert node.bypass.answered == 1, "the second time it is known, by its own address"
    through = get(PLAYLIST, from_("192.0.2.1", "198.51.100.7"))
    await Line(node.quick, "10.0.0.1").feed(through, through)
    assert peers(node) == ["192.0.2.1", "198.51.100.6", "198.51.100.7"]


async def test_a_request_that_waits_is_answered_in_its_viewers_name(node: Node) -> None:
    lines = [Line(node.quick, "10.0.0.2") for _ in range(2)]
    for number, line in enumerate(lines):
        await line.feed(get(PLAYLIST, from_(f"192.0.2.{number}")))
        line.transport.taken.clear()
        later = get(f"{PLAYLIST}?_HLS_msn=2&_HLS_part=6", from_(f"192.0.2.{number}"))
        await line.feed(later)
        assert line.taken == b""
    node.run(2)
    await settle()
    assert all(b"200 OK" in line.taken for line in lines)
    assert node.bypass.answered == 2
    assert peers(node) == ["192.0.2.0", "192.0.2.1"]
