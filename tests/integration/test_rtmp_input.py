"""The RTMP input on a real socket, with our own client as the encoder and a fake origin behind."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any

import av
import pytest

from common.errors import (
    AccessDenied,
    HeadwaterError,
    StreamBusy,
    StreamNotFound,
    TrackUnsupported,
)
from common.formats import amf
from common.formats.flv_tags import video_head, video_sequence
from common.formats.rtmp import ClientConnection, Event, ReconnectRequested, Refused, State
from common.formats.rtmp_chunk import Message, MessageType, chunked
from common.media.audio import parse_mp3_header
from common.media.codec import Codec
from common.media.h264 import avcc_from_nals
from common.media.nal import split_annexb, to_length_prefixed
from common.runtime.units import Duration
from origin.flv_feed import MAX_HEADLESS, mp3_setup
from origin.inputs import rtmp
from origin.inputs.rtmp import RtmpSettings
from origin.publisher import Publisher
from tests.harness import ingest
from tests.harness.ingest import SOON, Origin, Site

ASC = bytes.fromhex("1190")
VP9_KEY = bytes.fromhex("824983420003f003f60038241c184a000030600000673fffff564564eecc00")
"""A key frame of 64 x 64 by libvpx."""


class Encoder:
    """A client on a real socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.rtmp = ClientConnection("live", "rtmp://origin/live")

    async def flush(self) -> None:
        for data in self.rtmp.data_to_send():
            self._writer.write(data)
        await self._writer.drain()

    async def hear(self) -> list[Event]:
        """Return the next events; none once the origin has closed."""
        async with asyncio.timeout(SOON):
            while True:
                await self.flush()
                data = await self._reader.read(65536)
                if not data:
                    return []
                if events := self.rtmp.feed(data):
                    return events

    async def request(self, name: str, *more: bytes) -> None:
        """Ask to publish; send ``more`` along with the request, without waiting."""
        await self.hear()
        self.rtmp.publish(name)
        async with asyncio.timeout(SOON):
            while "publish" not in self.rtmp._asked.values():
                await self.flush()
                self.rtmp.feed(await self._reader.read(65536))
        await self.send(b"".join([*self.rtmp.data_to_send(), *more]))

    async def publish(self, name: str = "KEY") -> "Encoder":
        await self.request(name)
        await self.hear()
        assert self.rtmp.state is State.PUBLISHING
        return self

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def flood(self, data: bytes) -> None:
        async with asyncio.timeout(SOON):
            while True:
                await self.send(data)

    async def refused(self) -> Refused:
        """Return the refusal; after it the origin closes."""
        [event] = await self.hear()
        assert isinstance(event, Refused)
        assert await self.hear() == []
        return event

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Studio:
    """A running input and the encoders that connect to it; they leave before it stops."""

    def __init__(self, site: Site) -> None:
        self.origin = site.origin
        self.stream = site.stream
        self.input = site.input
        self.stop = site.stop
        self._target = site.target
        self._encoders: list[Encoder] = []

    async def encoder(self, buffer: int = 0) -> Encoder:
        """Return a new encoder; ``buffer`` is how little its socket receives unread."""
        client = socket.create_connection(self._target)
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        encoder = Encoder(*await asyncio.open_connection(sock=client, limit=buffer or 2**16))
        self._encoders.append(encoder)
        return encoder

    async def close(self) -> None:
        for encoder in self._encoders:
            await encoder.close()


@contextlib.asynccontextmanager
async def running(
    origin: Origin | None = None, settings: RtmpSettings | None = None
) -> AsyncIterator[Studio]:
    async with ingest.running(origin, settings) as site:
        studio = Studio(site)
        try:
            yield studio
        finally:
            await studio.close()


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at deadlines all the time."""
    monkeypatch.setattr(rtmp, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(rtmp, "LINGER_SECONDS", 0.05)


def h264() -> tuple[bytes, list[bytes]]:
    """Return avcC and coded pictures, the first and the fourth of them keyframes."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 64, 64, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.gop_size, encoder.flags = 3, encoder.flags | av.codec.context.Flags.global_header
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency"}
    packets = []
    for number in range(6):
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([number * 20]) * plane.buffer_size)
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    extradata = encoder.extradata
    assert extradata is not None
    avcc = avcc_from_nals(split_annexb(extradata))
    assert avcc is not None
    return avcc, [to_length_prefixed(bytes(packet)) for packet in packets]


AVCC, PICTURES = h264()


