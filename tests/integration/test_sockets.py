"""Every socket that a node opens for other nodes has its limits, and so does all they decode."""

import ast
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from balancer.gossip import GossipListener
from common.bus.broadcast import Broadcast
from common.bus.gossip import Gossiper
from common.bus.link import Endpoints, Link
from common.errors import FormatError
from common.wire.control import decode_control
from common.wire.gossip import decode_gossip
from common.wire.messages import decode_bus, topic
from tests.arch.sources import ROOT
from tests.harness.intruders import bombs
from tests.harness.secure import Nodes

INSIDE = "common/runtime/curve.py"
"""The handler of libzmq's own questions: no peer reaches it."""

MEGABYTE = 1 << 20
LARGEST = 17 * MEGABYTE
"""Bytes of a message: the largest frame that there may be, and its header."""

Place = tuple[str, int]


def places() -> set[Place]:
    """Return where the sources open a ZeroMQ socket."""
    found = set()
    for path in sorted(ROOT.glob("*/**/*.py")):
        name = str(path.relative_to(ROOT))
        if name.startswith(("tests", "bench", ".", "node_modules")):
            continue
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "import zmq" in text else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "socket"
                and "ontext" in ast.unparse(node.func.value)
            ):
                found.add((name, node.lineno))
    return found


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[Place, "zmq.Socket[bytes]"]:
    """What was opened, by the place in the sources that did."""
    found: dict[Place, zmq.Socket[bytes]] = {}
    real = zmq.Context.socket

    def socket(self: Any, *arguments: Any, **options: Any) -> Any:
        made = real(self, *arguments, **options)
        caller = sys._getframe(1)
        path = Path(caller.f_code.co_filename)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts:
            found[str(path.relative_to(ROOT)), caller.f_lineno] = made
        return made

    monkeypatch.setattr(zmq.Context, "socket", socket)
    return found


async def test_every_socket_has_its_limits(opened: dict[Place, "zmq.Socket[bytes]"]) -> None:
    nodes = Nodes()
    guard = nodes.add("origin", "origin")
    broadcast = Broadcast("127.0.0.1:0", "127.0.0.1:0", guard=guard)
    gossiper = Gossiper("origin", "127.0.0.1:0", guard)
    listener = GossipListener(lambda _: None)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    link = Link(
        context,
        Endpoints.of(broadcast.endpoints()),
        "edge",
        deliver=lambda *_: None,
        renewed=lambda _: None,
        broken=lambda _: None,
        settled=lambda: None,
        now_us=lambda: 0,
        guard=nodes.add("edge", "edge"),
    )
    try:
        assert {place for place in opened if place[0] != INSIDE} == {
            place for place in places() if place[0] != INSIDE
        }, "a socket is opened that this test does not know"
        for (name, _), socket in opened.items():
            if name == INSIDE:
                continue
            bound = socket.type in (zmq.XPUB, zmq.ROUTER)
            what = f"{name} {int(socket.type)}"
            assert 0 < socket.getsockopt(zmq.MAXMSGSIZE) <= LARGEST, what  # type: ignore[operator]
            if bound:
                assert socket.getsockopt(zmq.MAXMSGSIZE) == 64 * 1024, what
                assert 0 < socket.getsockopt(zmq.SNDHWM) <= 4000, what  # type: ignore[operator]
            else:
                assert 0 < socket.getsockopt(zmq.RCVHWM) <= 4000, what  # type: ignore[operator]
            assert 0 < socket.getsockopt(zmq.HANDSHAKE_IVL) <= 3000, what  # type: ignore[operator]
            assert socket.getsockopt(zmq.HEARTBEAT_IVL) == 0, what
            assert socket.getsockopt(zmq.LINGER) == 0, what
    finally:
        link.close()
        context.destroy(0)
        listener.close()
        gossiper.close()
        broadcast.close()


@pytest.mark.parametrize(
    "decode",
    [
        lambda body: decode_control([body]),
        lambda body: decode_bus([topic(b"M", "live"), body, b""]),
        lambda body: decode_bus([topic(b"C", "live"), body, body]),
        lambda body: decode_gossip([b"Gedge\0", body]),
    ],
    ids=["control", "media", "catalog", "gossip"],
)
def test_a_bomb_is_refused_before_it_takes_memory(decode: Callable[[bytes], object]) -> None:
    for body in bombs():
        tracemalloc.start()
        try:
            with pytest.raises(FormatError):
                decode(body)
            assert tracemalloc.get_traced_memory()[1] < MEGABYTE, body[:8]
        finally:
            tracemalloc.stop()
