"""What systemd hears of a node."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.runtime import notify, ready
from common.runtime.config import NodeSettings
from common.runtime.consul_settings import ConsulSettings
from common.runtime.tasks import run_until_signalled


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def heard(listener: socket.socket) -> dict[str, str]:
    lines = listener.recv(4096).decode().splitlines()
    return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


def test_nothing_is_said_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.tell(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/socket")
    assert not notify.tell(READY=1)


def test_an_abstract_socket_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"headwater-test-{os.getpid()}"
        listener.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify.tell(READY=1, STATUS="well")
        assert heard(listener) == {"READY": "1", "STATUS": "well"}


def test_a_node_that_announces_itself_is_ready(systemd: socket.socket, tmp_path: Path) -> None:
    node = NodeSettings(name="e1", run=str(tmp_path))
    ready.announce(node, {"http": "h:1"})
    said = heard(systemd)
    assert (said["READY"], said["MAINPID"]) == ("1", str(os.getpid()))
    assert "e1" in said["STATUS"]
    ready.refuse(node, "edge.htpt: no such\nsetting")
    assert heard(systemd) == {"STATUS": "restart refused: edge.htpt: no such setting"}


def test_a_reload_says_when_it_began(systemd: socket.socket) -> None:
    notify.reloading()
    said = heard(systemd)
    assert said["RELOADING"] == "1"
    assert int(said["MONOTONIC_USEC"]) > 0


async def test_a_stop_is_told_before_the_role_has_ended(systemd: socket.socket) -> None:
    told = []

    async def role() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            told.append(heard(systemd)["STOPPING"])

    await run_until_signalled(role())
    assert told == ["1"]


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_told_twice_as_often_as_it_asks(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert notify.interval(environ) == seconds


async def test_the_watchdog_hears_again_and_again(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    task = asyncio.create_task(notify.watchdog())
    for _ in range(3):
        assert await asyncio.to_thread(heard, systemd) == {"WATCHDOG": "1"}
    task.cancel()


def test_secrets_that_systemd_passes_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("CONSUL_HTTP_TOKEN", raising=False)
    assert not NodeSettings(name="e1").keys.startswith(str(tmp_path))
    assert ConsulSettings().secret() == ""
    (tmp_path / "node.key").write_text("k")
    (tmp_path / "consul.token").write_text("from systemd\n")
    assert NodeSettings(name="e1").keys == str(tmp_path / "node.key")
    assert NodeSettings(name="e1", keys="/k").keys == "/k"
    assert ConsulSettings().secret() == "from systemd"
    assert ConsulSettings(token="own").secret() == "own"
