"""Datacenters on one machine: network namespaces, and lines between them that can be made bad.

::

    with internet(2) as (near, far):
        near.line(far, delay=0.04, loss=0.02)   # both ways
        far.popen(["ffmpeg", ...])               # a process of that datacenter
        async with far.http() as http: ...       # a viewer in it, inside this process
        near.cut(far); near.heal(far)

The namespaces have no names: they are held by a child process that ends with our end of its pipe,
whatever becomes of us, and then they are gone.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness import wan

HELP = """Network namespaces cannot be made here: {why}
These tests need root (`sudo make e2e`; in a container: --privileged --device /dev/net/tun), and
/dev/net/tun (`modprobe tun`)."""


class Internet:
    """The process that holds the namespaces and carries packets between them."""

    def __init__(self, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.wan", str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        said = self._answer()
        self.spaces = [Space(self, number, fd) for number, fd in enumerate(json.loads(said))]

    @property
    def pid(self) -> int:
        return self._process.pid

    def change(self, here: int, there: int, values: dict[str, Any]) -> dict[str, int]:
        """Change one direction of a line; return what it has carried."""
        assert self._process.stdin is not None
        order = {"from": here, "to": there, **values}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        counters: dict[str, int] = json.loads(self._answer())
        return counters

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            raise RuntimeError(HELP.format(why=errors.strip().rpartition("\n")[2]))
        return line

    def close(self) -> None:
        for space in self.spaces:
            space.close()
        self._process.communicate(timeout=10)


class Space:
    """One datacenter: a network of its own."""

    def __init__(self, internet: Internet, number: int, fd: int) -> None:
        self._internet = internet
        self._number = number
        self.address = wan.address(number)
        self.path = f"/proc/{internet.pid}/fd/{fd}"
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    # The lines to other spaces.

    def line(self, other: "Space", *, one_way: bool = False, **values: float | bool) -> None:
        """Set fields of :class:`tests.harness.wan.Line`, of both directions or the one to there."""
        self._internet.change(self._number, other._number, values)
        if not one_way:
            self._internet.change(other._number, self._number, values)

    def cut(self, other: "Space", *, one_way: bool = False) -> None:
        """Let nothing through any more; connections do not notice."""
        self.line(other, one_way=one_way, cut=True)

    def heal(self, other: "Space") -> None:
        """Let everything through again."""
        self.line(other, cut=False)

    def lost(self, other: "Space") -> tuple[int, int]:
        """Return how many packets to ``other`` were sent, and how many of them lost."""
        counters = self._internet.change(self._number, other._number, {})
        return counters["sent"], counters["lost"]

    # What is inside.

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs ``command`` in here, as the very same process."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def popen(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Start a process in here."""
        return subprocess.Popen(self.command(command), **options)

    def congestion(self, algorithm: str) -> None:
        """Have TCP in here send by this algorithm: ``bbr``, ``cubic`` or ``reno``.

        By the route, since a network that is not the machine's first may not set its default.
        """
        route = f"ip route change 10.98.0.0/24 dev wan0 congctl {algorithm}"
        subprocess.run(self.command(route.split()), check=True)

    def socket(self, about: Any) -> socket.socket:
        """Return a socket of this network; ``about`` is what ``getaddrinfo`` says."""
        family, kind, protocol, *_ = about
        with self.inside():
            made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    def http(self, **options: Any) -> aiohttp.ClientSession:
        """Return a client whose connections start in here."""
        connector = aiohttp.TCPConnector(socket_factory=self.socket, limit=0)
        return aiohttp.ClientSession(connector=connector, **options)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Have what this thread opens or starts be in here."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            wan.enter(self._fd)
            yield
        finally:
            wan.enter(home)
            os.close(home)

    def close(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def internet(count: int) -> Iterator[list[Space]]:
    """Datacenters with perfect lines between them, gone at the end.

    Raises:
        RuntimeError: If this machine does not let us make networks; it says what to do.
    """
    made = Internet(count)
    try:
        yield made.spaces
    finally:
        made.close()
