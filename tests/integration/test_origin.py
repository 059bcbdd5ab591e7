"""A whole origin in this process: RTMP in at one end, pages, bus, API and metrics at the other."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from common.bus.broadcast import Broadcast
from common.errors import ConfigError, ListenError
from common.formats.flv_tags import audio_head, audio_sequence, video_head, video_sequence
from common.formats.rtmp import ClientConnection, Connected, Refused, State
from common.media.codec import Codec
from common.runtime import ready
from common.runtime.config import StreamSettings, load
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.trust import guard
from common.track.index import Closed
from common.track.record import Flag
from common.track.store import StreamReader, streams_under
from origin import app
from origin.app import check, input_settings, run
from origin.config import Config
from origin.inputs.rtmp import RtmpInput
from tests.unit.media.samples import ASC_LC, AVCC_BASELINE

SOON = 10.0


def config(folder: Path, **more: str) -> Config:
    free = "127.0.0.1:0"
    values = {
        "node.name": "one",
        "node.run": str(folder / "run"),
        "node.pages": str(folder / "pages"),
        "node.registry": str(folder / "registry"),
        "origin.rtmp": free,
        "origin.http": free,
        "origin.bus": free,
        "origin.control": free,
        "origin.gossip": free,
        "streams.live.key": "sesame",
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return load(Config, None, values)


@contextlib.asynccontextmanager
async def running(settings: Config) -> AsyncIterator[dict[str, str]]:
    """Run an origin; yields its endpoints."""
    task = asyncio.create_task(run(settings))
    try:
        async with asyncio.timeout(SOON):
            while (found := ready.read(settings.node.run, settings.node.name)) is None:
                if task.done():
                    await task
                await asyncio.sleep(0.01)
        yield found.endpoints
    finally:
        task.cancel()
        async with asyncio.timeout(2):
            await asyncio.wait({task})
    assert ready.read(settings.node.run, settings.node.name) is None


class Encoder:
    """A small RTMP encoder: 25 frames a second of H.264 and AAC, as fast as it goes."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.rtmp = ClientConnection("live", f"rtmp://{address}/live")
        self.refusal: Refused | None = None

    async def publish(self, key: str) -> "Encoder":
        host, _, port = self.address.rpartition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(SOON):
            while self.rtmp.state is not State.PUBLISHING and self.refusal is None:
                self.writer.writelines(self.rtmp.data_to_send())
                for event in self.rtmp.feed(await self.reader.read(65536)):
                    if isinstance(event, Connected):
                        self.rtmp.publish(key)
                    elif isinstance(event, Refused):
                        self.refusal = event
        return self

    async def send(self, frames: int) -> None:
        self.rtmp.send_video(0, video_sequence(Codec.H264, AVCC_BASELINE))
        self.rtmp.send_audio(0, audio_sequence(Codec.AAC, ASC_LC))
        heard = 0
        for number in range(frames):
            key = number % 50 == 0
            data = b"\0\0\0\x05" + (b"\x65" if key else b"\x41") + b"%04d" % number
            self.rtmp.send_video(number * 40, video_head(Codec.H264, key, 0) + data)
            while heard * 1024 < (number + 1) * 40 * 48:
                sound = audio_head(Codec.AAC, 48_000, 2) + b"sound"
                self.rtmp.send_audio(heard * 1024 // 48, sound)
                heard += 1
        self.writer.writelines(self.rtmp.data_to_send())
        await self.writer.drain()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def get(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        text = await response.text()
        return response.status, json.loads(text) if "json" in response.content_type else text


async def until(url: str, wanted: str, value: object) -> dict[str, Any]:
    """Return the stream once the API says so."""
    async with asyncio.timeout(SOON):
        while True:
            _, tree = await get(f"{url}/api/v1/streams")
            for stream in tree["streams"]:
                if stream[wanted] == value:
                    return cast(dict[str, Any], stream)
            await asyncio.sleep(0.02)


def reader_of(settings: Config) -> StreamReader:
    pages = Path(settings.node.pages)
    [(stream, epoch)] = streams_under(pages)
    return StreamReader.open(pages, stream, epoch)


async def test_what_an_encoder_pushes_stands_in_pages_api_and_metrics(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with running(settings) as endpoints:
        url = f"http://{endpoints['http']}"
        assert (await get(f"{url}/healthz"))[0] == 200
        assert (await get(f"{url}/readyz"))[0] == 200
        assert {"rtmp", "http", "bus", "control"} <= set(endpoints)
        encoder = await Encoder(endpoints["rtmp"]).publish("sesame")
        await encoder.send(150)
        stream = await until(url, "next_segment", 3)
        assert stream["name"] == "live"
        assert stream["live"]
        assert [track["codec"] for track in stream["tracks"]] == ["h264", "aac"]
        assert stream["publishers"][0]["protocol"] == "rtmp"
        assert stream["role"] == "leader"
        assert "sesame" not in json.dumps(stream)
        owner = await EmbeddedRegistry(settings.node.registry).owner("live")
        assert owner is not None
        assert owner.endpoints["bus"] == endpoints["bus"]
        second = await Encoder(endpoints["rtmp"]).publish("sesame")
        assert second.refusal is not None
        wrong = await Encoder(endpoints["rtmp"]).publish("sesam")
        assert wrong.refusal is not None
        await encoder.close()
        await until(url, "publishers", [])
        status, text = await get(f"{url}/metrics")
        assert status == 200
        assert 'headwater_publishers_refused_total{protocol="rtmp",reason="AccessDenied"}' in text
        assert (await get(f"{url}/api/v1/streams/live"))[0] == 200
        assert (await get(f"{url}/api/v1/streams/other"))[0] == 404
        reader = reader_of(settings)
        assert reader.track(1).head == 150
        assert [row.opened.segment for _, row in reader.rows() if isinstance(row, Closed)] == [
            0,
            1,
            2,
        ]
        reader.close()
        for late in (second, wrong):
            await late.close()


async def test_a_restarted_origin_goes_on_in_the_pages_it_left(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with running(settings) as endpoints:
        encoder = await Encoder(endpoints["rtmp"]).publish("sesame")
        await encoder.send(80)
        await until(f"http://{endpoints['http']}", "next_segment", 2)
        epoch = streams_under(Path(settings.node.pages))[0][1]
    await encoder.close()
    async with running(settings) as endpoints:
        url = f"http://{endpoints['http']}"
        stream = await until(url, "next_segment", 2)
        assert stream["epoch"] == epoch
        again = await Encoder(endpoints["rtmp"]).publish("sesame")
        await again.send(60)
        await until(url, "next_segment", 4)
        reader = reader_of(settings)
        track = reader.track(1)
        first = track.first_of_segment(2)
        assert first is not None
        assert track.record(first).flags & Flag.DISCONTINUITY
        assert track.runs() == [(0, track.head)]
        reader.close()
    await again.close()


async def test_a_taken_port_names_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=r"set origin\.http"):
            await run(config(tmp_path, origin__http=address))
        with pytest.raises(ExceptionGroup) as group:
            await run(config(tmp_path, origin__rtmp=address))
    assert group.group_contains(ListenError, match="rtmp")


async def test_settings_that_do_not_fit_are_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"streams\.live\.source: no input can fetch"):
        check(config(tmp_path, streams__live__source="gopher://x"))
    unknown = config(tmp_path, origin__inputs__rtpm__listen=":1")
    with pytest.raises(ConfigError, match="did you mean 'rtmp'"):
        check(unknown)
    wrong = config(tmp_path, origin__inputs__rtmp__lisen=":1")
    with pytest.raises(ConfigError, match="did you mean 'listen'"):
        check(wrong)
    for source, reason in (
        ("videogen://?sise=640x360", "did you mean 'size'"),
        ("videogen://?fps=many", "frames a second"),
        ("file:///a.mp4?lopp=0", "the only option is loop"),
        ("file://elsewhere/a.mp4", "file:///absolute/path"),
    ):
        with pytest.raises(ConfigError, match=reason) as raised:
            await run(config(tmp_path, streams__live__source=source))
        assert raised.value.path == "streams.live.source"
    check(config(tmp_path, streams__live__source=str(tmp_path / "not there yet.mp4")))
    own = config(tmp_path, origin__inputs__rtmp__silence="5s")
    given = input_settings("rtmp", RtmpInput, own.origin)
    assert (given.listen, given.silence) == ("127.0.0.1:0", 5)


async def test_the_rate_of_repair_is_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Broadcast] = []

    class Noted(Broadcast):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)

    monkeypatch.setattr(app, "Broadcast", Noted)
    async with running(config(tmp_path, origin__repair_rate="2MB")):
        assert made[0]._controls._rate == 2_000_000
    with pytest.raises(ConfigError, match=r"origin\.repair_rate: must be 262144 bytes"):
        check(config(tmp_path, origin__repair_rate="1kB"))


