"""A node that restarts: a real process executes itself again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
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
    deadline = time.monotonic() + 60
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
        with urllib.request.urlopen(f"{origin.url}/healthz", timeout=30) as answer:
            assert answer.read() == b"ok\n"
    after = said(origin)
    assert (after.generation, after.pid) == (1, before.pid)
    for name in ("http", "rtmp"):
        assert after.endpoints[name] == before.endpoints[name]
    os.kill(origin.pid, signal.SIGHUP)
    wait_until(lambda: said(origin).generation == 2, origin)
    wait_until(lambda: descriptors(origin.pid) == open_before, origin)


@pytest.mark.parametrize("role", ["origin", "relay", "balancer"])
def test_a_node_of_every_role_restarts_on_request(role: str, tmp_path: Path) -> None:
    with site(tmp_path) as made:
        node = made.add(role, role)
        node.start()
        before = said(node)
        where = "admin" if role == "relay" else "http"
        address = node.endpoints[where]

        def ask() -> urllib.request.Request:
            headers = {"Content-Type": "application/json"}
            url = f"http://{address}/api/v1/restart"
            return urllib.request.Request(url, b"", headers, method="POST")

        with urllib.request.urlopen(ask(), timeout=60) as answer:
            assert answer.status == 202
        wait_until(lambda: said(node).generation == 1, node)
        assert said(node).pid == before.pid
        assert said(node).endpoints[where] == address
        path = tmp_path / f"{role}.toml"
        path.write_text(path.read_text().replace(f"[{role}]", f"[{role}]\nnonsense = 1"))
        with pytest.raises(urllib.error.HTTPError, match="409") as refused:
            urllib.request.urlopen(ask(), timeout=30)
        with refused.value as answer:
            assert f"{role}.nonsense" in answer.read().decode()
        assert said(node).generation == 1


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
    with urllib.request.urlopen(f"{origin.url}/healthz", timeout=30) as answer:
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
        origin.process.wait(30)
    assert origin.process.returncode in (0, -signal.SIGTERM)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, "LISTEN_PID": str(os.getpid())})
"""


def test_a_connection_waits_while_a_node_under_a_socket_unit_is_stopped(tmp_path: Path) -> None:
    """As systemd does it: the listening socket is the third descriptor, and named."""
    with socket.create_server(("127.0.0.1", 0)) as listener, site(tmp_path) as made:
        node = made.add("balancer", "balancer")
        passed = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "balancer.http"}
        command = [sys.executable, "-m", "balancer", "--config", f"{tmp_path}/balancer.toml"]

        def start() -> "subprocess.Popen[bytes]":
            with node.log.open("ab") as log:
                node.process = subprocess.Popen(
                    [sys.executable, "-c", AS_SYSTEMD, str(listener.fileno()), *command],
                    env={**os.environ, **passed},
                    pass_fds=[listener.fileno()],
                    stderr=log,
                )
            return node.process

        with start() as first:
            wait_until(lambda: ready.read(tmp_path / "run", "balancer") is not None, node)
            assert said(node).endpoints["http"] == f"127.0.0.1:{listener.getsockname()[1]}"
            first.send_signal(signal.SIGTERM)
            assert first.wait(30) == 0
        with socket.create_connection(listener.getsockname(), timeout=60) as early:
            early.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            with start() as second:
                assert early.recv(15) == b"HTTP/1.1 200 OK"
                second.send_signal(signal.SIGTERM)


def test_the_command_restarts_nodes_and_says_how_it_went(origin: Node) -> None:
    command = [str(Path(sys.executable).with_name("headwater")), "restart"]
    where = ["--set", f"node.run={origin.folder}/run"]

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*command, *arguments, *where], capture_output=True, text=True)

    done = run("origin")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("origin restarted in ")
    assert said(origin).generation == 1
    (origin.folder / "origin.toml").write_text("[origin]\nhtpt = 5\n")
    done = run("origin")
    assert done.returncode == 1
    assert "origin goes on as it was: origin.htpt" in done.stderr
    assert "no node called 'nobody' runs on this machine" in run("nobody").stderr
