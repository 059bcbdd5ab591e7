"""Requests to restart: who may send them, and in what form."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from common.runtime import admin, http, listen
from common.runtime.trust import guard

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = http.application([web.post(admin.RESTART, guard("secret", "balancer")(admin.restart))])
    listener = listen.bind("127.0.0.1:0")
    runner = await http.serve(app, listener)
    yield f"http://{listen.authority(listener)}{admin.RESTART}"
    await runner.cleanup()


async def asked(url: str, headers: dict[str, str], data: bytes = b"") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, headers=headers, data=data) as answer,
    ):
        return answer.status, (await answer.json())["detail"]


async def test_a_process_without_a_role_of_its_own_does_not_restart(url: str) -> None:
    assert await asked(url, JSON) == (503, "this process cannot restart itself")


async def test_what_a_page_elsewhere_can_send_is_refused(url: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        status, detail = await asked(url, {"Content-Type": kind}, b"{}")
        assert status == 400
        assert "application/json" in detail
    assert (await asked(url, {**JSON, "Origin": "https://evil.example"}))[0] == 401


async def test_who_is_not_on_this_machine_needs_the_token(url: str) -> None:
    behind = {**JSON, "X-Forwarded-For": "192.0.2.7"}
    status, detail = await asked(url, behind)
    assert (status, detail) == (
        401,
        "the API needs a token from other machines: set [balancer] token",
    )
    assert (await asked(url, {**behind, "Authorization": "Bearer secret"}))[0] == 503


@pytest.mark.parametrize("data", [b"{", b"[]", b"[" * 5000])
async def test_a_body_that_is_no_object_is_refused(url: str, data: bytes) -> None:
    assert (await asked(url, JSON, data))[0] == 400
