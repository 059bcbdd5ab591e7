"""What a balancer answers, in one process, with nodes that are sockets of the test."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import zmq

from balancer import app
from balancer.config import BalancerSettings, Config
from common.runtime import ready
from common.runtime.config import NodeSettings
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import NodeEntry
from common.wire.gossip import Gossip, encode_gossip


class Peers:
    """Nodes that register and gossip as a test says, all on one socket."""

    def __init__(self, registry: EmbeddedRegistry) -> None:
        self.reports: dict[str, Gossip] = {}
        self._registry = registry
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.linger = 0
        self.gossip = f"127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._sequence = 0
        self._task = asyncio.create_task(self._run())

    async def add(self, role: str, name: str, report: Gossip | None = None, **entry: Any) -> None:
        ends = {"http": f"{name}.test:80", "gossip": self.gossip, "rtmp": f"{name}.test:1935"}
        entry = {"endpoints": ends, "capacity": {"bits_per_second": 1e8, "sessions": 100}, **entry}
        await self._registry.register(NodeEntry(name=name, role=role, **entry))
        self.reports[name] = report or Gossip(name, 1, 0, 0, 0.0, 0, 0.0, 0.0)

    async def _run(self) -> None:
        while True:
            self._sequence += 1
            for report in self.reports.values():
                now = dataclasses.replace(report, sequence=self._sequence)
                self._socket.send_multipart(encode_gossip(now))
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._socket.close()
        self._context.term()


@pytest.fixture
async def registry(tmp_path: Path) -> EmbeddedRegistry:
    return EmbeddedRegistry(tmp_path / "registry")


@pytest.fixture
async def peers(registry: EmbeddedRegistry) -> AsyncIterator[Peers]:
    made = Peers(registry)
    yield made
    await made.close()


class Client:
    """Asks the balancer."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url

    async def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        """Return status, text and Location."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.get(self.url + path, headers=named, allow_redirects=False) as answer:
            return answer.status, await answer.text(), answer.headers.get("Location", "")

    async def json(self, path: str, **headers: str) -> Any:
        status, text, _ = await self.get(path, **headers)
        assert status == 200, text
        return json.loads(text)

    async def until(self, path: str, true: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(10):
            while True:
                if true(found := await self.json(path)):
                    return found
                await asyncio.sleep(0.02)

    async def eligible(self, *names: str) -> None:
        await self.until(
            "/api/v1/nodes",
            lambda nodes: {one["node"] for one in nodes if not one["refused"]} == {*names},
        )


@contextlib.asynccontextmanager
async def balancer(folder: Path, name: str = "balancer", **settings: Any) -> AsyncIterator[Client]:
    node = NodeSettings(
        name=name,
        run=str(folder / "run"),
        registry=str(folder / "registry"),
        keys=str(folder / f"{name}.key"),
        datacenter="ams",
    )
    given = {"http": "127.0.0.1:0", "gossip": "127.0.0.1:0", **settings}
    task = asyncio.create_task(app.run(Config(node=node, balancer=BalancerSettings(**given))))
    while (found := ready.read(node.run, name)) is None:
        assert not task.done(), task.result()
        await asyncio.sleep(0.01)
    try:
        async with aiohttp.ClientSession() as http:
            yield Client(http, f"http://{found.endpoints['http']}")
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def report(name: str, **fields: Any) -> Gossip:
    given = {"bandwidth": 0.0, "sessions": 0, "cpu": 0.0, "memory": 0.0, **fields}
    return Gossip(name, 1, 0, 0, **given)


STREAMS = {"streams": ("live", "live+a"), "viewers": (20, 5), "bits": (16e6, 1e6)}


async def test_queries_of_mistserver_are_answered(tmp_path: Path, peers: Peers) -> None:
    await peers.add("edge", "one", report("one", sessions=25, bandwidth=17e6, cpu=0.1, **STREAMS))
    await peers.add("edge", "two", report("two", cpu=0.6))
    async with balancer(tmp_path) as client:
        await client.eligible("one", "two")
        assert (await client.get("/live"))[:2] == (200, "one.test")
        status, _, where = await client.get("/live?proto=HLS&tkn=x&not=two")
        assert (status, where) == (307, "http://one.test:80/cmaf/live/index.m3u8?tkn=x")
        assert (await client.get("/live?proto=MP4"))[2] == "http://one.test:80/live.mp4"
        assert (await client.get("/live?proto=nothing"))[0] == 400
        assert (await client.get("/live?not=one,two"))[1] == "FULL"
        assert (await client.get("/live?not=one,two&fallback=else.test"))[1] == "else.test"
        assert await client.json("/?viewers=1") == {"live": 20, "live+a": 5}
        stats = await client.json("/?streamstats=live")
        assert stats["live"] == [20, 100_000, 2_000_000, 0]
        assert (await client.get("/?stream=live%2Ba"))[1] == "5"
        assert (await client.json("/?lstserver=1"))["one"] == "Monitored (online)"
        state = await client.json("/?host=one.test")
        assert (state["cpu"], state["viewers"], state["streams"]) == (10, 25, 2)
        assert {*await client.json("/")} == {"one.test", "two.test"}
        assert (await client.get("/?source=live&fallback=none"))[1] == "none"
        assert (await client.get("/?delserver=one"))[0] == 400


async def test_weights_are_shown_to_all_and_changed_by_those_who_may(
    tmp_path: Path, peers: Peers
) -> None:
    await peers.add("edge", "one", report("one", cpu=0.5))
    async with balancer(tmp_path, token="secret") as client:
        await client.eligible("one")
        weights = await client.json("/?weights=")
        assert (weights["cpu"], weights["geo"], weights["bonus"]) == (1000, 300, 50)
        assert (await client.json('/?weights={"cpu":0}'))["cpu"] == 0
        assert (await client.json("/api/v1/nodes"))[0]["load"] == 0
        proxied = {"X_Forwarded_For": "192.0.2.1"}
        assert (await client.get('/?weights={"cpu":1}', **proxied))[0] == 403
        assert (await client.get('/?weights={"cpu":1}', **proxied, Authorization="Bearer secret"))[
            0
        ] == 200
        for wrong in ('{"cup":1}', "[1]", '{"cpu":-5}', "{"):
            assert (await client.get(f"/?weights={wrong}"))[0] == 400, wrong


async def test_what_is_known_of_a_viewer_decides_and_is_explained(
    tmp_path: Path, peers: Peers
) -> None:
    await peers.add("edge", "ams", datacenter="ams", location=(52.4, 4.9), tags=("proto:mp4",))
    await peers.add("edge", "nyc", datacenter="nyc", location=(40.7, -74.0), tags=("big",))
    async with balancer(tmp_path) as client:
        await client.eligible("ams", "nyc")

        async def chosen(query: str = "", **headers: str) -> str:
            return str(
                (await client.json(f"/api/v1/explain?stream=live{query}", **headers))["node"]
            )

        assert await chosen() == "ams", "the datacenter of the balancer"
        assert await chosen("&lat=41&lon=-70") == "nyc"
        assert await chosen(X_Latitude="41", X_Longitude="-70") == "nyc"
        assert await chosen(X_Tag_Adjust='{"big": 500}') == "nyc"
        assert await chosen("&not=ams") == "nyc"
        assert await chosen("&protocol=mp4") == "ams"
        said = await client.json("/api/v1/explain?stream=live&lat=41&lon=-70")
        terms = {one["node"]: one for one in said["candidates"]}
        assert terms["ams"]["geography"] == 0.3
        assert terms["nyc"]["geography"] < 0.05
        nodes = await client.json("/api/v1/nodes")
        assert {one["pending_sessions"] for one in nodes} == {0}, "asking why sends nobody"
        edge = await client.json("/api/v1/edge?stream=live")
        assert (edge["node"], edge["alternatives"]) == ("ams", ["http://nyc.test:80"])


async def test_a_publisher_goes_to_the_owner_then_to_a_standby_then_to_the_emptiest(
    tmp_path: Path, registry: EmbeddedRegistry, peers: Peers
) -> None:
    await peers.add("origin", "o1", report("o1", cpu=0.5))
    await peers.add("origin", "o2", report("o2", cpu=0.3))
    await peers.add("origin", "o3", report("o3", cpu=0.1))
    async with balancer(tmp_path) as client:
        await client.until(
            "/api/v1/origins", lambda all_: [one["refused"] for one in all_] == ["", "", ""]
        )
        free = await client.json("/api/v1/ingest?stream=live&key=k")
        assert (free["node"], free["reason"]) == ("o3", "least loaded")
        assert free["urls"]["rtmp"] == "rtmp://o3.test:1935/live/k"
        assert [one["node"] for one in free["alternatives"]] == ["o2", "o1"]
        await registry.stand_by("live", "o2", {})
        await registry.acquire("live", "o1", {})
        owner = await client.json("/api/v1/ingest?stream=live")
        assert (owner["node"], owner["reason"]) == ("o1", "owner")
        second = await client.json("/api/v1/ingest?stream=live&not=o1")
        assert (second["node"], second["reason"]) == ("o2", "standby")
        assert (await client.get("/api/v1/ingest?stream=live&as=host"))[1] == "o1.test"
        assert (await client.get("/api/v1/ingest?stream=live&as=rtmp"))[1] == (
            "rtmp://o1.test:1935/live"
        )
        assert (await client.get("/api/v1/ingest?stream=live&as=srt"))[0] == 503
        assert (await client.get("/?source=live"))[1] == "dtsc://o1.test"
        assert (await client.get("/?ingest=20"))[1] in ("o2.test", "o3.test")
        assert (await client.get("/?ingest=much"))[0] == 400
        named = "/?ingest=20&stream_name=live&key=k&as="
        assert (await client.get(named + "host"))[1] == "o1.test"
        assert (await client.get(named + "rtmp"))[1] == "rtmp://o1.test:1935/live/k"
        assert (await client.get(named + "srt"))[1] == "FULL", "none of them has that input"
        assert (await client.get(named + "json"))[0] == 400
        assert (await client.get("/?ingest=20&as=rtmp"))[0] == 400, "for which stream?"
        async with client.http.put(
            f"{client.url}/live.mp4?x=1", data=b"", allow_redirects=False
        ) as answer:
            assert answer.headers["Location"] == "http://o1.test:80/live.mp4?x=1"


async def test_where_nobody_can_serve_a_viewer_is_passed_on_once(
    tmp_path: Path, peers: Peers
) -> None:
    await peers.add("edge", "one", report("one", sessions=100))
    async with balancer(tmp_path, elsewhere=["https://nyc.test"]) as client:
        await client.until("/api/v1/nodes", lambda all_: [o["refused"] for o in all_] == ["full"])
        status, _, where = await client.get("/~t/live.mp4?a=b")
        assert (status, where) == (307, "https://nyc.test/~t/live.mp4?a=b&not=balancer")
        status, text, _ = await client.get("/live.mp4?not=balancer")
        assert (status, "one: full" in text) == (503, True)
        async with client.http.get(f"{client.url}/metrics") as answer:
            metrics = await answer.text()
    assert 'headwater_redirects_refused_total{reason="full"}' in metrics
    assert 'headwater_node_load{node="one"}' in metrics


async def test_two_balancers_count_each_other_while_both_live(tmp_path: Path) -> None:
    async with balancer(tmp_path, "b1") as first:

        async def count(wanted: str) -> None:
            async with asyncio.timeout(10):
                while True:
                    if f"headwater_balancers {wanted}\n" in (await first.get("/metrics"))[1]:
                        return
                    await asyncio.sleep(0.05)

        await count("1.0")
        async with balancer(tmp_path, "b2"):
            await count("2.0")
        await count("1.0")
