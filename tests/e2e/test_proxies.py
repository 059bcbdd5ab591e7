"""An edge and a balancer behind the servers that people put before them, as deploy/proxies says."""

import asyncio
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import aiohttp
import pytest

from common.runtime import listen
from tests.harness import certificates
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.e2e

SNIPPETS = Path(__file__).parents[2] / "deploy/proxies"
COMMANDS = {
    "nginx.conf": ["/usr/sbin/nginx", "-p", ".", "-c", "{file}"],
    "apache.conf": ["/usr/sbin/apache2", "-d", "{folder}", "-f", "{file}", "-D", "FOREGROUND"],
    "lighttpd.conf": ["/usr/sbin/lighttpd", "-D", "-f", "{file}"],
    "haproxy.cfg": ["/usr/sbin/haproxy", "-db", "-f", "{file}"],
}
VIEWS = sorted(COMMANDS)
COMMANDS["haproxy-tcp.cfg"] = COMMANDS["haproxy.cfg"]
NOTHING: dict[str, str] = {}
START = 60.0
VIEWER = "127.0.0.5"
FLOWING = 1.0
"""Seconds after which bytes still come that were not there when a viewer came."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    shown, key = certificates.make(folder, "front")
    shown.rename(folder / "fullchain.pem")
    key.rename(folder / "privkey.pem")
    both = (folder / "fullchain.pem").read_text() + (folder / "privkey.pem").read_text()
    (folder / "both.pem").write_text(both)
    return folder


class Proxy:
    """One of them, before ``backend``, as its snippet says but for ports and paths."""

    def __init__(
        self,
        name: str,
        folder: Path,
        certificate: Path,
        backend: str,
        changes: dict[str, str] = NOTHING,
    ) -> None:
        with listen.bind("[::]:0") as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        for file in certificate.iterdir():
            shutil.copy(file, folder)
        text = (SNIPPETS / name).read_text()
        host, _, port = backend.removeprefix("http://").rpartition(":")
        text = text.replace(
            '"host" => "127.0.0.1", "port" => 8080', f'"host" => "{host}", "port" => {port}'
        )
        text = text.replace("127.0.0.1:8080", f"{host}:{port}").replace("443", str(self.port))
        for pem in ("fullchain.pem", "privkey.pem", "both.pem"):
            text = text.replace(pem, str(folder / pem))
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        file = folder / name
        file.write_text(text)
        command = [part.format(file=file, folder=folder) for part in COMMANDS[name]]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, stderr=log, stdout=log)

    async def ready(self) -> None:
        deadline = time.monotonic() + START
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            except OSError:
                await asyncio.sleep(0.02)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.mark.parametrize("name", VIEWS)
async def test_viewers_get_through(
    name: str, cluster: Cluster, certificate: Path, tmp_path: Path
) -> None:
    trust = certificates.client(certificate / "fullchain.pem")
    proxy = Proxy(name, tmp_path, certificate, cluster.edges[0])
    try:
        await proxy.ready()
        async with viewer(trust, name) as session:
            seen = Seen(cluster.admins[0], name)
            await asyncio.gather(
                low_latency(session, proxy.url, cluster.edges[0], seen),
                progressive(session, proxy.url, seen),
                websocket(session, proxy.url, seen),
            )
            await described(session, proxy.url)
        negotiated = http2(proxy.port, certificate / "fullchain.pem")
        assert negotiated == "h2"
    finally:
        proxy.stop()


def viewer(trust: ssl.SSLContext, name: str) -> aiohttp.ClientSession:
    """Return a viewer who comes from an address of its own, and says that it is another one."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust, local_addr=(VIEWER, 0)),
        timeout=aiohttp.ClientTimeout(total=30),
        headers={
            "User-Agent": name,
            "X-Forwarded-For": "6.6.6.6",
            "Forwarded": "for=6.6.6.6",
            "X-Mst-Path": "https://evil.example",
        },
    )


class Seen:
    """What the edge says of an agent: whatever else it may pretend, it is our viewer."""

    def __init__(self, admin: str, agent: str) -> None:
        self.admin = admin
        self.agent = agent

    def __call__(self, protocol: str) -> None:
        with urllib.request.urlopen(f"{self.admin}/api/v1/sessions", timeout=10) as answer:
            listed = json.load(answer)["sessions"]
        ours = [one for one in listed if (one["agent"], one["protocol"]) == (self.agent, protocol)]
        assert {one["peer"] for one in ours} == {VIEWER}, listed


async def described(session: aiohttp.ClientSession, front: str) -> None:
    """The edge tells viewers where the proxy has it."""
    async with session.get(f"{front}/json_test.js") as answer:
        urls = [source["url"] for source in (await answer.json())["source"]]
    secure = front.replace("http", "ws", 1)
    assert urls
    assert all(url.startswith((f"{front}/", f"{secure}/")) for url in urls), urls


