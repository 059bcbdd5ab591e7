"""Who is let in, and what happens when there is no room."""

import asyncio
import errno
import resource
import socket
from collections.abc import Iterator

import pytest

from common.errors import ConfigError
from common.runtime import door, listen, metrics, serving
from common.runtime.door import Crowd, Door, Visit


class Guest(asyncio.Protocol):
    def __init__(self, visit: Visit) -> None:
        self.visit = visit

    def connection_lost(self, exc: Exception | None) -> None:
        self.visit.end()


def refused(reason: str) -> float:
    value = metrics.REGISTRY.get_sample_value(
        "headwater_connections_refused_total", {"reason": reason}
    )
    return value or 0.0


def test_a_crowd_has_room_for_so_many_and_no_more() -> None:
    crowd, before = Crowd(2), refused("full")
    first, second = crowd.enter("192.0.2.1"), crowd.enter("192.0.2.2")
    assert first is not None
    assert second is not None
    assert crowd.enter("192.0.2.3") is None
    assert refused("full") == before + 1
    first.end()
    first.end()
    assert crowd.here == 1
    assert crowd.enter("192.0.2.3") is not None


def test_one_address_cannot_take_the_room_of_all() -> None:
    crowd = Crowd(100, 2, door.networks(["192.0.2.0/28"], "x"))
    held = [crowd.enter("198.51.100.7") for _ in range(2)]
    assert all(held)
    assert crowd.enter("198.51.100.7") is None
    assert crowd.enter("::ffff:198.51.100.7") is None, "the same host, on a socket for both"
    assert crowd.enter("198.51.100.8") is not None
    assert all(crowd.enter("192.0.2.3") for _ in range(20)), "a proxy"
    assert held[0] is not None
    held[0].end()
    assert crowd.enter("198.51.100.7") is not None


def test_all_addresses_of_a_network_of_ipv6_are_one_host() -> None:
    crowd = Crowd(100, 2)
    assert crowd.enter("2001:db8::1") is not None
    assert crowd.enter("2001:db8::dead:beef") is not None
    assert crowd.enter("2001:db8:0:0:1234::") is None
    assert crowd.enter("2001:db8:0:1::1") is not None


def test_nothing_is_remembered_of_hosts_that_have_left() -> None:
    crowd = Crowd(10, 2)
    for number in range(1000):
        visit = crowd.enter(f"203.0.{number // 250}.{number % 250}")
        assert visit is not None
        visit.end()
    assert not crowd._hosts


def test_a_network_that_is_none_is_refused_with_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"edge\.uncounted.*10\.0\.0\.0/8"):
        door.networks(["nonsense"], "edge.uncounted")


class Scarce:
    """A listener that has no descriptors for a while."""

    def __init__(self, listener: socket.socket, failures: int) -> None:
        self.listener, self.failures, self.asked = listener, failures, 0

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return self.listener.accept()

    def fileno(self) -> int:
        return self.listener.fileno()

    def setblocking(self, value: bool) -> None:
        self.listener.setblocking(value)

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen.bind("127.0.0.1:0") as found:
        yield found


async def test_without_descriptors_the_door_rests_and_goes_on(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "REST", 0.02)
    scarce, crowd, before = Scarce(listener, 3), Crowd(10), refused("files")
    made = Door(scarce, Guest, crowd)  # type: ignore[arg-type]
    _, writer = await asyncio.open_connection(*listener.getsockname())
    async with asyncio.timeout(5):
        while not crowd.here:  # noqa: ASYNC110 - state of the event loop
            await asyncio.sleep(0.005)
    assert refused("files") == before + 3
    assert scarce.asked <= 5, "one try each time, not one for each place in the backlog"
    writer.close()
    made.close()


async def test_the_last_descriptors_are_not_for_connections(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "SPARE_FILES", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    crowd, before = Crowd(10), refused("files")
    made = Door(listener, Guest, crowd)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    assert (crowd.here, refused("files")) == (0, before + 1)
    writer.close()
    made.close()


async def test_clients_that_read_nothing_are_the_business_of_the_kernel(
    listener: socket.socket,
) -> None:
    """Accepted sockets inherit the limit; that it acts on a shut window is seen in test_hostile."""
    serving.prepare(listener, 3.0)
    with socket.create_connection(listener.getsockname()):
        accepted = None
        while accepted is None:
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                await asyncio.sleep(0.001)
        with accepted:
            level = socket.IPPROTO_TCP
            assert accepted.getsockopt(level, socket.TCP_USER_TIMEOUT) == 5000
