"""An edge over HTTPS: every frame, certificates that change under load, memory of a connection."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from common.runtime import ready
from tests.harness import certificates, viewers
from tests.harness.ledger import difference, first_key, missing_at_start
from tests.harness.media import FFMPEG, Packet, clip, packets, push
from tests.harness.nodes import Node, Site, site, start

pytestmark = pytest.mark.e2e

SOON = 60.0
HANDSHAKE = 20.0
"""Seconds after which a handshake and its answer have failed."""

CLIENTS, PAUSE = 8, 0.1
"""Who opens one connection after the other, and the seconds between two of one client."""

IDLE = 200
"""Connections whose memory is measured."""

MOST = 64_000
"""Bytes that each may take."""


@dataclass
class Secure:
    """An origin and an edge with a certificate."""

    site: Site
    origin: Node
    edge: Node
    files: tuple[Path, Path]
    trusted: list[Path]

    @property
    def url(self) -> str:
        return f"https://{self.edge.endpoints['https']}"

    def client(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=certificates.client(*self.trusted))
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120))

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self.edge.endpoints['admin']}/metrics") as answer:
            found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def until(self, name: str, value: float) -> None:
        async with asyncio.timeout(SOON):
            while await asyncio.to_thread(self.metric, name) != value:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Secure]:
    files = certificates.make(tmp_path, "edge")
    first = tmp_path / "first.crt"
    first.write_bytes(files[0].read_bytes())
    with site(tmp_path) as made:
        origin = made.add("origin", "origin")
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        tls = f'{{listen = "{address}", certificate = "{files[0]}", key = "{files[1]}"}}'
        settings = {"tls": tls, "viewers": "1", "public": f'"https://{address}"'}
        edge = made.add("edge", "edge", settings)
        start(origin, edge)
        yield Secure(made, origin, edge, files, [first])


async def test_every_frame_arrives_over_tls(secure: Secure, tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", 8)
    video, audio = packets(source, "video"), packets(source, "audio")
    saved = tmp_path / "saved.mkv"
    async with secure.client() as http:
        mp4 = asyncio.create_task(viewers.progressive(http, f"{secure.url}/live.mp4"))
        flv = asyncio.create_task(viewers.progressive(http, f"{secure.url}/live.flv"))
        ws = asyncio.create_task(viewers.websocket(http, f"{secure.url}/live.mp4"))
        hls = asyncio.create_task(viewers.ll_hls(http, f"{secure.url}/cmaf/live/index.m3u8"))
        foreign = record(f"{secure.url}/live.mp4", saved)
        process = push(source, secure.site.ingest(secure.origin))
        try:
            await asyncio.gather(mp4, flv, ws, hls)
            assert foreign.wait(SOON) == 0
        finally:
            for one in (process, foreign):
                one.kill()
                one.wait()
    wrong: dict[str, str] = {}
    for name, task in {"mp4": mp4, "flv": flv, "ws": ws}.items():
        wrong |= check(name, bytes(task.result().data), video, audio)
    for uri, track in hls.result().items():
        assert not track.failures, (uri, track.failures[:5])
        wrong |= check(uri, track.stream(), video, audio)
    assert len(wrong) == 8
    assert not {name: what for name, what in wrong.items() if what}, wrong
    got = packets(saved, "video")
    assert len(got) > 25 * 6
    assert {one.payload for one in got} <= {one.payload for one in video}


def record(url: str, path: Path) -> "subprocess.Popen[bytes]":
    """Have ffmpeg write what it gets over HTTPS into a file."""
    options = ["-rw_timeout", "20000000", "-i", url, "-c", "copy", str(path)]
    return subprocess.Popen([*FFMPEG, *options])


def check(name: str, data: bytes, video: list[Packet], audio: list[Packet]) -> dict[str, str]:
    found = {}
    for kind, pushed in (("video", video[first_key(video) :]), ("audio", audio)):
        with contextlib.suppress(IndexError):  # a rendition has one of them
            got = packets(data, kind)
            found[f"{name} {kind}"] = difference(pushed, got, tick=0.005)
            if kind == "video" and missing_at_start(pushed, got):
                found[f"{name} {kind}"] += f" {missing_at_start(pushed, got)} missing at the start"
    assert found, f"{name}: no tracks in {len(data)} bytes"
    return found


@contextlib.asynccontextmanager
async def handshakes(secure: Secure, seen: Counter[bytes]) -> AsyncIterator[list[str]]:
    """Open one connection after the other, each with a request; yield what fails."""
    failures: list[str] = []
    request = b"GET /player.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    host, _, port = secure.edge.endpoints["https"].rpartition(":")

    async def client() -> None:
        while True:
            context = certificates.client(*secure.trusted)
            try:
                async with asyncio.timeout(HANDSHAKE):
                    reader, writer = await asyncio.open_connection(host, port, ssl=context)
                    with contextlib.closing(writer):
                        tls = writer.get_extra_info("ssl_object")
                        writer.write(request)
                        answer = await reader.read()
                if not answer.startswith(b"HTTP/1.1 200"):
                    failures.append(repr(answer[:80]))
                seen[tls.getpeercert(True)] += 1
                await asyncio.sleep(PAUSE)
            except (OSError, TimeoutError) as error:
                failures.append(repr(error))

    tasks = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    try:
        yield failures
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        failures += [repr(end) for end in ends if isinstance(end, Exception)]


async def test_certificates_change_and_the_edge_restarts_without_a_failed_handshake(
    secure: Secure, tmp_path: Path
) -> None:
    second = certificates.make(tmp_path, "second", days=60, kind=certificates.RSA)
    third = certificates.make(tmp_path, "third", days=90)
    secure.trusted += [second[0], third[0]]
    expiry = "headwater_tls_certificate_expiry_timestamp_seconds"
    loaded, failed = (f'headwater_tls_reloads_total{{reason="{r}"}}' for r in ("loaded", "failed"))
    before = secure.metric(expiry)
    seen: Counter[bytes] = Counter()
    async with handshakes(secure, seen) as failures:
        for source, target in zip(second, secure.files, strict=True):
            certificates.install(source, target)
        await secure.until(loaded, 1)
        assert secure.metric(expiry) > before + 29 * 86400
        secure.files[0].write_text("-----BEGIN CERTIFICATE-----\nhalf")
        await secure.until(failed, 1)
        for source, target in zip(third, secure.files, strict=True):
            certificates.install(source, target)
        await secure.until(loaded, 2)
        generation = said(secure.edge).generation
        os.kill(secure.edge.pid, signal.SIGHUP)
        async with asyncio.timeout(SOON):
            while said(secure.edge).generation == generation:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)  # old and new processes serve side by side
    sys.stdout.write(f"{seen.total()} handshakes with {len(seen)} certificates\n")
    assert failures == []
    known = {ssl.PEM_cert_to_DER_cert(path.read_text()) for path in secure.trusted}
    assert set(seen) == known
    assert min(seen.values()) > 5


def said(node: Node) -> ready.Ready:
    found = None
    while found is None:
        found = ready.read(node.folder / "run", node.name)
    return found


async def test_a_connection_over_tls_takes_little_memory(secure: Secure, tmp_path: Path) -> None:
    """Each of them fetches a segment of some hundred kB, and rests."""
    process = push(clip(tmp_path / "clip.flv", 30), secure.site.ingest(secure.origin))
    context = certificates.client(*secure.trusted)
    host, _, port = secure.edge.endpoints["https"].rpartition(":")
    try:
        segment = await first_segment(secure)
        request = f"GET {segment} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

        async def guest() -> tuple[asyncio.StreamWriter, int]:
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.write(request)
            header = await reader.readuntil(b"\r\n\r\n")
            assert header.startswith(b"HTTP/1.1 200"), header
            found = re.search(rb"Content-Length: (\d+)", header)
            assert found is not None
            return writer, len(await reader.readexactly(int(found[1])))

        held = [await guest() for _ in range(20)]
        before = memory(secure.edge.child("edge.viewer"))
        held += [await guest() for _ in range(IDLE)]
        each = (memory(secure.edge.child("edge.viewer")) - before) / IDLE
        sys.stdout.write(f"{each / 1000:.1f} kB a connection after {held[-1][1]} bytes\n")
        assert held[-1][1] > 100_000
        assert each < MOST
        for writer, _ in held:
            writer.close()
    finally:
        process.kill()
        process.wait()


async def first_segment(secure: Secure) -> str:
    """Return the path of the first whole segment of the video."""
    async with secure.client() as http, asyncio.timeout(SOON):
        while True:
            async with http.get(f"{secure.url}/cmaf/live/1.m3u8") as answer:
                found = re.search(r"^\d\S+/s\d+\.m4s$", await answer.text(), re.MULTILINE)
            if found is not None:
                return f"/cmaf/live/{found[0]}"
            await asyncio.sleep(0.2)


def memory(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGESIZE")
