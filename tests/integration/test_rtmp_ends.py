"""The RTMP input on a real socket: deadlines, limits, and how connections end."""

import asyncio
import contextlib
import socket

import pytest

from common.formats.rtmp import ReconnectRequested, Refused
from common.formats.rtmp_chunk import Message, MessageType, chunked
from common.runtime.units import Duration
from origin.inputs import rtmp
from origin.inputs.rtmp import RtmpSettings
from tests.harness.ingest import SOON, Origin
from tests.harness.studio import running


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at deadlines all the time."""
    monkeypatch.setattr(rtmp, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(rtmp, "LINGER_SECONDS", 0.05)


async def test_a_publisher_that_was_taken_over_is_told_and_closed() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        assert site.origin.publisher is not None
        site.origin.publisher.dismiss("another publisher took over")
        expected = Refused("NetStream.Publish.BadName", "another publisher took over")
        assert await encoder.refused() == expected
    assert site.stream.left == [("another publisher took over", False)]


async def test_an_orderly_end_is_told_from_a_broken_connection() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.stop()
        await encoder.flush()
        assert await site.stream.until_left() == ("FCUnpublish", True)
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        await encoder.close()
        assert await site.stream.until_left() == ("closed by the encoder", False)


async def test_an_encoder_may_publish_again_on_the_same_connection() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.stop()
        encoder.rtmp.publish("KEY")
        await encoder.hear()
        assert len(site.origin.asked) == 2


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x03" + bytes(3072) + b"\xff" * 99])
async def test_garbage_closes_the_connection(data: bytes) -> None:
    async with running() as site:
        encoder = await site.encoder()
        encoder.rtmp.data_to_send()
        await encoder.send(data)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(encoder._reader.read(), SOON)


@pytest.mark.usefixtures("hurry")
async def test_a_silent_connection_is_closed() -> None:
    async with running(settings=RtmpSettings(handshake=Duration(0.05))) as site:
        encoder = await site.encoder()
        assert await asyncio.wait_for(encoder._reader.read(), SOON) == b""


@pytest.mark.usefixtures("hurry")
async def test_a_connection_that_never_publishes_is_closed() -> None:
    async with running(settings=RtmpSettings(publish=Duration(0.05))) as site:
        encoder = await site.encoder()
        await encoder.hear()
        assert await encoder.hear() == []


@pytest.mark.usefixtures("hurry")
async def test_a_publisher_that_falls_silent_is_told_and_closed() -> None:
    async with running(settings=RtmpSettings(silence=Duration(0.05))) as site:
        encoder = await (await site.encoder()).publish()
        assert (await encoder.refused()).text.startswith("silent for")
        assert (await site.stream.until_left())[1] is False


@pytest.mark.usefixtures("hurry")
async def test_an_encoder_that_does_not_go_is_cut_off() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        assert site.origin.publisher is not None
        site.origin.publisher.dismiss("taken over")
        with pytest.raises(ConnectionError):
            await encoder.flood(bytes(100_000))


@pytest.mark.usefixtures("hurry")
async def test_an_encoder_that_does_not_read_our_answers_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rtmp, "MAX_UNSENT", 1000)
    async with running() as site:
        encoder = await (await site.encoder(buffer=4096)).publish()
        [connection] = site.input._connections
        sending = connection._transport.get_extra_info("socket")
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ping = chunked(2, Message(MessageType.USER_CONTROL, 0, 0, b"\x00\x06" + bytes(4)), 128)
        with pytest.raises(ConnectionError):
            await encoder.flood(ping * 1000)
        await site.stream.until_left()


async def test_connections_from_one_address_are_counted() -> None:
    async with running(settings=RtmpSettings(connections_per_address=1)) as site:
        first = await (await site.encoder()).publish()
        second = await site.encoder()
        with contextlib.suppress(ConnectionError):
            assert await second.hear() == []
        await first.close()
        await site.stream.until_left()
        await (await site.encoder()).publish()


async def test_a_stopping_node_asks_encoders_to_reconnect() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        hearing = asyncio.ensure_future(encoder.hear())
        await site.stop()
        [event] = await hearing
    assert isinstance(event, ReconnectRequested)
    assert site.stream.left == [("the origin is stopping", False)]


async def test_a_stopping_node_does_not_wait_for_an_answer() -> None:
    origin = Origin()
    origin.door.clear()
    async with running(origin) as site:
        await (await site.encoder()).request("KEY")
        await origin.knocked.wait()
        await asyncio.wait_for(site.stop(), SOON)


async def test_a_mistake_of_ours_closes_the_connection_and_is_reported() -> None:
    origin = Origin()
    origin.refusal = RuntimeError("a bug")
    reported: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    async with running(origin) as site:
        encoder = await site.encoder()
        await encoder.request("KEY")
        with contextlib.suppress(ConnectionError):
            assert await encoder.hear() == []
    assert [str(error) for error in reported] == ["a bug"]
