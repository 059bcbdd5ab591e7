"""Messages between supervisor and child."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterator

import msgpack
import pytest

from common.errors import ProtocolError
from common.runtime import control, wake
from common.runtime.control import Channel


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = control.pair()
    yield pair
    for end in pair:
        end.close()


Ends = tuple[socket.socket, socket.socket]


async def test_messages_arrive_in_order_whatever_their_size(ends: Ends) -> None:
    here, there = Channel(ends[0]), Channel(ends[1])
    sent = [{"n": n, "body": b"x" * size} for n, size in enumerate([0, 3_000_000, 1, 70_000])]
    assert all(here.send(message) for message in sent)
    assert [await anext(there) for _ in sent] == sent
    here.close()
    there.close()


async def test_iteration_ends_when_the_peer_is_gone_and_nothing_is_lost(ends: Ends) -> None:
    here, there = Channel(ends[0]), Channel(ends[1])
    here.send({"last": True})
    here.close()
    assert [message async for message in there] == [{"last": True}]
    assert there.closed
    assert not there.send({})


async def test_an_inherited_descriptor_will_do(ends: Ends) -> None:
    here = Channel(ends[0])
    there = Channel(ends[1].detach())
    there.send({"t": "ready"})
    assert await anext(here) == {"t": "ready"}
    here.close()
    there.close()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", control.MAX_MESSAGE + 1),
        struct.pack("<I", 1) + b"\xc1",
        struct.pack("<I", 1) + msgpack.packb(7),
        struct.pack("<I", 3) + msgpack.packb({}) + b"xx",
    ],
)
async def test_a_peer_that_sends_garbage_is_cut(ends: Ends, data: bytes) -> None:
    there = Channel(ends[1])
    ends[0].sendall(data)
    assert [message async for message in there] == []
    assert there.closed


async def test_bytes_may_come_one_by_one(ends: Ends) -> None:
    there = Channel(ends[1])
    body = msgpack.packb({"a": 1})
    for byte in struct.pack("<I", len(body)) + body:
        ends[0].sendall(bytes([byte]))
        await asyncio.sleep(0)
    assert await anext(there) == {"a": 1}
    there.close()


async def test_a_peer_that_does_not_read_is_cut(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_UNSENT", 1_000_000)
    here = Channel(ends[0])
    results = [here.send({"body": b"x" * 300_000}) for _ in range(10)]
    assert not results[-1]
    assert here.closed


async def test_a_message_that_is_too_large_is_refused(ends: Ends) -> None:
    here = Channel(ends[0])
    with pytest.raises(ProtocolError, match="too large"):
        here.send({"body": b"x" * (control.MAX_MESSAGE + 1)})
    here.close()


async def test_a_reader_that_is_busy_slows_the_sender(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_UNREAD", 10)
    here, there = Channel(ends[0]), Channel(ends[1])
    for number in range(20_000):
        here.send({"n": number})
    assert [(await anext(there))["n"] for _ in range(20_000)] == list(range(20_000))
    here.close()
    there.close()


async def test_rings_before_a_wait_are_one() -> None:
    fd = wake.create()
    calls: list[int] = []
    reader = wake.Wake(fd, lambda: calls.append(1))
    for _ in range(5):
        wake.ring(fd)
    assert await reader.wait(5)
    assert not await reader.wait(0.01)
    assert calls == [1]
    reader.close()
    os.close(fd)


async def test_a_ring_while_waiting_wakes() -> None:
    fd = wake.create()
    reader = wake.Wake(fd)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    wake.ring(fd)
    assert await asyncio.wait_for(waiting, 5)
    reader.close()
    os.close(fd)


def test_ringing_never_waits_however_often() -> None:
    fd = wake.create()
    os.eventfd_write(fd, 2**64 - 2)
    wake.ring(fd)
    os.close(fd)


async def test_another_image_goes_on_in_the_middle_of_a_message() -> None:
    ours, theirs = control.pair()
    peer = socket.socket(fileno=theirs.detach())
    channel = Channel(ours)
    body = msgpack.packb({"t": "whole"})
    data = struct.pack("<I", len(body)) + body
    peer.sendall(data + data[:7])
    assert await anext(channel) == {"t": "whole"}
    fd, unread = channel.leave()
    asyncio.get_running_loop().remove_reader(ours)
    assert unread == data[:7]
    heir = Channel(os.dup(fd), unread)
    peer.sendall(data[7:])
    assert await anext(heir) == {"t": "whole"}
    heir.close()
    channel.close()
    peer.close()
