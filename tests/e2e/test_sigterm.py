"""A node that is told to stop (SIGTERM, as systemd does) lets go of its clients first."""

import asyncio
import json
import signal
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.test_moving import arriving, came, crowd, known, started
from tests.harness import hlsjs, pushed
from tests.harness.hlsjs import REDUNDANT, STEERED, Player
from tests.harness.nodes import site, start

pytestmark = pytest.mark.e2e

DRAIN = 12.0
SEGMENT = 2.0


@pytest.mark.alone
@pytest.mark.long
async def test_an_edge_that_is_stopped_moves_its_viewers_first(
    tmp_path: Path,
) -> None:
    stream = {"source": '"videogen://"', "part": '"2s"'}
    with site(tmp_path) as made:
        nodes = [
            made.add("origin", "origin", stream=stream),
            made.add("balancer", "balancer", {"steering": '"2s"'}),
        ]
        settings = {"viewers": "1", "drain": f'"{DRAIN:.0f}s"'}
        nodes += [made.add("edge", f"edge{n}", settings) for n in (1, 2, 3)]
        start(*nodes)
        first = made.nodes["edge1"]
        master = f"{first.url}/cmaf/live/index.m3u8"
        players = [Player(master, f"steered-{n}") for n in range(20)]
        players += [Player(master, f"redundant-{n}", REDUNDANT) for n in range(10)]
        codes: Counter[str] = Counter()
        address = first.url.replace("http", "ws", 1)
        sockets: list[Any] = [
            pushed.websocket(f"{address}/live.mp4?autoplay=1", codes) for _ in range(20)
        ]
        async with aiohttp.ClientSession() as http:
            await known(http, first)
            everybody = [*(player.run() for player in players), *sockets]
            async with crowd(hlsjs.clock(players), *arriving(everybody)) as tasks:
                await came(http, first, 50, tasks)
                await started(players)
                for player in players:
                    player.stalled = player.longest = 0.0
                    player.failed.clear()
                assert first.process is not None
                began = time.monotonic()
                first.process.send_signal(signal.SIGTERM)
                code = await asyncio.to_thread(first.process.wait, DRAIN + 20)
                took = time.monotonic() - began
                await asyncio.sleep(2)
        # A player without steering asks at the address that it knows until that is gone, and has
        # the redundant variants for then: it is to show no more than one segment's stall.
        failed = [one for player in players if player.kind == STEERED for one in player.failed]
        longest = max(player.longest for player in players)
        told = {"stopped after": round(took, 2), "longest": longest, "codes": codes}
        requests = sum(player.requests for player in players)
        print(json.dumps({**told, "requests": requests, "failed": len(failed)}))
        assert code == 0
        assert not failed, failed[:5]
        assert codes["moved"] == 20, codes
        assert longest < SEGMENT
        assert all(player.edge != first.endpoints["http"] for player in players)


def asked(address: tuple[str, int]) -> bytes:
    """Ask over a connection of its own; return the answer, empty if the connection is refused."""
    try:
        connection = socket.create_connection(address, timeout=20)
    except ConnectionRefusedError:
        return b""
    with connection:
        connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")) or b"nothing"


@pytest.mark.parametrize("role", ["edge", "balancer"])
def test_who_comes_while_a_node_stops_is_answered_or_refused_at_once(
    tmp_path: Path, role: str
) -> None:
    with site(tmp_path) as made:
        node = made.add(role, role)
        node.start()
        host, _, port = node.endpoints["http"].rpartition(":")
        assert asked((host, int(port))).startswith(b"HTTP/1.1 ")
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        while answer := asked((host, int(port))):
            assert answer.startswith(b"HTTP/1.1 "), answer
        assert node.process.wait(20) == 0
