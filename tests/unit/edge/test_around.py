"""Who else is there, and who is sent where."""

import asyncio
from collections import Counter
from pathlib import Path

from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import NodeEntry
from edge.around import Around, Peer, Watch


def around(**weights: float) -> Around:
    return Around("e0", peers=tuple(Peer(n, f"http://{n}", w) for n, w in weights.items()))


def test_viewers_are_spread_in_proportion_to_what_siblings_can_carry() -> None:
    here = around(e1=1e9, e2=3e9)
    given = Counter(here.sibling(str(n)).name for n in range(4000))  # type: ignore[union-attr]
    assert 2880 < given["e2"] < 3120


def test_a_viewer_keeps_its_sibling_while_that_is_there() -> None:
    before, after = around(e1=1, e2=1, e3=1), around(e1=1, e2=1)
    for key in map(str, range(300)):
        old, new = before.sibling(key), after.sibling(key)
        assert old == before.sibling(key)
        assert old is not None
        assert old.name == "e3" or old == new
    assert before.sibling("x", ["e1", "e2", "e3"]) is None


def test_what_is_told_is_what_is_heard() -> None:
    here = Around("e0", "http://b", (Peer("e1", "http://e1", 2.0),), draining=True, timeout=9.0)
    assert Around.heard(here.told(9.0)) == here


async def test_the_registry_says_who_is_there_and_whether_to_drain(tmp_path: Path) -> None:
    registry = EmbeddedRegistry(tmp_path)
    entries = [
        NodeEntry("e0", "edge", {"http": "h:1"}),
        NodeEntry("e1", "edge", {"http": "h:2"}, {"bits_per_second": 5.0}),
        NodeEntry("e2", "edge", {"http": "https://e2.example"}),
        NodeEntry("b", "balancer", {"http": "h:8042"}),
        NodeEntry("o", "origin", {"http": "h:4242"}),
    ]
    for entry in entries:
        await registry.register(entry)
    heard: asyncio.Queue[Around] = asyncio.Queue()
    task = asyncio.create_task(Watch(registry, "e0", "").run(heard.put_nowait))
    async with asyncio.timeout(5):
        first = await heard.get()
        assert first.balancer == "http://h:8042"
        assert first.peers == (Peer("e1", "http://h:2", 5.0), Peer("e2", "https://e2.example", 1.0))
        assert not first.draining
        await registry.drain("e1", True)
        assert [peer.name for peer in (await heard.get()).peers] == ["e2"]
        await registry.register(NodeEntry("far", "edge", {"http": "h:9"}, datacenter="far"))
        await registry.drain("e0", True, 7.0)
        told = await heard.get()
        assert (told.draining, told.timeout) == (True, 7.0)
        assert [peer.name for peer in told.peers] == ["e2"], "another datacenter is the last resort"
        await registry.drain("e0", False)
        assert not (await heard.get()).draining
        await registry.drain("e2", True)
        assert [peer.name for peer in (await heard.get()).peers] == ["far"]
    task.cancel()


async def test_the_setting_names_the_balancer(tmp_path: Path) -> None:
    heard: asyncio.Queue[Around] = asyncio.Queue()
    watch = Watch(EmbeddedRegistry(tmp_path), "e0", "https://live.example/")
    task = asyncio.create_task(watch.run(heard.put_nowait))
    assert (await asyncio.wait_for(heard.get(), 5)).balancer == "https://live.example"
    task.cancel()
