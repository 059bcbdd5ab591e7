"""The capacity calculator over HTTP."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from balancer.sizing import Machine
from balancer.sizing_api import FOLDER, SizingApi
from balancer.sizing_ask import OPTIONS
from common.runtime import http

HERE = Machine(cores=4, memory=8e9, network=1e9)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[TestClient[Any, Any]]:
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({"figures": {"write": 10.0}}))
    app = http.application(SizingApi(HERE, file).routes())
    async with TestClient(TestServer(app)) as found:
        yield found


async def test_a_question_is_answered_for_the_machine_of_the_balancer(
    client: TestClient[Any, Any],
) -> None:
    asked = {"viewers": "5000", "protocol": "mp4", "tls": "no"}
    told = await (await client.get("/api/v1/size", params=asked)).json()
    assert told["capacity"]["viewers"] == 165
    assert told["capacity"]["limit"] == "network"
    assert told["edges"]["count"] == 31
    assert told["calibrated"] is True


async def test_a_wrong_question_says_what_is_wrong(client: TestClient[Any, Any]) -> None:
    response = await client.get("/api/v1/size", params={"viewer": "5000"})
    assert response.status == 400
    assert response.content_type == "application/problem+json"
    assert "did you mean 'viewers'?" in (await response.json())["detail"]


async def test_the_page_needs_nothing_from_elsewhere_and_is_cached(
    client: TestClient[Any, Any],
) -> None:
    response = await client.get("/size")
    page = await response.text()
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        assert (await client.get(path)).status == 200
    again = await client.get("/size", headers={"If-None-Match": response.headers["ETag"]})
    assert again.status == 304
    assert (await client.get("/size/..%2Fapp.py")).status == 404


def test_the_page_asks_nothing_that_the_calculator_does_not_know() -> None:
    asked = set(re.findall(r'name="([a-z-]+)"', (FOLDER / "size.html").read_text()))
    assert asked - {"viewport", "color-scheme"} < set(OPTIONS)


async def test_a_calibration_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text("?")
    app = http.application(SizingApi(HERE, file).routes())
    async with TestClient(TestServer(app)) as found:
        assert (await (await found.get("/api/v1/size")).json())["calibrated"] is False
