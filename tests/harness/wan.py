"""Network namespaces with bad lines between them: run as a process of its own by ``netns.py``.

Each space is a network namespace with one TUN device, ``wan0``. What is sent there is read here and
written to the device of the space that the address belongs to, later or never, as the line between
the two says. The kernel's own ``netem`` is not in every kernel; TUN is.

Arguments: the number of spaces. Standard input: one JSON object a line, ``{"from", "to", ...}``
with the fields of :class:`Line` that change. Standard output: one line with the descriptors of the
namespaces when they are ready, and one with counters for each line read. All of it is gone when
standard input ends, whatever ended it.
"""

import contextlib
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
MTU = 1500
BATCH = 64
"""Packets that are read from one device before the others have their turn."""

libc = ctypes.CDLL(None, use_errno=True)


def address(number: int) -> str:
    """Return the address of a space, counted from 0."""
    return f"10.98.0.{number + 1}"


@dataclass
class Line:
    """One direction between two spaces."""

    delay: float = 0.0
    """Seconds."""
    jitter: float = 0.0
    """Standard deviation of what is added to the delay; packets may overtake each other."""
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Probabilities for each packet. One that is out of order comes 20 ms late."""
    rate: float = 0.0
    """Bits a second, 0 for no limit."""
    queue: float = 0.25
    """Seconds of backlog beyond which packets are dropped."""
    cut: bool = False
    busy_until: float = 0.0
    sent: int = 0
    lost: int = 0

    def arrivals(self, now: float, size: int, chance: random.Random) -> list[float]:
        """Return when a packet of ``size`` bytes arrives: never, once or twice."""
        self.sent += 1
        if self.cut or (self.loss and chance.random() < self.loss):
            self.lost += 1
            return []
        at = now
        if self.rate:
            at = max(now, self.busy_until)
            if at - now > self.queue:
                self.lost += 1
                return []
            at = self.busy_until = at + size * 8 / self.rate
        at += self.delay
        if self.jitter:
            at += abs(chance.gauss(0, self.jitter))
        if self.reorder and chance.random() < self.reorder:
            at += 0.02
        twice = self.duplicate and chance.random() < self.duplicate
        return [at, at + 0.0005] if twice else [at]


class Wan:
    """All spaces, and what is under way between them."""

    def __init__(self, count: int) -> None:
        self.namespaces = [_namespace() for _ in range(count)]
        self._devices = [_device(fd, number) for number, fd in enumerate(self.namespaces)]
        self._numbers = {fd: number for number, fd in enumerate(self._devices)}
        self.lines = {
            (here, there): Line()
            for here in range(count)
            for there in range(count)
            if here != there
        }
        self._chance = random.Random(1)
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._poll = select.epoll()
        for fd in (0, *self._devices):
            self._poll.register(fd, select.EPOLLIN)

    def run(self) -> None:
        """Carry packets until standard input ends."""
        while True:
            wait = 1.0
            if self._under_way:
                wait = max(0.0, self._under_way[0][0] - time.monotonic())
            for fd, _ in self._poll.poll(wait):
                if fd != 0:
                    self._read(fd)
                elif not self._obey():
                    return
            now = time.monotonic()
            while self._under_way and self._under_way[0][0] <= now:
                self._write(*heapq.heappop(self._under_way)[2:])

    def _obey(self) -> bool:
        line = sys.stdin.readline()
        if not line:
            return False
        change: dict[str, Any] = json.loads(line)
        known = self.lines[change.pop("from"), change.pop("to")]
        for name, value in change.items():
            setattr(known, name, value)
        print(json.dumps({"sent": known.sent, "lost": known.lost}), flush=True)
        return True

    def _read(self, fd: int) -> None:
        here = self._numbers[fd]
        for _ in range(BATCH):
            try:
                packet = os.read(fd, MTU)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:
                continue
            line = self.lines.get((here, packet[19] - 1))
            if line is None:
                continue
            now = time.monotonic()
            for at in line.arrivals(now, len(packet), self._chance):
                self._count += 1
                entry = (at, self._count, self._devices[packet[19] - 1], packet)
                heapq.heappush(self._under_way, entry)

    def _write(self, fd: int, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # a full device is one more lost packet
            os.write(fd, packet)


def enter(fd: int) -> None:
    """Move the calling thread into a network namespace."""
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


def _namespace() -> int:
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot make a network namespace")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _device(namespace: int, number: int) -> int:
    enter(namespace)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", b"wan0", IFF_TUN_NO_PI))
    for command in (
        "link set lo up",
        f"address add {address(number)}/24 dev wan0",
        f"link set wan0 up mtu {MTU} txqueuelen 1000",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    return fd


if __name__ == "__main__":
    wan = Wan(int(sys.argv[1]))
    print(json.dumps(wan.namespaces), flush=True)
    wan.run()
