"""``headwater drain`` and ``undrain``."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from common.errors import NodeUnavailable
from common.runtime import cli, draining, http, listen
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import NodeEntry


@pytest.fixture
def registry(tmp_path: Path) -> EmbeddedRegistry:
    return EmbeddedRegistry(tmp_path / "registry")


async def test_the_progress_is_shown_until_nobody_is_left(
    registry: EmbeddedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "INTERVAL", 0.001)
    figures = iter([(False, 0), (True, 3), (True, 3), (True, 1), (True, 0)])
    listener = listen.bind("127.0.0.1:0")

    async def node(_: web.Request) -> web.Response:
        seen, left = next(figures)
        return web.json_response({"node": "e1", "draining": seen, "sessions": left})

    runner = await http.serve(http.application([web.get("/api/v1/node", node)]), listener)
    await registry.register(NodeEntry("e1", "edge", {"admin": listen.authority(listener)}))
    said: list[str] = []
    assert await draining.drain(registry, "e1", 60.0, wait=True, tell=said.append)
    await runner.cleanup()
    words = [line.partition("s  ")[2] for line in said]
    assert words == ["3 viewers left on e1", "1 viewer left on e1", "e1 is empty"]
    (entry,) = await registry.nodes()
    assert (entry.draining, entry.drain_timeout) == (True, 60.0)


async def test_a_drain_that_does_not_end_in_time_says_so(
    registry: EmbeddedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "INTERVAL", 0.001)
    monkeypatch.setattr(draining, "LAST_WORDS", 0.01)
    await registry.register(NodeEntry("e1", "edge", {"admin": "127.0.0.1:1"}))
    said: list[str] = []
    assert not await draining.drain(registry, "e1", 0.01, wait=True, tell=said.append)
    assert "neither it nor a balancer" in said[0]


async def test_only_a_live_edge_is_drained(registry: EmbeddedRegistry) -> None:
    await registry.register(NodeEntry("e1", "edge", {}))
    await registry.register(NodeEntry("o1", "origin", {}))
    for name in ("e2", "o1"):
        with pytest.raises(NodeUnavailable, match="there are: e1"):
            await draining.drain(registry, name, 1.0, wait=False)
        with pytest.raises(NodeUnavailable, match="there are: e1"):
            await draining.undrain(registry, name)


async def test_the_command_line_sets_the_flag_and_takes_it_back(
    registry: EmbeddedRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    await registry.register(NodeEntry("e1", "edge", {}))
    where = ["--set", f"node.registry={tmp_path / 'registry'}"]
    command = ["drain", "e1", "--timeout", "2m", *where]
    assert await asyncio.to_thread(cli.main, command) == 0
    assert [(n.draining, n.drain_timeout) for n in await registry.nodes()] == [(True, 120.0)]
    assert await asyncio.to_thread(cli.main, ["undrain", "e1", *where]) == 0
    assert not (await registry.nodes())[0].draining
    assert await asyncio.to_thread(cli.main, ["drain", "nobody", *where]) == 1
    assert "no live edge is called 'nobody'" in capsys.readouterr().err
