"""Viewers that keep every byte they were sent: progressive, WebSocket and LL-HLS."""

import asyncio
import re
import time
from dataclasses import dataclass, field
from urllib.parse import urljoin

import aiohttp


@dataclass
class Watched:
    """What one viewer got."""

    data: bytearray = field(default_factory=bytearray)
    arrived: list[tuple[float, int]] = field(default_factory=list)
    """When (monotonic seconds), and how many bytes there were then."""
    status: int = 0
    error: str = ""

    def take(self, piece: bytes) -> None:
        """Keep what has just arrived."""
        self.data += piece
        self.arrived.append((time.monotonic(), len(self.data)))


async def progressive(http: aiohttp.ClientSession, url: str, got: Watched | None = None) -> Watched:
    """Read a progressive stream into ``got`` until the server ends it."""
    got = got or Watched()
    async with http.get(url) as response:
        got.status = response.status
        async for piece in response.content.iter_any():
            got.take(piece)
    return got


async def websocket(http: aiohttp.ClientSession, url: str) -> Watched:
    """Play over WebSocket as the player page does; keep the binary frames."""
    got = Watched()
    async with http.ws_connect(url.replace("http", "ws", 1), max_msg_size=1 << 24) as socket:
        await socket.send_json({"type": "request_codec_data", "supported_codecs": CODECS})
        await socket.send_json({"type": "play"})
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                got.data += message.data
    return got


CODECS = ["H264", "HEVC", "AV1", "VP9", "AAC", "opus", "MP3"]


@dataclass
class HlsTrack:
    """What an LL-HLS viewer got of one media playlist."""

    init: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    segments: dict[str, bytes] = field(default_factory=dict)
    playlists: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    ended: bool = False

    def stream(self) -> bytes:
        """Return the init segments in front of all parts, in the order they were listed."""
        return b"".join([*self.init.values(), *self.parts.values()])


async def ll_hls(http: aiohttp.ClientSession, url: str) -> dict[str, HlsTrack]:
    """Follow every media playlist of a stream by blocking reloads until it ends."""
    async with http.get(url) as response:
        assert response.status == 200, (response.status, await response.text())
        master, base = await response.text(), str(response.url)
    names = re.findall(r'URI="([^"]+\.m3u8)"', master) + re.findall(r"^[^#\s]\S*", master, re.M)
    own = [name for name in names if "://" not in name]  # the others are the same on other edges
    uris = dict.fromkeys(urljoin(base, name) for name in own)
    tracks = {uri: HlsTrack() for uri in uris}
    await asyncio.gather(*(_follow(http, uri, track) for uri, track in tracks.items()))
    return tracks


async def _follow(http: aiohttp.ClientSession, uri: str, track: HlsTrack) -> None:
    query = ""
    while not track.ended:
        async with http.get(uri + query) as response:
            text, base = await response.text(), str(response.url)
        if response.status != 200:
            track.failures.append(f"{query}: {response.status} {text[:100]}")
            return
        track.playlists.append(text)
        await _take(http, base, text, track)
        query = _next(text)
        track.ended = "#EXT-X-ENDLIST" in text


async def _take(http: aiohttp.ClientSession, base: str, text: str, track: HlsTrack) -> None:
    for name in re.findall(r'#EXT-X-MAP:URI="([^"]+)"', text):
        await _fetch(http, urljoin(base, name), track.init, track.failures)
    for name in re.findall(r'#EXT-X-PART:[^\n]*URI="([^"]+)"', text):
        await _fetch(http, urljoin(base, name), track.parts, track.failures)


async def _fetch(
    http: aiohttp.ClientSession, uri: str, into: dict[str, bytes], failures: list[str]
) -> None:
    if uri in into:
        return
    async with http.get(uri) as response:
        if response.status == 200:
            into[uri] = await response.read()
        else:
            failures.append(f"{uri}: {response.status}")


def _next(text: str) -> str:
    """Return the query of the blocking reload that follows this playlist."""
    found = re.search(r"#EXT-X-MEDIA-SEQUENCE:(\d+)", text)
    first = int(found[1]) if found else 0
    closed = text.count("#EXTINF:")
    tail = text[text.rfind("#EXTINF:") :] if closed else text
    return f"?_HLS_msn={first + closed}&_HLS_part={tail.count('#EXT-X-PART:')}"


def picture(result: Watched | dict[str, HlsTrack]) -> bytes:
    """Return what a viewer got of the picture; fail if it could not fetch something."""
    if isinstance(result, Watched):
        return bytes(result.data)
    for uri, track in result.items():
        assert not track.failures, (uri, track.failures[:5])
    pictures = [track.stream() for uri, track in result.items() if uri.endswith("/1.m3u8")]
    return b"".join(pictures)
