import asyncio
import socket
from unittest.mock import Mock

import pytest

from common.bus.knock import KNOCK_US, REST_US, Knocker


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


async def until(done: list[int]) -> None:
    async with asyncio.timeout(5):
        while not done:  # noqa: ASYNC110 - filled by a callback
            await asyncio.sleep(0.01)


async def test_whoever_opens_is_told_once_and_left_alone_for_a_while() -> None:
    opened: list[int] = []
    knocks = 0

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.close()

    clock = Clock()
    knocker = Knocker(opened.append, clock)
    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        endpoint = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        knocker.tick(endpoint, clock.now)
        await until(opened)
        for clock.now in range(0, REST_US, KNOCK_US // 5):
            knocker.tick(endpoint, clock.now)
        await asyncio.sleep(0.05)
        assert (len(opened), knocks) == (1, 1)
        clock.now = REST_US
        knocker.tick(endpoint, clock.now)
        opened.clear()
        await until(opened)
    knocker.close()


async def test_a_try_that_the_kernel_has_repeated_tells_no_round_trip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[int] = []
    clock = Clock()

    async def late(host: str, port: int) -> tuple[None, Mock]:
        clock.now += 1_040_000 if port == 1 else 40_000
        return None, Mock()

    monkeypatch.setattr(asyncio, "open_connection", late)
    knocker = Knocker(opened.append, clock)
    for port, round_trip in ((1, 0), (2, 40_000)):
        knocker.tick(f"tcp://127.0.0.1:{port}", clock.now)
        await until(opened)
        assert opened == [round_trip]
        opened.clear()
        knocker.tick(f"tcp://127.0.0.1:{port}", clock.now + REST_US - 1)
        assert not knocker._tries
        clock.now += REST_US


async def test_a_closed_port_is_knocked_at_every_100_ms() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        opened: list[int] = []
        clock = Clock()
        knocker = Knocker(opened.append, clock)
        tries = []
        for clock.now in range(0, 1_000_000, 50_000):
            before = set(knocker._tries)
            knocker.tick(endpoint, clock.now)
            tries += [clock.now for _ in knocker._tries - before]
        await asyncio.sleep(0.1)
        assert tries == list(range(0, 1_000_000, 100_000))
        assert not opened
        assert not knocker._tries
        knocker.close()


async def test_knocks_under_way_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", never)
    knocker = Knocker(lambda _: None, Clock())
    knocker.tick("tcp://[::1]:1", 0)
    [task] = knocker._tries
    await asyncio.sleep(0)
    knocker.close()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
