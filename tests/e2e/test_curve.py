"""A cluster of real processes that speaks encrypted: who gets the stream, and who does not."""

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from tests.harness import viewers
from tests.harness.cluster import command_line, descendants
from tests.harness.ledger import difference
from tests.harness.media import clip, packets, push
from tests.harness.nodes import site, start

pytestmark = pytest.mark.e2e

SECONDS = 8
LIMIT = 60.0
WAIT = {"wait": '"2s"'}
"""Edges say sooner that a stream is not there."""


async def test_an_encrypted_cluster_delivers_all_frames_to_those_who_may_have_them(
    tmp_path: Path,
) -> None:
    source = clip(tmp_path / "clip.flv", SECONDS)
    rules = {"nodes": '["edge"]', "reconnect": '"1s"'}
    with site(tmp_path) as made:
        origin = made.add("origin", "origin", stream=rules, security="curve")
        edge = made.add("edge", "edge", WAIT, stream=rules, security="curve")
        other = made.add("edge", "other", WAIT, stream=rules, security="curve")
        balancer = made.add("balancer", "balancer", security="curve")
        nodes = [origin, edge, other, balancer]
        start(*nodes)
        assert all("curve" in node.endpoints for node in nodes)
        async with aiohttp.ClientSession() as http:
            watching = {
                "flv": asyncio.create_task(viewers.progressive(http, f"{edge.url}/live.flv")),
                "ws": asyncio.create_task(viewers.websocket(http, f"{edge.url}/live.mp4")),
            }
            await asyncio.sleep(0.3)
            publisher = push(source, made.ingest(origin))
            denied = await viewers.progressive(http, f"{other.url}/live.mp4")
            async with asyncio.timeout(LIMIT):
                while await redirect(http, f"{balancer.url}/live.flv") != 307:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            got = dict(zip(watching, await asyncio.gather(*watching.values()), strict=True))
            publisher.wait()
            assert denied.status == 404
            assert not list((made.pages / "other").glob("live*")), "it holds something of it"
        for name, watched in got.items():
            data = bytes(watched.data)
            assert not difference(packets(source, "video"), packets(data, "video")), name
            assert len(packets(data, "video")) == SECONDS * 25, name
            assert not difference(packets(source, "audio"), packets(data, "audio"), tick=0.0025)
        secrets = {path.read_text().strip() for path in (tmp_path / "keys").iterdir()}
        assert len(secrets) == len(nodes)
        said = [path.read_bytes() for path in tmp_path.rglob("*") if readable(path)]
        pids = [pid for node in nodes for pid in (node.pid, *descendants(node.pid))]
        said += [command_line(pid).encode() for pid in pids]
        assert not [one for one in secrets for text in said if one.encode() in text]


def readable(path: Path) -> bool:
    """Return whether this is a log, a setting or an entry of the registry."""
    return path.is_file() and path.parent.name != "keys"


async def redirect(http: aiohttp.ClientSession, url: str) -> int:
    with contextlib.suppress(aiohttp.ClientError):
        async with http.get(url, allow_redirects=False) as response:
            return response.status
    return 0