def picture(number: int, keyframe: bool = False, cts: int = 0) -> bytes:
    return video_head(Codec.H264, keyframe, cts) + PICTURES[number]


async def test_frames_arrive_byte_for_byte_with_their_times() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        client = encoder.rtmp
        client.send_data(0, "@setDataFrame", "onMetaData", {"width": 64})
        client.send_video(2**31 - 8, video_sequence(Codec.H264, AVCC))
        client.send_audio(2**31 - 8, b"\xaf\x00" + ASC)
        for number in range(3):
            client.send_video(2**31 - 8 + number * 40, picture(number, cts=80))
            client.send_audio(2**31 - 8 + number * 21, b"\xaf\x01" + bytes([number]) * 300)
        await encoder.flush()
        frames = await site.stream.until_frames(6)
    assert site.origin.asked == [("live", "KEY", "main", "rtmp")]
    assert [(t.codec, t.init, t.clock, t.wrap_bits) for t in site.stream.tracks] == [
        (Codec.H264, AVCC, 1000, 32),
        (Codec.AAC, ASC, 1000, 32),
    ]
    video = [f for f in frames if f.track == 1]
    assert [f.data for f in video] == PICTURES[:3]
    assert [f.dts for f in video] == [2**31 - 8, 2**31 + 32, 2**31 + 72]
    assert {f.cts for f in video} == {80}
    audio = [f for f in frames if f.track == 2]
    assert [f.data for f in audio] == [bytes([number]) * 300 for number in range(3)]
    assert all(f.keyframe for f in audio)


async def test_keyframes_are_found_in_the_bits_not_in_the_flags() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_video(0, video_sequence(Codec.H264, AVCC))
        for number in range(4):
            encoder.rtmp.send_video(number * 40, picture(number, keyframe=number == 1))
        await encoder.flush()
        frames = await site.stream.until_frames(4)
    assert [frame.keyframe for frame in frames] == [True, False, False, True]


async def test_repeated_metadata_and_equal_sequence_headers_restart_nothing() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        for number in range(3):
            encoder.rtmp.send_data(0, "@setDataFrame", "onMetaData", {"width": number})
            encoder.rtmp.send_video(number * 40, video_sequence(Codec.H264, AVCC))
            encoder.rtmp.send_video(number * 40, picture(number))
        encoder.rtmp.send_video(200, video_sequence(Codec.H264, AVCC + b"\x00"))
        encoder.rtmp.send_video(200, picture(3))
        await encoder.flush()
        await site.stream.until_frames(4)
    assert len(site.stream.tracks) == 1
    assert site.stream.inits == [(1, AVCC + b"\x00")]


async def test_a_codec_changed_in_mid_stream_opens_another_track() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_audio(0, b"\xaf\x00" + ASC)
        encoder.rtmp.send_audio(0, b"\xaf\x01aac")
        encoder.rtmp.send_audio(40, b"\x90Opus")
        encoder.rtmp.send_audio(40, b"\x91Opusxx")
        await encoder.flush()
        frames = await site.stream.until_frames(2)
    assert [t.codec for t in site.stream.tracks] == [Codec.AAC, Codec.OPUS]
    assert [f.track for f in frames] == [1, 2]


async def test_mp3_gets_its_rate_from_the_frame() -> None:
    joint = bytes.fromhex("fffb9264") + bytes(413)
    stereo = bytes.fromhex("fffba200") + bytes(413)
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_audio(0, b"\x2f" + joint)
        encoder.rtmp.send_audio(26, b"\x2fnot a frame")
        encoder.rtmp.send_audio(26, b"\x2f" + stereo)
        await encoder.flush()
        frames = await site.stream.until_frames(2)
    [track] = site.stream.tracks
    assert parse_mp3_header(track.init).sample_rate == 44100
    assert site.stream.inits == []
    assert [f.data for f in frames] == [joint, stereo]


def test_mono_and_stereo_mp3_differ_in_their_setup() -> None:
    mono, stereo = bytes.fromhex("fffb90c4"), bytes.fromhex("fffb9064")
    assert parse_mp3_header(mp3_setup(mono)).channels == 1
    assert parse_mp3_header(mp3_setup(stereo)).channels == 2


