"""The RTMP input on a real socket: who is let in, and what is said to who is not."""

from typing import Any

import pytest

from common.errors import (
    AccessDenied,
    HeadwaterError,
    StreamBusy,
    StreamNotFound,
)
from common.formats import amf
from common.formats.flv_tags import video_sequence
from common.formats.rtmp import Refused
from common.formats.rtmp_chunk import Message, MessageType, chunked
from common.media.codec import Codec
from origin.publisher import Publisher
from tests.harness.ingest import Origin
from tests.harness.studio import AVCC, PICTURES, picture, running


async def test_the_query_picks_the_slot() -> None:
    async with running() as site:
        await (await site.encoder()).publish("KEY?slot=backup&x=1")
    assert site.origin.asked == [("live", "KEY", "backup", "rtmp")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AccessDenied("the key fits no stream"), "NetStream.Publish.Denied"),
        (StreamBusy("somebody else publishes"), "NetStream.Publish.BadName"),
        (StreamNotFound("no such stream; add it"), "NetStream.Publish.NotFound"),
        (HeadwaterError("other"), "NetStream.Publish.Failed"),
    ],
)
async def test_a_refusal_says_why_and_closes(error: HeadwaterError, code: str) -> None:
    origin = Origin()
    origin.refusal = error
    async with running(origin) as site:
        encoder = await site.encoder()
        await encoder.request("KEY")
        assert await encoder.refused() == Refused(code, str(error))


async def test_a_refusal_is_read_even_by_an_encoder_that_goes_on_sending() -> None:
    origin = Origin()
    origin.refusal = AccessDenied("no")
    origin.door.clear()
    async with running(origin) as site:
        encoder = await site.encoder()
        await encoder.request("KEY")
        await origin.knocked.wait()
        early = Message(MessageType.VIDEO, 0, 1, bytes(50_000))
        await encoder.send(chunked(6, early, 65536))
        origin.door.set()
        assert (await encoder.refused()).code == "NetStream.Publish.Denied"


async def test_a_query_with_too_many_fields_is_refused() -> None:
    async with running() as site:
        encoder = await site.encoder()
        await encoder.request("KEY?" + "&".join(f"a{i}=1" for i in range(50)))
        assert "query" in (await encoder.refused()).text


async def test_what_is_sent_before_the_answer_is_kept() -> None:
    origin = Origin()
    origin.door.clear()
    async with running(origin) as site:
        encoder = await site.encoder()
        await encoder.request("KEY")
        await origin.knocked.wait()
        bodies = [video_sequence(Codec.H264, AVCC), picture(0), picture(1)]
        for body in bodies:
            await encoder.send(chunked(6, Message(MessageType.VIDEO, 0, 1, body), 65536))
        origin.door.set()
        frames = await site.stream.until_frames(2)
    assert [f.data for f in frames] == PICTURES[:2]


def video(body: bytes) -> bytes:
    return chunked(6, Message(MessageType.VIDEO, 0, 1, body), 65536)


def command(*values: amf.Value) -> bytes:
    return chunked(3, Message(MessageType.COMMAND, 0, 1, amf.encode(*values)), 65536)


async def test_an_encoder_may_send_everything_at_once() -> None:
    async with running() as site:
        encoder = await site.encoder()
        bodies = [video_sequence(Codec.H264, AVCC), picture(0), b"", picture(1)]
        await encoder.request("KEY", *map(video, bodies))
        frames = await site.stream.until_frames(2)
    assert [f.data for f in frames] == PICTURES[:2]


async def test_an_encoder_may_change_its_mind_before_the_answer() -> None:
    async with running() as site:
        encoder = await site.encoder()
        await encoder.request(
            "KEY",
            command("closeStream", 0, None),
            command("publish", 9, None, "OTHER", "live"),
            video(video_sequence(Codec.H264, AVCC)),
            video(picture(0)),
        )
        await site.stream.until_frames(1)
    assert [key for _, key, _, _ in site.origin.asked] == ["KEY", "OTHER"]
    assert site.stream.left[0] == ("the encoder left while it was let in", False)


async def test_nothing_after_the_reason_for_a_refusal_counts() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        await encoder.send(
            video(video_sequence(Codec.H264, AVCC)) + video(b"\x12\x00") + video(picture(0))
        )
        assert (await encoder.refused()).code == "NetStream.Publish.Unsupported"
    assert site.stream.frames == []


async def test_an_encoder_taken_over_while_it_is_let_in_is_told() -> None:
    class Hasty(Origin):
        async def publish(self, *args: Any, **kwargs: Any) -> Publisher:
            publisher = await super().publish(*args, **kwargs)
            publisher.dismiss("taken over at once")
            return publisher

    async with running(Hasty()) as site:
        encoder = await site.encoder()
        await encoder.request("KEY")
        assert (await encoder.refused()).text == "taken over at once"


async def test_an_encoder_that_left_before_the_answer_leaves_no_publisher() -> None:
    origin = Origin()
    origin.door.clear()
    async with running(origin) as site:
        encoder = await site.encoder()
        await encoder.request("KEY")
        await origin.knocked.wait()
        encoder.rtmp.stop()
        await encoder.flush()
        origin.door.set()
        await encoder.close()
        reason, _ = await site.stream.until_left()
    assert site.stream.frames == []
    assert reason


async def test_playing_from_an_origin_is_refused() -> None:
    async with running() as site:
        encoder = await site.encoder()
        await encoder.hear()
        encoder.rtmp.play("KEY")
        assert (await encoder.refused()).code == "NetStream.Play.StreamNotFound"
