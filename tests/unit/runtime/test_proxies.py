"""Whose word is taken about viewers, over real connections."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping

import pytest
from aiohttp import web

from common.errors import ConfigError
from common.runtime import door, http, listen, proxies, trust
from common.runtime.proxies import BASE, FIELDS, NOTHING, Proxies, ProxySettings

OURS = Proxies(ProxySettings(trusted=["10.0.0.0/8", "fd00::/8"], fields=[*FIELDS]), "x")


def said(fields: Mapping[str, str], by: Proxies = OURS) -> proxies.Said:
    return by.read(lambda name: [fields[name]] if name in fields else [])


@pytest.mark.parametrize(
    ("row", "client"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("6.6.6.6, 198.51.100.7, 10.1.1.1", "198.51.100.7"),
        ("6.6.6.6, unknown, 10.1.1.1", "10.1.1.1"),
        ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("nonsense", ""),
        (", ".join(["10.0.0.1"] * 40), ""),
    ],
)
def test_the_viewer_is_the_nearest_hop_that_is_no_proxy_of_ours(row: str, client: str) -> None:
    assert said({"X-Forwarded-For": row}).client == client


def test_only_the_fields_of_the_settings_are_believed() -> None:
    usual = Proxies(ProxySettings(trusted=["10.0.0.1"]), "x")
    forged = {
        "Forwarded": "for=6.6.6.6;host=evil;proto=http",
        "X-Real-IP": "6.6.6.6",
        "X-Forwarded-Host": "evil",
        "X-Mst-Path": "https://evil",
    }
    assert said(forged, usual) == NOTHING
    honest = {**forged, "X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "wss"}
    assert said(honest, usual) == proxies.Said("198.51.100.7", "https")


def test_what_a_proxy_says_is_read_from_the_nearest_one() -> None:
    found = said(
        {"Forwarded": 'for=198.51.100.7;host=far, for="[fd00::1]";proto=HTTPS;host=near:1'}
    )
    assert found == proxies.Said("198.51.100.7", "https", "near:1")
    assert said({"X-Forwarded-Host": "far, near"}).host == "near"
    assert said({"X-Forwarded-Host": 'a"b'}).host == ""
    assert said({"X-Forwarded-Proto": "gopher"}).scheme == ""
    assert (
        said({"X-Mst-Path": "https://live.example.org/tv/"}).base == "https://live.example.org/tv"
    )
    assert said({"Forwarded": "for="}) == NOTHING


def test_settings_that_name_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"edge\.proxies\.fields.*X-Forwarded-For"):
        Proxies(ProxySettings(fields=["X-Forwarded-Four"]), "edge.proxies")
    with pytest.raises(ConfigError, match=r"edge\.proxies\.protocol"):
        Proxies(ProxySettings(protocol=["nonsense"]), "edge.proxies")


async def tell(request: web.Request) -> web.Response:
    base = request.get(BASE, "")
    local = trust.trusted(request, "")
    return web.json_response([request.remote, request.scheme, request.host, base, local])


@pytest.fixture
async def address(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, int]]:
    by = Proxies(request.param, "x")
    app = http.application([web.get("/", tell)])
    app.middlewares.insert(0, proxies.behind(by))
    listener = listen.bind("127.0.0.1:0")
    where = listener.getsockname()[:2]
    runner = await http.serve(app, listener, speaks=by.speaks)
    yield where
    await runner.cleanup()


async def ask(address: tuple[str, int], *pieces: bytes, source: str = "127.0.0.1") -> str:
    reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    answer = await reader.read()
    writer.close()
    return answer.rpartition(b"\r\n")[2].decode()


GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%b\r\n"
FIELDS_OF_A_VIEWER = (
    b"X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: live\r\n"
    b"X-Mst-Path: https://live/tv\r\n"
)
BY_FIELDS = ProxySettings(trusted=["127.0.0.2"], fields=[*FIELDS])
BY_HEADER = ProxySettings(protocol=["127.0.0.2"])


@pytest.mark.parametrize("address", [BY_FIELDS], indirect=True)
async def test_fields_count_from_a_proxy_and_from_nobody_else(address: tuple[str, int]) -> None:
    request = GET % FIELDS_OF_A_VIEWER
    told = await ask(address, request, source="127.0.0.2")
    assert told == '["198.51.100.7", "https", "live", "https://live/tv", false]'
    assert await ask(address, request) == '["127.0.0.1", "http", "127.0.0.1", "", false]'
    assert await ask(address, GET % b"") == '["127.0.0.1", "http", "127.0.0.1", "", true]'


@pytest.mark.parametrize("address", [BY_HEADER], indirect=True)
async def test_a_header_counts_from_a_proxy_and_is_nothing_from_others(
    address: tuple[str, int],
) -> None:
    request = GET % b""
    header = b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n"
    told = '["198.51.100.7", "http", "127.0.0.1", "", false]'
    assert await ask(address, header + request, source="127.0.0.2") == told
    assert await ask(address, header[:9], header[9:], request, source="127.0.0.2") == told
    secure = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x14" + bytes(
        [198, 51, 100, 7, 0, 0, 0, 0, 1, 2, 3, 4]
    )
    secure += b"\x20\x00\x05\x01" + bytes(4)
    assert await ask(address, secure + request, source="127.0.0.2") == told.replace("http", "https")
    home = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"
    assert (await ask(address, home + request, source="127.0.0.2")).endswith("false]")
    with pytest.raises(ConnectionResetError):  # it has to say who comes
        await ask(address, request, source="127.0.0.2")
    assert "Invalid method" in await ask(address, header + request)
    assert await ask(address, request) == '["127.0.0.1", "http", "127.0.0.1", "", true]'


class Silent(asyncio.Protocol):
    def __init__(self, visit: door.Visit) -> None:
        self.visit = visit
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.visit.end()


async def test_those_behind_a_proxy_are_counted_and_the_proxy_is_not() -> None:
    crowd = door.Crowd(100, 2, door.networks(["127.0.0.1"], "x"))
    listener = listen.bind("127.0.0.1:0")
    where = listener.getsockname()
    entrance = door.Door(listener, Silent, crowd, speaks=lambda _: True)
    clients = []
    for number in range(5):
        client = socket.create_connection(where)
        client.setblocking(False)
        source = "198.51.100.7" if number < 3 else f"198.51.100.{number}"
        client.send(f"PROXY TCP4 {source} 192.0.2.1 1 2\r\n".encode())
        clients.append(client)
    third = clients[2]
    async with asyncio.timeout(5):
        assert await asyncio.get_running_loop().sock_recv(third, 1) == b"", "one too many of a host"
        while entrance.pending or crowd.here != 4:  # noqa: ASYNC110 - a door has no event
            await asyncio.sleep(0.001)
    for client in clients:
        client.close()
    async with asyncio.timeout(5):
        while crowd.here:  # noqa: ASYNC110 - a transport has no event
            await asyncio.sleep(0.001)
    assert not crowd._hosts
    entrance.close()
