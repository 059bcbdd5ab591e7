"""A node that restarts: a real process executes itself again."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.runtime import ready
from tests.harness.nodes import Node, site

pytestmark = pytest.mark.e2e


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Node]:
    with site(tmp_path) as made:
        node = made.add("origin", "origin")
        node.start()
        yield node


def wait_until(check: Callable[[], bool], node: Node) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline, node.log.read_text()[-3000:]
        time.sleep(0.01)


def said(node: Node) -> ready.Ready:
    found = None
    while found is None:
        assert node.process is not None
        assert node.process.poll() is None, node.log.read_text()[-3000:]
        found = ready.read(node.folder / "run", node.name)
    return found


def test_a_node_restarts_in_place_and_connections_wait_for_it(origin: Node) -> None:
    before, open_before = said(origin), descriptors(origin.pid)
    os.kill(origin.pid, signal.SIGHUP)
    while said(origin).generation == 0:
        with urllib.request.urlopen(f"{origin.url}/healthz", timeout=10) as answer:
            assert answer.read() == b"ok\n"
    after = said(origin)
    assert (after.generation, after.pid) == (1, before.pid)
    for name in ("http", "rtmp"):
        assert after.endpoints[name] == before.endpoints[name]
    os.kill(origin.pid, signal.SIGHUP)
    wait_until(lambda: said(origin).generation == 2, origin)
    wait_until(lambda: descriptors(origin.pid) == open_before, origin)


def test_a_node_goes_on_when_its_new_settings_are_wrong_and_says_why(origin: Node) -> None:
    path = origin.folder / "origin.toml"
    good = path.read_text()
    refusals = [
        (good.replace("[origin]", "[origin]\nhtpt = 5"), "htpt"),
        (good + '[streams.wrong]\nsource = "nowhere://x"\n', "nowhere"),
    ]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        moved = good.replace('rtmp = "127.0.0.1:0"', f'rtmp = "127.0.0.1:{port}"')
        refusals.append((moved, f"port {port} is taken by process {os.getpid()}"))
        for number, (text, reason) in enumerate(refusals, 1):
            path.write_text(text)
            os.kill(origin.pid, signal.SIGHUP)
            wait_until(lambda n=number: len(said(origin).refused) == n, origin)  # type: ignore[misc]
            assert reason in said(origin).refused[-1]
    with urllib.request.urlopen(f"{origin.url}/healthz", timeout=10) as answer:
        assert answer.read() == b"ok\n"
    assert said(origin).generation == 0
    path.write_text(good)
    os.kill(origin.pid, signal.SIGHUP)
    wait_until(lambda: said(origin).generation == 1, origin)


def test_a_stop_during_a_restart_is_a_stop(origin: Node) -> None:
    assert origin.process is not None
    os.kill(origin.pid, signal.SIGHUP)
    os.kill(origin.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        origin.process.wait(10)
    assert origin.process.returncode in (0, -signal.SIGTERM)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
