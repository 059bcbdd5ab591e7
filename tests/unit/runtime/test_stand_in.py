"""A process that serves while another executes itself again, and the command that asks for it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import NodeUnavailable
from common.runtime import inherit, listen, ready, stand_in
from common.runtime.config import NodeSettings
from common.runtime.inherit import Estate
from common.runtime.restarting import RestartFailed, restart

SERVES = """
import asyncio
from common.runtime import listen, stand_in
async def main():
    channel = stand_in.channel()
    with listen.bind("127.0.0.1:0", setting="balancer.http") as listener:
        listener.setblocking(True)
        channel.send({"t": "ready"})
        def answer():
            peer, _ = listener.accept()
            peer.sendall(b"stand-in")
            peer.close()
        await asyncio.to_thread(answer)
        async for message in channel:
            if message["t"] == "stop":
                return
asyncio.run(main())
"""


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(inherit, "_estate", Estate())
    with listen.bind("127.0.0.1:0", setting="balancer.http") as bound:
        yield bound


def program(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(stand_in, "command", lambda: [sys.executable, "-c", text])


async def test_a_stand_in_serves_on_the_same_socket_until_it_is_dismissed(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    program(monkeypatch, SERVES)
    before = os.listdir("/proc/self/fd")
    appointed = await stand_in.appoint({"learnt": {"a": [1.0, 0.5]}})
    with socket.create_connection(listener.getsockname(), timeout=10) as client:
        assert client.recv(8) == b"stand-in"
    legacy = appointed.legacy({"learnt": {"a": [1.0, 0.5]}})
    assert legacy.state["learnt"] == {"a": [1.0, 0.5]}
    control = os.dup(legacy.fds[0])  # the end of this image would close ours
    appointed.channel.close()
    await stand_in.dismiss({**legacy.state, "control": control})
    assert not os.path.exists(f"/proc/{appointed.pid}")
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("text", ["exit(1)", "import time; time.sleep(60)"])
async def test_one_that_does_not_serve_is_an_error_and_is_gone(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket, text: str
) -> None:
    monkeypatch.setattr(stand_in, "TIMEOUT", 0.3)
    program(monkeypatch, text)
    with pytest.raises(NodeUnavailable, match=r"ended|does not get ready"):
        await stand_in.appoint({})


async def test_there_is_nobody_to_dismiss_after_an_ordinary_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(stand_in.VARIABLE, raising=False)
    assert stand_in.channel() is None
    await stand_in.dismiss({})


@pytest.fixture
def node(tmp_path: Path) -> NodeSettings:
    return NodeSettings(name="a", run=str(tmp_path))


def sleeper(node: NodeSettings, handler: str) -> "subprocess.Popen[bytes]":
    """Start a process that is ready as a node is, and does ``handler`` when told to restart."""
    text = (
        "import signal\n"
        "from common.runtime import inherit, ready\n"
        "from common.runtime.config import NodeSettings\n"
        f"node = NodeSettings(name={node.name!r}, run={node.run!r})\n"
        "def told(number, frame):\n"
        f"    {handler}\n"
        "signal.signal(signal.SIGHUP, told)\n"
        "ready.announce(node, {})\n"
        "while True: signal.pause()\n"
    )
    started = subprocess.Popen([sys.executable, "-c", text])
    while ready.read(node.run, node.name) is None:
        assert started.poll() is None
    return started


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        ("ready.refuse(node, 'edge.htpt: unknown')", "goes on as it was: edge.htpt: unknown"),
        ("exit(1)", "has stopped instead"),
        ("pass", "is not ready again after"),
    ],
)
def test_the_command_says_how_a_restart_failed(
    node: NodeSettings, handler: str, outcome: str
) -> None:
    with sleeper(node, handler) as process:
        with pytest.raises(RestartFailed, match=outcome):
            restart(node, ["a", "never asked"], print, timeout=1.0 if handler == "pass" else 20.0)
        process.send_signal(signal.SIGKILL)


def test_the_command_waits_for_the_next_image(node: NodeSettings) -> None:
    grown = "inherit.Handover(generation=1)"
    handler = f"inherit.estate().handover = {grown}; ready.announce(node, {{}})"
    told: list[str] = []
    with sleeper(node, handler) as process:
        restart(node, ["a"], told.append)
        process.send_signal(signal.SIGKILL)
    assert told[0].startswith("a restarted in ")


def test_a_node_that_does_not_run_here_is_named(node: NodeSettings) -> None:
    with pytest.raises(NodeUnavailable, match="'a' runs on this machine"):
        restart(node, ["a"], print)