@pytest.mark.parametrize(
    ("remote", "headers", "allowed"),
    [
        ("127.0.0.1", {"Host": "127.0.0.1:4242"}, True),
        ("::1", {"Host": "[::1]:4242"}, True),
        ("::ffff:127.0.0.1", {"Host": "localhost:4242"}, True),
        ("192.0.2.7", {"Host": "origin.example"}, False),
        ("192.0.2.7", {"Host": "o", "Authorization": "Bearer token"}, True),
        ("192.0.2.7", {"Host": "o", "Authorization": "Bearer nonsense"}, False),
        ("127.0.0.1", {"Host": "127.0.0.1", "X-Forwarded-For": "192.0.2.7"}, False),
        ("127.0.0.1", {"Host": "rebound.example:4242"}, False),
        ("127.0.0.1", {"Host": "localhost:4242", "Origin": "https://evil.example"}, False),
        ("127.0.0.1", {"Host": "localhost:4242", "Origin": "http://localhost:4242"}, True),
    ],
)
async def test_the_api_answers_this_machine_and_bearers_of_the_token(
    remote: str, headers: dict[str, str], allowed: bool
) -> None:
    @guard("token", "origin")
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text="yes")

    transport = SimpleNamespace(get_extra_info=lambda _: (remote, 1), is_closing=lambda: False)
    request = make_mocked_request(
        "GET", "/api/v1/streams", headers=headers, transport=cast(asyncio.Transport, transport)
    )
    assert (await handler(request)).status == (200 if allowed else 401)


async def test_without_a_token_other_machines_are_always_refused() -> None:
    @guard("", "origin")
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text="yes")

    transport = SimpleNamespace(get_extra_info=lambda _: ("192.0.2.7", 1))
    request = make_mocked_request(
        "GET",
        "/",
        headers={"Authorization": "Bearer "},
        transport=cast(asyncio.Transport, transport),
    )
    assert (await handler(request)).status == 401


async def test_a_source_in_the_configuration_is_published(tmp_path: Path) -> None:
    settings = config(tmp_path, streams__test__source="videogen://?size=160x90&fps=10")
    assert settings.streams["test"] == StreamSettings(source="videogen://?size=160x90&fps=10")
    async with running(settings) as endpoints:
        url = f"http://{endpoints['http']}"
        stream = await until(url, "name", "test")
        assert stream["publishers"][0]["protocol"] == "videogen"
