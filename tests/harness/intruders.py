"""Peers of the inside that mean harm, each a process of its own: what they send, and to whom.

``python -m tests.harness.intruders KIND KEY SECONDS PORT...`` does one thing to all ports until its
time is over. What it sends follows ZMTP 3.1 (RFC 37) and CurveZMQ (RFC 26).
"""

import contextlib
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import zmq

MEGABYTE = 1_000_000
CONNECTIONS = 1000
GREETING, HELLO = 64, 202
"""Bytes of the first two things that a client sends."""


def greeting(mechanism: bytes) -> bytes:
    """Return the 64 bytes that each side sends first."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


def command(name: bytes, body: bytes) -> bytes:
    """Return a short command."""
    data = bytes([len(name)]) + name + body
    return bytes([4, len(data)]) + data


def ready(kind: str) -> bytes:
    """Return the command that ends a plain handshake."""
    found = b""
    for key, value in ((b"Socket-Type", kind.encode()), (b"Identity", b"")):
        found += bytes([len(key)]) + key + struct.pack(">I", len(value)) + value
    return command(b"READY", found)


def message(body: bytes) -> bytes:
    """Return a message of one long frame."""
    return b"\2" + struct.pack(">Q", len(body)) + body


def hello(server_key: str) -> bytes:
    """Return what a real client says first to the server of a key: greeting and HELLO.

    The server has to open a box for it, and it is good as often as one likes.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        zmq.Context() as context,
        context.socket(zmq.SUB) as client,
    ):
        client.linger = 0
        client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()
        client.curve_serverkey = server_key.encode()
        client.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        peer, _ = listener.accept()
        with peer:
            peer.sendall(greeting(b"CURVE")[:32] + b"\1" + bytes(31))
            found = b""
            while len(found) < GREETING + HELLO:
                found += peer.recv(4096)
        return found


def bombs() -> Iterator[bytes]:
    """Return bodies that are small and want to be large once they are decoded."""
    size = 60_000
    yield b"\xdd" + struct.pack(">I", size) + b"\xc0" * size
    yield b"\xdd" + struct.pack(">I", size) + b"\x80" * size
    yield b"\xdd\xff\xff\xff\xff"
    yield b"\xdf\xff\xff\xff\xff"
    yield b"\xc6\xff\xff\xff\xff"
    yield b"\x91" * size + b"\xc0"
    yield msgpack.packb([1, "pull", *([2**63] * 10_000)])
    yield msgpack.packb({str(number): number for number in range(5000)})


def connect(port: int) -> socket.socket:
    """Return a connection whose other end may have shut it already."""
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def send(port: int, data: bytes) -> None:
    """Send what the other end takes, and let go."""
    with contextlib.suppress(OSError), connect(port) as peer:  # refused, as it should be
        peer.sendall(data)


class Intruder:
    """Everything that one of them may want to do; each method is one round of an attack."""

    def __init__(self, key: str, ports: list[int]) -> None:
        self.key = key
        self.recording = os.environ.get("RECORDING", "")
        self.ports = ports
        self.held: list[socket.socket] = []
        self.context = zmq.Context()
        self.random = random.Random(1)

    def nothing(self) -> None:
        """What all others are compared with."""
        time.sleep(0.1)

    def giant(self) -> None:
        """A subscription of 50 MB: in the clear, and where a handshake is expected."""
        body = b"\1" + bytes(50 * MEGABYTE)
        for port in self.ports:
            send(port, greeting(b"NULL") + ready("SUB") + message(body))
            send(port, greeting(b"CURVE") + b"\6" + struct.pack(">Q", len(body)) + body)

    def subscriptions(self) -> None:
        """200 000 random subscriptions, by a stranger with a key and by one without."""
        many = b"".join(b"\0\x21\1" + self.random.randbytes(32) for _ in range(200_000))
        for port in self.ports:
            send(port, greeting(b"NULL") + ready("SUB") + many)
            client = self.stranger(zmq.XSUB, port)
            for _ in range(1000):
                client.send(b"\1" + self.random.randbytes(32))

    def garbage(self) -> None:
        """Random bytes, also behind the start of a good greeting."""
        for port in self.ports:
            noise = self.random.randbytes(self.random.randint(1, 4096))
            send(port, noise)
            send(port, greeting(b"CURVE")[: self.random.randint(1, 64)] + noise)

    def idle(self) -> None:
        """1000 connections that say nothing."""
        self.hold(b"")

    def half(self) -> None:
        """1000 handshakes that begin well, and stop when it is our turn."""
        self.hold(hello(self.key))

    def bombs(self) -> None:
        """Messages to be decoded, in the clear."""
        for port in self.ports:
            for body in bombs():
                send(port, greeting(b"NULL") + ready("DEALER") + message(body) * 20)

    def pings(self) -> None:
        """A full pipe, pings behind it, and a reset: what can abort libzmq."""
        ping = command(b"PING", struct.pack(">H", 1) + b"context")
        for port in self.ports:
            with connect(port) as peer:
                try:
                    peer.sendall(greeting(b"NULL") + ready("DEALER") + (b"\0\1x" * 20 + ping) * 400)
                except OSError:
                    continue
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def rejected(self) -> None:
        """Handshakes with keys that nobody knows, as fast as they go."""
        clients = [self.stranger(zmq.DEALER, port) for port in self.ports for _ in range(20)]
        time.sleep(0.5)
        for client in clients:
            client.close(0)

    def replayed(self) -> None:
        """All that a node with a key once sent, its questions included, word for word."""
        for port in self.ports:
            for _ in range(20):
                send(port, Path(self.recording).read_bytes())

    def stranger(self, kind: int, port: int) -> "zmq.Socket[bytes]":
        """Return a client with a key of its own making."""
        client = self.context.socket(kind)
        client.linger = 0
        client.reconnect_ivl = 1
        client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()
        client.curve_serverkey = self.key.encode()
        client.connect(f"tcp://127.0.0.1:{port}")
        return client

    def hold(self, first: bytes) -> None:
        """Open ``CONNECTIONS`` connections and keep them for as long as the other end does."""
        for number in range(CONNECTIONS):
            try:
                peer = connect(self.ports[number % len(self.ports)])
                peer.sendall(first)
            except OSError:
                continue
            self.held.append(peer)
        time.sleep(1)
        for peer in self.held:
            peer.close()
        self.held.clear()


ATTACKS = (
    *("nothing", "giant", "subscriptions", "garbage", "idle", "half", "bombs", "pings"),
    *("rejected", "replayed"),
)


def main() -> None:
    """Attack until the time is over, then say how often."""
    kind, key, seconds, *ports = sys.argv[1:]
    os.nice(19)  # intruders are on other machines: they take no CPU from ours
    intruder = Intruder(key, list(map(int, ports)))
    attack: Callable[[], None] = getattr(intruder, kind)
    end, rounds = time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        attack()
        rounds += 1
    sys.stdout.write(f"{rounds}\n")
    sys.stdout.flush()
    os._exit(0)  # sockets of strangers never get rid of what they queued


if __name__ == "__main__":
    main()