async def low_latency(session: aiohttp.ClientSession, front: str, edge: str, seen: Seen) -> None:
    """Wait for a part as a player does, and compare it with what the edge itself gives."""
    master = f"{front}/cmaf/test/index.m3u8"
    async with session.get(master) as answer:
        assert answer.status == 200
        uris = [line for line in (await answer.text()).splitlines() if line and line[0] != "#"]
    media = urljoin(master, uris[0])
    async with session.get(media) as answer:
        lines = (await answer.text()).splitlines()
    path = urljoin(media, hinted(lines))
    async with session.get(path) as answer, session.get(path.replace(front, edge)) as direct:
        assert answer.status == direct.status == 200
        assert digest(await answer.read()) == digest(await direct.read())
    seen("hls")


def hinted(lines: list[str]) -> str:
    """Return the URI of the part that comes next: who asks for it waits for it."""
    hint = next(line for line in lines if line.startswith("#EXT-X-PRELOAD-HINT:TYPE=PART"))
    return hint.partition('URI="')[2].partition('"')[0]


def digest(data: bytes) -> str:
    assert len(data) > 100
    return hashlib.sha256(data).hexdigest()


async def progressive(session: aiohttp.ClientSession, front: str, seen: Seen) -> None:
    """The stream flows: what comes last was not there yet when the request was made."""
    async with session.get(f"{front}/test.mp4") as answer:
        assert answer.status == 200
        began = time.monotonic()
        while time.monotonic() - began < FLOWING:
            assert await answer.content.readany()
        seen("mp4")


async def websocket(session: aiohttp.ClientSession, front: str, seen: Seen) -> None:
    async with session.ws_connect(f"{front}/test.mp4?autoplay=1") as viewer:
        got = 0
        while got < 20_000:
            message = await viewer.receive(30)
            assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT)
            got += len(message.data) if message.type is aiohttp.WSMsgType.BINARY else 0
        seen("websocket")


def http2(port: int, authority: Path) -> str | None:
    context = certificates.client(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return secure.selected_alpn_protocol()


async def test_viewers_are_told_of_the_folder_that_nginx_has_the_edge_in(
    cluster: Cluster, certificate: Path, tmp_path: Path
) -> None:
    changes = {
        "location / {": "location /video/ {",
        "proxy_pass http://headwater;": "proxy_pass http://headwater/;",
        "$scheme://$http_host/;": "$scheme://$http_host/video/;",
    }
    proxy = Proxy("nginx.conf", tmp_path, certificate, cluster.edges[0], changes)
    front = f"{proxy.url}/video"
    try:
        await proxy.ready()
        async with viewer(certificates.client(certificate / "fullchain.pem"), "folder") as session:
            await described(session, front)
            seen = Seen(cluster.admins[0], "folder")
            await low_latency(session, front, cluster.edges[0], seen)
            await websocket(session, front, seen)
    finally:
        proxy.stop()


async def test_a_balancer_redirects_through_nginx(
    cluster: Cluster, certificate: Path, tmp_path: Path
) -> None:
    trust = certificates.client(certificate / "fullchain.pem")
    proxy = Proxy("nginx.conf", tmp_path, certificate, cluster.balancer)
    try:
        await proxy.ready()
        async with aiohttp.ClientSession() as session:
            url = f"{proxy.url}/cmaf/test/index.m3u8?x=1"
            async with session.get(url, ssl=trust, allow_redirects=False) as answer:
                assert answer.status == 307
                assert answer.headers["Location"].endswith("/cmaf/test/index.m3u8?x=1")
    finally:
        proxy.stop()


@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2-ssl"])
async def test_haproxy_says_who_comes_before_anything_else(
    how: str, cluster: Cluster, certificate: Path, tmp_path: Path
) -> None:
    trust = certificates.client(certificate / "fullchain.pem")
    changes = {"send-proxy-v2": f"{how} source 127.0.0.9"}
    secure = how.endswith("ssl")
    if secure:
        changes["v4v6"] = f"v4v6 ssl crt {tmp_path}/both.pem"
    proxy = Proxy("haproxy-tcp.cfg", tmp_path, certificate, cluster.edges[0], changes)
    url = proxy.url if secure else proxy.url.replace("https", "http")
    try:
        await proxy.ready()
        async with viewer(trust, how) as session:
            seen = Seen(cluster.admins[0], how)
            await asyncio.gather(
                low_latency(session, url, cluster.edges[0], seen),
                progressive(session, url, seen),
                websocket(session, url, seen),
            )
            await described(session, url)
        async with viewer(trust, "forger") as session:  # a header is nothing from elsewhere
            reader, writer = await asyncio.open_connection(
                *cluster.edges[0].removeprefix("http://").split(":"), local_addr=(VIEWER, 0)
            )
            writer.write(b"PROXY TCP4 6.6.6.6 6.6.6.6 1 2\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.0 400")
            writer.close()
    finally:
        proxy.stop()
