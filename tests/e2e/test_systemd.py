"""The units of systemd, as systemd itself judges them; the installer, as a machine would run it."""

import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.runtime import ready
from tests.harness.nodes import site

pytestmark = pytest.mark.e2e

DEPLOY = Path(__file__).parents[2] / "deploy"
ROLES = ("origin", "edge", "relay", "balancer")
EXPOSURE = 15
"""Tenths; systemd calls up to 2.0 OK, and 9 and more unsafe."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the root of a machine with the units installed."""
    root = tmp_path_factory.mktemp("root")
    units = root / "etc/systemd/system"
    shutil.copytree(DEPLOY / "systemd", units)
    program = root / "opt/headwater/current/bin/headwater"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    for name in ("sysinit.target", "basic.target", "sockets.target", "multi-user.target"):
        (units / name).write_text(f"[Unit]\nDescription={name}\n")
    (units / "network-online.target").write_text("[Unit]\nDescription=online\n")
    return root


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("role", ROLES)
def test_what_a_unit_can_do_to_the_machine_is_little(image: Path, role: str) -> None:
    unit = f"headwater-{role}.service"
    done = analyze("security", "--offline=true", f"--root={image}", f"--threshold={EXPOSURE}", unit)
    assert done.returncode == 0, done.stdout
    bare = image / "etc/systemd/system/bare.service"
    bare.write_text("[Service]\nExecStart=/opt/headwater/current/bin/headwater\n")
    again = analyze(
        "security", "--offline=true", f"--root={image}", f"--threshold={EXPOSURE}", bare.name
    )
    assert again.returncode != 0, "a unit without hardening has to be refused"


def test_systemd_finds_no_fault_with_the_units(image: Path) -> None:
    units = [f"headwater-{role}.service" for role in ROLES]
    sockets = sorted(path.name for path in DEPLOY.glob("systemd/*.socket"))
    assert sockets
    done = analyze(
        "verify", "--man=no", "--recursive-errors=no", f"--root={image}", *units, *sockets
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "headwater" in line], done.stderr


class Systemd:
    """Listens as systemd would, all the time: a socket keeps but a few messages."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._words: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while text := self._socket.recv(4096).decode():
            for word in text.splitlines():
                self._words.put(word)

    def hear(self, word: str) -> None:
        """Wait until the node says a word, after those that were heard."""
        deadline = time.monotonic() + 60
        while (said := self._words.get(timeout=60)) != word:
            assert time.monotonic() < deadline, f"{said} instead of {word}"

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


def test_a_node_tells_systemd_of_its_start_its_restart_and_its_end(
    tmp_path: Path, systemd: Systemd
) -> None:
    with site(tmp_path) as made:
        node = made.add("balancer", "balancer")
        node.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        node.start()
        systemd.hear("READY=1")
        systemd.hear("WATCHDOG=1")
        told = restart(node.folder, "--pid", str(node.pid))
        assert told.returncode == 0, told.stderr
        assert told.stdout.startswith("balancer restarted in ")
        systemd.hear("RELOADING=1")
        systemd.hear("READY=1")
        systemd.hear("WATCHDOG=1")
        found = ready.read(tmp_path / "run", "balancer")
        assert found is not None
        assert (found.pid, found.generation) == (node.pid, 1)
        refused = restart(node.folder, "--pid", str(os.getpid()))
        assert refused.returncode == 1
        assert "is no node that is ready" in refused.stderr
        node.stop()
        systemd.hear("STOPPING=1")


def restart(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("headwater")), "restart", *arguments]
    return subprocess.run(
        [*command, "--set", f"node.run={folder / 'run'}"], capture_output=True, text=True
    )


@pytest.mark.long
def test_what_is_built_is_installed_runs_and_can_be_taken_back(tmp_path: Path) -> None:
    built = subprocess.run(
        [DEPLOY / "dist.sh", tmp_path / "dist"], capture_output=True, text=True, check=True
    )
    archive = Path(built.stdout.split()[-1])
    release = archive.name.removeprefix("headwater-").removesuffix(".tar.gz")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-C", unpacked, "-xzf", archive], check=True)
    prefix = tmp_path / "prefix"
    install = [str(unpacked / "install.sh"), "--prefix", str(prefix), "--no-system"]
    first = subprocess.run(install, capture_output=True, text=True, check=True)
    assert f"current is {release}" in first.stdout
    again = subprocess.run(install, capture_output=True, text=True, check=True)
    assert again.stdout == ""
    (unpacked / "release").write_text("0.9.9-next\n")
    subprocess.run(install, capture_output=True, check=True)
    assert os.readlink(prefix / "current") == "0.9.9-next"
    back = subprocess.run([*install, "--back"], capture_output=True, text=True, check=True)
    assert back.stdout == f"current is {release}\n"
    with site(tmp_path) as made:
        node = made.add("balancer", "balancer")
        program = str(prefix / "current/bin/headwater")
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [program, "balancer", "-c", str(tmp_path / "balancer.toml")], stderr=log, cwd="/"
            )
        try:
            while (found := ready.read(tmp_path / "run", node.name)) is None:
                assert process.poll() is None, (tmp_path / "log").read_text()
            with urllib.request.urlopen(f"http://{found.endpoints['http']}/healthz") as answer:
                assert answer.read() == b"ok\n"
        finally:
            process.terminate()
            process.wait(10)
