"""Peers of the bus that mean harm, or are dead: what they cost the node."""

import asyncio
import json
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from common.bus.broadcast import MIN_QUEUE, QUEUE_BYTES, Broadcast
from common.runtime import pump
from common.wire.messages import topic
from tests.harness.bus import VIDEO, Source, catalog

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)

VICTIM = """
import asyncio, json, sys
from common.bus.broadcast import Broadcast
from common.bus.gossip import Gossiper

async def main():
    broadcast = Broadcast("127.0.0.1:0", "127.0.0.1:0")
    gossip = Gossiper("edge", "127.0.0.1:0")
    ports = {"bus": broadcast.bus_port, "control": broadcast.control_port, "gossip": gossip.port}
    print(json.dumps(ports), flush=True)
    for line in sys.stdin:  # reading blocks the event loop: nothing is taken from the sockets
        await asyncio.sleep(0.3)
        gossip._drain()
        print("alive", flush=True)

asyncio.run(main())
"""


def command(name: bytes, body: bytes) -> bytes:
    """Return a command of ZMTP 3.1."""
    data = bytes([len(name)]) + name + body
    return bytes([4, len(data)]) + data


def properties(**values: str) -> bytes:
    found = b""
    for name, value in values.items():
        key = name.replace("_", "-").encode()
        found += bytes([len(key)]) + key + struct.pack(">I", len(value)) + value.encode()
    return found


def attack(port: int, kind: str, message: bytes, ping: bytes) -> None:
    """Fill the receive pipe of a socket that is not read, hide pings behind, and reset."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        ready = properties(Socket_Type=kind, Identity="")
        peer.sendall(GREETING + command(b"READY", ready))
        peer.settimeout(5)
        assert peer.recv(4096)
        peer.sendall((message * 20 + ping) * 400)
        time.sleep(0.2)  # until the other end has read what it wants to
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture
def victim() -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def test_crafted_pings_abort_no_process(victim: "subprocess.Popen[str]") -> None:
    """ADR 31: with a limit on what a socket receives, each of these is the end of the process."""
    assert victim.stdin is not None
    assert victim.stdout is not None
    ports = json.loads(victim.stdout.readline())
    attacks = {
        "control": ("DEALER", b"\0\1x"),
        "bus": ("SUB", b"\0\3\1ab"),
        "gossip": ("SUB", b"\0\3\1ab"),
    }
    for name, (kind, message) in attacks.items():
        for ttl in (0, 1):  # tenths of a second until silence shall count as death
            ping = command(b"PING", struct.pack(">H", ttl) + b"context")
            attack(ports[name], kind, message, ping)
            victim.stdin.write("go on\n")
            victim.stdin.flush()
            assert victim.stdout.readline() == "alive\n", f"{name}: {victim.wait()}"


async def until(done: object, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not done():  # type: ignore[operator]  # noqa: ASYNC110 - sockets are asked
            await asyncio.sleep(0.02)


async def test_an_edge_that_reads_nothing_costs_little_and_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "DEAD_AFTER", 1500)
    source = Source(tmp_path, catalog(), size=40_000)
    broadcast = Broadcast("127.0.0.1:0", "127.0.0.1:0")
    broadcast.attach(source.writer)
    broadcast.catalog(source.catalog)
    context = zmq.Context()
    edge = context.socket(zmq.SUB)
    try:
        edge.setsockopt(zmq.RCVHWM, 1)
        edge.setsockopt(zmq.SUBSCRIBE, topic(b"M", "live"))
        edge.connect(broadcast.endpoints()["bus"])
        await until(lambda: topic(b"M", "live") in broadcast._subscriptions)
        record = next(item for item in source.next() if item.track == VIDEO)
        payload = bytes(250_000)
        for _ in range(8):  # enough for a mean, too little to fill anything
            broadcast.record("live", VIDEO, record.record, payload, flush=True)
        await until(lambda: broadcast._queue == max(MIN_QUEUE, QUEUE_BYTES // 250_000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(2000):
            broadcast.record("live", VIDEO, record.record, bytes(250_000), flush=True)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < MIN_QUEUE * 250_000 * 1.2, f"{grown / 1e6:.0f} MB wait for an edge"
        await until(lambda: not broadcast._subscriptions.topics)
    finally:
        edge.close(0)
        context.term()
        broadcast.close()
