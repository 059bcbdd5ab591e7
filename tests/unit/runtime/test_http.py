"""What every role serves over HTTP."""

import asyncio
import gzip
import json
import socket

import aiohttp
import pytest
from aiohttp import web

from common.errors import (
    AccessDenied,
    HeadwaterError,
    NodeUnavailable,
    StreamBusy,
    StreamNotFound,
)
from common.runtime import http, listen

STATE: dict[str, str | None] = {"missing": None}


async def fail(request: web.Request) -> web.Response:
    errors: dict[str, HeadwaterError] = {
        "absent": StreamNotFound("no stream x"),
        "busy": StreamBusy("taken"),
        "full": NodeUnavailable("draining"),
        "denied": AccessDenied("no"),
    }
    raise errors[request.match_info["what"]]


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def get(
    method: str, path: str, **options: bytes | dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    app = http.application(http.health_routes(lambda: STATE["missing"], lambda: "m 1\n"))
    app.router.add_get("/fail/{what}", fail)
    app.router.add_post("/echo", echo)
    app.router.add_route("OPTIONS", "/fail/{what}", http.preflight)
    listener = listen.bind("127.0.0.1:0")
    where = listen.authority(listener)
    runner = await http.serve(app, listener)
    try:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(method, f"http://{where}{path}", **options) as answer,  # type: ignore[arg-type]
        ):
            return answer.status, dict(answer.headers), await answer.read()
    finally:
        await runner.cleanup()


async def test_a_ready_node_says_so() -> None:
    assert (await get("GET", "/healthz"))[0] == 200
    assert (await get("GET", "/readyz"))[0] == 200


async def test_a_node_that_waits_says_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATE, "missing", "the bus")
    status, headers, body = await get("GET", "/readyz")
    assert (status, headers["Retry-After"], body) == (503, "1", b"the bus\n")
    assert (await get("GET", "/healthz"))[0] == 200


async def test_metrics_are_prometheus_text() -> None:
    status, headers, body = await get("GET", "/metrics")
    assert (status, body) == (200, b"m 1\n")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(
    ("what", "status", "retry"),
    [("absent", 404, True), ("busy", 409, False), ("full", 503, True), ("denied", 403, False)],
)
async def test_errors_are_problem_documents(what: str, status: int, retry: bool) -> None:
    got, headers, body = await get("GET", f"/fail/{what}")
    problem = json.loads(body)
    assert (got, problem["status"]) == (status, status)
    assert headers["Content-Type"].startswith("application/problem+json")
    assert headers["Cache-Control"] == "no-store"
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert ("Retry-After" in headers) == retry


def test_a_problem_has_a_title_of_words() -> None:
    body = json.loads(http.problem(StreamNotFound("no stream x")).body)  # type: ignore[arg-type]
    assert (body["title"], body["detail"]) == ("Stream not found", "no stream x")


async def test_browsers_may_ask_first() -> None:
    status, headers, _ = await get("OPTIONS", "/fail/absent")
    assert (status, headers["Access-Control-Allow-Methods"]) == (204, "GET, HEAD, OPTIONS")


async def test_compressed_bodies_are_not_unpacked() -> None:
    packed = gzip.compress(b"x" * 100_000)
    options = {"data": packed, "headers": {"Content-Encoding": "gzip"}}
    status, _, body = await get("POST", "/echo", **options)  # type: ignore[arg-type]
    assert (status, body) == (200, packed)


async def test_large_bodies_are_refused() -> None:
    assert (await get("POST", "/echo", data=b"x" * (http.MAX_BODY + 1)))[0] == 413


async def test_a_body_that_trickles_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_DEADLINE", 0.05)
    monkeypatch.setattr(http, "LINGER", 0.05)
    app = http.application()
    app.router.add_post("/echo", echo)
    listener = listen.bind("127.0.0.1:0")
    address = listener.getsockname()
    runner = await http.serve(app, listener)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\na")
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in answer
    writer.close()
    await runner.cleanup()


async def test_a_request_under_way_does_not_hold_up_the_end() -> None:
    begun = asyncio.Event()

    async def endless(_: web.Request) -> web.Response:
        begun.set()
        await asyncio.Event().wait()
        return web.Response()

    app = http.application([web.get("/", endless)])
    listener = listen.bind("127.0.0.1:0")
    runner = await http.serve(app, listener)
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(session.get(f"http://{listen.authority(listener)}/"))
        await begun.wait()
        async with asyncio.timeout(3):
            await runner.cleanup()
        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_who_has_connected_when_the_server_stops_is_answered() -> None:
    """The kernel takes connections that the server has not accepted yet: closing resets them."""
    app = http.application(http.health_routes(lambda: None, lambda: ""))
    listener = listen.bind("127.0.0.1:0")
    runner = await http.serve(app, listener)
    address = listener.getsockname()
    with socket.create_connection(address) as early, socket.create_connection(address) as late:
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        stopped = asyncio.create_task(runner.cleanup())  # nothing was accepted until here
        await asyncio.sleep(0.02)
        late.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await stopped
        for client in (early, late):
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


async def test_a_client_that_says_nothing_does_not_hold_up_the_end() -> None:
    listener = listen.bind("127.0.0.1:0")
    runner = await http.serve(http.application(), listener)
    with socket.create_connection(listener.getsockname()) as silent:
        async with asyncio.timeout(2):
            await runner.cleanup()
        assert silent.recv(1) == b""


async def test_a_server_that_retires_answers_what_it_has_and_closes_nobody() -> None:
    """The client whose connection rests may be sending at this very moment."""
    held = asyncio.Event()

    async def hold(_: web.Request) -> web.Response:
        await held.wait()
        return web.Response(text="held")

    app = http.application([web.get("/hold", hold)])
    app.router.add_post("/echo", echo)
    listener = listen.bind("127.0.0.1:0")
    heir = listener.dup()
    runner = await http.serve(app, listener)
    url = f"http://{listen.authority(heir)}"
    async with aiohttp.ClientSession() as resting, aiohttp.ClientSession() as waiting:
        async with resting.post(f"{url}/echo", data=b"1") as answer:
            assert "Connection" not in answer.headers
        asked = asyncio.create_task(waiting.get(f"{url}/hold"))
        while len(runner.server.connections if runner.server else ()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        retired = asyncio.create_task(http.retire(runner, 10.0))
        await asyncio.sleep(0.6)
        assert not retired.done()
        async with resting.post(f"{url}/echo", data=b"2") as answer:
            assert answer.headers["Connection"] == "close"
            assert await answer.read() == b"2"
        held.set()
        assert (await asked).headers["Connection"] == "close"
        await asyncio.wait_for(retired, 2.0)
    with heir:  # who connects now waits for whoever accepts next
        _, writer = await asyncio.open_connection(*heir.getsockname())
        writer.close()
        await runner.cleanup()
