"""The embedded registry, also across processes."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError, FormatError, NodeUnavailable, StreamBusy
from common.runtime import embedded
from common.runtime.embedded import EmbeddedRegistry, start_time
from common.runtime.registry import NodeEntry

PROGRAM = """
import asyncio, sys
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import NodeEntry

async def main(folder, node, stream):
    shared = EmbeddedRegistry(folder)
    await shared.register(NodeEntry(name=node, role="origin", endpoints={"bus": "x"}))
    owner = await shared.acquire(stream, node, {"bus": "x"})
    print(owner.term, flush=True)
    sys.stdin.read()

asyncio.run(main(*sys.argv[1:]))
"""


class Other:
    """Another process that registers a node and acquires a stream."""

    def __init__(self, folder: Path, node: str, stream: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), node, stream],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.term = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


async def test_a_node_is_known_until_it_leaves(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path)
    entry = NodeEntry(name="e/1", role="edge", endpoints={"http": "h:1"}, capacity={"cores": 2.0})
    await shared.register(entry)
    assert await EmbeddedRegistry(tmp_path).nodes("edge") == [entry]
    assert await shared.nodes("origin") == []
    await shared.unregister("e/1")
    assert await shared.nodes() == []


async def test_a_dead_node_is_not_listed_and_its_stream_can_be_taken_over(tmp_path: Path) -> None:
    other = Other(tmp_path, "o1", "live")
    shared = EmbeddedRegistry(tmp_path)
    assert [node.name for node in await shared.nodes("origin")] == ["o1"]
    with pytest.raises(StreamBusy, match="already published on o1"):
        await shared.acquire("live", "o2", {})
    with pytest.raises(ConfigError, match="runs as process"):
        await shared.register(NodeEntry(name="o1", role="origin", endpoints={}))
    other.kill()
    assert await shared.nodes() == []
    assert await shared.owner("live") is None
    owner = await shared.acquire("live", "o2", {})
    assert owner.term > other.term
    assert (await shared.owners()) == [owner]


async def test_a_stream_is_taken_from_a_living_owner_whose_term_is_named(tmp_path: Path) -> None:
    other = Other(tmp_path, "o1", "live")
    shared = EmbeddedRegistry(tmp_path)
    with pytest.raises(StreamBusy):
        await shared.acquire("live", "o2", {}, over=other.term - 1)
    owner = await shared.acquire("live", "o2", {}, epoch=7, over=other.term)
    assert (owner.node, owner.epoch) == ("o2", 7)
    assert owner.term > other.term
    assert await shared.owner("live") == owner
    other.kill()


async def test_terms_and_epochs_rise_even_if_the_clock_stands(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path, clock=lambda: 1000)
    first = await shared.acquire("live", "o", {})
    await shared.release(first)
    second = await shared.acquire("live", "o", {})
    assert (first.term, second.term) == (1000, 1001)
    assert (first.epoch, second.epoch) == (1000, 1001)


async def test_a_numbering_that_goes_on_keeps_its_epoch(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path)
    first = await shared.acquire("live", "o", {})
    second = await shared.acquire("live", "o", {}, epoch=first.epoch)
    assert second.epoch == first.epoch
    assert second.term > first.term


async def test_who_lost_a_stream_cannot_release_it(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path)
    first = await shared.acquire("live", "o", {})
    second = await shared.acquire("live", "o", {})
    await shared.release(first)
    assert await shared.owner("live") == second
    await shared.release(second)
    assert await shared.owner("live") is None


async def test_two_nodes_of_one_process_are_two_nodes(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path)
    await shared.acquire("live", "o1", {})
    with pytest.raises(StreamBusy):
        await shared.acquire("live", "o2", {})


async def test_segment_numbers_are_given_once_and_survive_release(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path)
    assert await shared.reserve_segments("live", 10) == 0
    owner = await shared.acquire("live", "o", {})
    await shared.release(owner)
    assert await shared.reserve_segments("live", 1) == 10
    assert await shared.reserve_segments("live", 5, at_least=100) == 100
    assert await shared.reserve_segments("live", 5, at_least=1) == 105


async def test_many_at_once_get_different_numbers(tmp_path: Path) -> None:
    parties = [EmbeddedRegistry(tmp_path) for _ in range(8)]
    numbers = await asyncio.gather(
        *(party.reserve_segments("live", 1) for party in parties for _ in range(10))
    )
    assert sorted(numbers) == list(range(80))


async def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path)
    (tmp_path / "nodes" / "x.json").write_text('{"name": ')
    (tmp_path / "streams" / "live.json").write_text("[]")
    assert await shared.nodes() == []
    assert await shared.owner("live") is None
    assert (await shared.acquire("live", "o", {})).node == "o"


async def test_a_name_outside_the_grammar_reaches_no_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        await EmbeddedRegistry(tmp_path).acquire("../x", "o", {})


async def test_a_lock_that_is_never_released_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT", 0.02)
    shared = EmbeddedRegistry(tmp_path)
    with shared._locked(), pytest.raises(NodeUnavailable, match="is locked"):
        await shared.reserve_segments("live", 1)


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path)
    await shared.acquire("live", "o", {})
    assert (tmp_path / "streams" / "live.json").stat().st_mode & 0o777 == 0o600


def test_a_process_that_ended_has_no_start_time() -> None:
    assert start_time(os.getpid()) > 0
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()  # the end of its output: it is gone, or a zombie in a moment
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(process.pid) == 0
    process.communicate()
    assert start_time(process.pid) == 0


async def test_what_a_node_says_of_itself_comes_back_as_it_was(tmp_path: Path) -> None:
    told = NodeEntry(
        "e1",
        "edge",
        {"http": "h:1"},
        {"cores": 2.0},
        datacenter="ams",
        tags=("ssd", "cheap"),
        location=(52.37, 4.9),
        key="k" * 40,
    )
    await EmbeddedRegistry(tmp_path).register(told)
    assert await EmbeddedRegistry(tmp_path).nodes() == [told]


async def test_a_node_drains_until_that_is_taken_back(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path)
    with pytest.raises(NodeUnavailable, match="'e1'"):
        await shared.drain("e1", True)
    entry = NodeEntry(name="e1", role="edge", endpoints={})
    await shared.register(entry)
    await shared.drain("e1", True, 7.5)
    await shared.unregister("e1")
    await shared.register(entry)  # started again
    (found,) = await shared.nodes("edge")
    assert (found.draining, found.drain_timeout) == (True, 7.5)
    await shared.drain("e1", False)
    assert await shared.nodes("edge") == [entry]


async def test_who_stands_by_is_known_while_it_lives(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path)
    await shared.stand_by("live", "o2", {"bus": "tcp://h:1"})
    await shared.stand_by("live+a", "o2", {})
    assert [(s.node, s.endpoints) for s in await shared.standbys("live")] == [
        ("o2", {"bus": "tcp://h:1"})
    ]
    await shared.stand_down("live", "o2")
    assert await shared.standbys("live") == []
    assert [s.stream for s in await shared.standbys("live+a")] == ["live+a"]


async def test_definitions_of_streams_are_kept_until_deleted(tmp_path: Path) -> None:
    shared = EmbeddedRegistry(tmp_path)
    await shared.define("live", {"key": "k"})
    assert await EmbeddedRegistry(tmp_path).definitions() == {"live": {"key": "k"}}
    await shared.define("live", None)
    assert await shared.definitions() == {}
    with pytest.raises(FormatError):
        await shared.define("../x", {})