async def test_text_and_cue_points_become_a_json_track() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_data(7, "onTextData", {"text": "hé", "at": [amf.Date(5.0), None]})
        encoder.rtmp.send_data(8, "onTextData", {"bad": float("nan")})
        encoder.rtmp.send_data(9, "onCuePoint")
        await encoder.flush()
        frames = await site.stream.until_frames(2)
    assert [t.codec for t in site.stream.tracks] == [Codec.JSON]
    assert [(f.dts, f.data.decode()) for f in frames] == [
        (7, '{"name": "onTextData", "data": {"text": "hé", "at": [5.0, null]}}'),
        (9, '{"name": "onCuePoint", "data": null}'),
    ]


async def test_several_tracks_in_one_message_are_left_out_and_the_rest_goes_on() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_video(0, video_sequence(Codec.H264, AVCC))
        encoder.rtmp.send_video(0, b"\x96\x00avc1\x01")
        encoder.rtmp.send_audio(0, b"\x95\x00mp4a\x01")
        encoder.rtmp.send_video(0, b"\x17\x01\x00\x00\x00\xff\xff\xff\xff broken")
        encoder.rtmp.send_video(0, picture(0))
        await encoder.flush()
        frames = await site.stream.until_frames(1)
    assert [f.data for f in frames] == PICTURES[:1]


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


async def test_vp9_setup_bytes_are_those_of_a_vpcc_box_in_either_form() -> None:
    bare = bytes.fromhex("000a820202020000")
    for setup in (bare, b"\x01\x00\x00\x00" + bare):
        async with running() as site:
            encoder = await (await site.encoder()).publish()
            encoder.rtmp.send_video(0, b"\x90vp09" + setup)
            encoder.rtmp.send_video(0, b"\x91vp09" + VP9_KEY)
            await encoder.flush()
            [frame] = await site.stream.until_frames(1)
        assert [t.init for t in site.stream.tracks] == [b"\x01\x00\x00\x00" + bare]
        assert (frame.data, frame.keyframe) == (VP9_KEY, True)


async def test_empty_bodies_and_setup_that_no_codec_needs_are_ignored() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_audio(0, b"")
        encoder.rtmp.send_audio(0, b"\x90.mp3setup")
        encoder.rtmp.send_audio(0, b"\x92Opus")
        encoder.rtmp.send_video(0, b"\x17\x02")
        encoder.rtmp.send_audio(0, b"\xaf\x00" + ASC)
        encoder.rtmp.send_audio(0, b"\xaf\x01")
        encoder.rtmp.send_audio(0, b"\xaf\x01raw")
        await encoder.flush()
        await site.stream.until_frames(1)
    assert [t.codec for t in site.stream.tracks] == [Codec.AAC]


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


@pytest.mark.parametrize(
    ("send", "name"),
    [("video", "Sorenson"), ("audio", "Speex")],
)
async def test_an_unknown_codec_is_refused_by_name(send: str, name: str) -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        if send == "video":
            encoder.rtmp.send_video(0, b"\x12\x00")
        else:
            encoder.rtmp.send_audio(0, b"\xb2\x00")
        refusal = await encoder.refused()
        assert refusal.code == "NetStream.Publish.Unsupported"
        assert name in refusal.text
        assert (await site.stream.until_left())[1] is False


async def test_frames_without_a_sequence_header_are_refused_after_a_while() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        for number in range(MAX_HEADLESS + 1):
            encoder.rtmp.send_video(number * 40, picture(0))
        assert "sequence header" in (await encoder.refused()).text


async def test_what_the_stream_cannot_take_is_told_to_the_encoder() -> None:
    async with running() as site:
        site.stream.fail = TrackUnsupported("no keyframe for 10 s: set a keyframe interval")
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_video(0, video_sequence(Codec.H264, AVCC))
        encoder.rtmp.send_video(0, picture(1))
        refusal = await encoder.refused()
    assert refusal.text.startswith("no keyframe")


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


async def test_playing_from_an_origin_is_refused() -> None:
    async with running() as site:
        encoder = await site.encoder()
        await encoder.hear()
        encoder.rtmp.play("KEY")
        assert (await encoder.refused()).code == "NetStream.Play.StreamNotFound"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x03" + bytes(3072) + b"\xff" * 99])
async def test_garbage_closes_the_connection(data: bytes) -> None:
    async with running() as site:
        encoder = await site.encoder()
        encoder.rtmp.data_to_send()
        await encoder.send(data)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(encoder._reader.read(), SOON)


async def test_a_broken_body_is_refused() -> None:
    async with running() as site:
        encoder = await (await site.encoder()).publish()
        encoder.rtmp.send_video(0, b"\x17")
        assert (await encoder.refused()).code == "NetStream.Publish.Failed"


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
