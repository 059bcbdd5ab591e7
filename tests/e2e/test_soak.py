"""Faults at random between two datacenters: every frame is there, or was said to be lost."""

import asyncio
import contextlib
import os
import random
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.harness import viewers
from tests.harness.media import Packet, clip, packets, push
from tests.harness.netns import Space, internet
from tests.harness.nodes import Node, Site, site, start

SECONDS = int(os.environ.get("HEADWATER_SOAK", "600"))
SEED = int(os.environ.get("HEADWATER_SOAK_SEED", "1"))

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.alone,
    pytest.mark.long,
    pytest.mark.timeout(SECONDS * 2 + 300),
]


@dataclass
class Shape:
    """An origin and an edge at home; a relay and two edges that take the stream from it away."""

    home: Space
    away: Space
    origin: Node
    relay: Node
    edges: list[Node]
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))

    @classmethod
    def build(cls, made: Site, home: Space, away: Space) -> "Shape":
        home.line(away, delay=0.02, rate=50e6)
        origin = made.add("origin", "origin", stream={"reconnect": '"5s"'}, space=home)
        relay = made.add("relay", "relay", space=away)
        edges = [made.add("edge", "near", space=home)]
        edges += [made.add("edge", name, space=away) for name in ("far1", "far2")]
        for node in (origin, relay, *edges):
            where = "home" if node.space is home else "away"
            node.environment["HEADWATER_NODE__DATACENTER"] = where
        start(origin, relay, *edges)
        return cls(home, away, origin, relay, edges)

    async def harm(self) -> str:
        """Break something, mend it, and return what it was."""
        chance = self.chance
        match chance.choice(["cut", "cut", "one way", "one way", "bad", "relay", "worker"]):
            case "cut":
                seconds = chance.choice([0.3, 1, 2, 4, 8, 12])
                self.home.cut(self.away)
                await asyncio.sleep(seconds)
                self.home.heal(self.away)
                return f"no way for {seconds} s"
            case "one way":
                seconds = chance.choice([0.5, 2, 5])
                here, there = chance.sample([self.home, self.away], 2)
                here.cut(there, one_way=True)
                await asyncio.sleep(seconds)
                here.heal(there)
                return f"no way from {here.address} for {seconds} s"
            case "bad":
                self.home.line(self.away, loss=0.05, jitter=0.005, reorder=0.02, duplicate=0.01)
                await asyncio.sleep(5)
                self.home.line(self.away, loss=0.0, jitter=0.0, reorder=0.0, duplicate=0.0)
                return "a bad line for 5 s"
            case "relay":
                self.relay.kill()
                await asyncio.sleep(chance.uniform(0, 3))
                await asyncio.to_thread(self.relay.start)
                return "relay killed"
            case _:
                edge = chance.choice(self.edges)
                with contextlib.suppress(LookupError):  # its successor is not there yet
                    os.kill(edge.child("edge.worker"), signal.SIGKILL)
                return f"worker of {edge.name} killed"


async def metrics_of(edge: Node) -> str:
    assert edge.space is not None
    url = f"http://{edge.endpoints['admin']}/metrics"
    async with edge.space.http() as http, http.get(url) as response:
        return await response.text()


def total(metrics: str, name: str) -> int:
    pattern = rf"^headwater_{name}_total(?:{{[^}}]*}})? (\S+)$"
    return int(sum(float(one) for one in re.findall(pattern, metrics, re.M)))


def missing(pushed: list[Packet], got: list[Packet]) -> int:
    """Return how many frames are not there; those that are have to be in order, each once.

    Sound before the first picture is left out of an FLV file.
    """
    places = {packet.payload: number for number, packet in enumerate(pushed)}
    assert len(places) == len(pushed), "the clip has two equal frames"
    numbers = [places[packet.payload] for packet in got]
    assert numbers == sorted(set(numbers)), "a frame came twice, or too late"
    assert numbers[0] <= 2, f"the first {numbers[0]} frames are absent"
    return len(pushed) - numbers[0] - len(numbers)


async def test_the_ledger_balances_whatever_happens_between_two_datacenters(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", SECONDS, size="320x180")
    with internet(2) as (home, away), site(tmp_path) as made:
        shape = Shape.build(made, home, away)
        watched = [viewers.Watched() for _ in shape.edges]
        async with contextlib.AsyncExitStack() as stack:
            tasks = []
            for edge, got in zip(shape.edges, watched, strict=True):
                assert edge.space is not None
                limits = aiohttp.ClientTimeout(total=None)
                http = await stack.enter_async_context(edge.space.http(timeout=limits))
                watch = viewers.progressive(http, f"{edge.url}/live.flv", got)
                tasks.append(asyncio.create_task(watch))
            await asyncio.sleep(2)
            began = time.monotonic()
            publisher = push(source, made.ingest(shape.origin), home)
            try:
                while time.monotonic() < began + SECONDS - 45:
                    await asyncio.sleep(shape.chance.uniform(2, 8))
                    at = time.monotonic() - began
                    print(f"{at:6.1f} s: {await shape.harm()}", flush=True)
                await asyncio.gather(*tasks)
            finally:
                publisher.kill()
                publisher.wait()
        balance(shape.edges, watched, source, [await metrics_of(edge) for edge in shape.edges])


def balance(
    edges: list[Node], watched: list[viewers.Watched], source: Path, metrics: list[str]
) -> None:
    pushed = packets(source, "video"), packets(source, "audio")
    for edge, got, text in zip(edges, watched, metrics, strict=True):
        data = bytes(got.data)
        absent = sum(
            missing(kind, packets(data, name))
            for kind, name in zip(pushed, ("video", "audio"), strict=True)
        )
        lost, repaired = total(text, "records_lost"), total(text, "records_repaired")
        longest = max(b - a for (a, _), (b, _) in zip(got.arrived, got.arrived[1:], strict=False))
        print(f"{edge.name}: {absent} frames absent, {lost} said to be lost, {repaired} repaired,")
        print(f"  longest silence {longest:.1f} s, {total(text, 'bus_reconnects')} reconnects")
        assert absent <= lost, f"{edge.name}: {absent} frames are absent, {lost} said to be lost"
