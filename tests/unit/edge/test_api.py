import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock

import aiohttp
import pytest

from common.runtime import http, listen, trust
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import NodeEntry
from edge.api import Api
from edge.around import Around
from edge.children import Child
from edge.draining import Drain
from edge.supervisor import Supervisor
from tests.unit.edge.live import LiveStream
from tests.unit.edge.test_supervisor import spawn


@pytest.fixture
def api(tmp_path: Path) -> Api:
    supervisor = Supervisor(Child("worker", "worker", spawn), [Child("viewer1", "viewer", spawn)])
    registry = EmbeddedRegistry(tmp_path / "registry")
    drain = Drain(registry, "edge-1", supervisor)
    return Api("edge-1", tmp_path, supervisor, {"http": "127.0.0.1:1"}, {"sessions": 5.0}, drain)


@contextlib.asynccontextmanager
async def site(api: Api) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    app = http.application(api.routes())
    app.middlewares.append(http.own_host)
    listener = listen.bind("127.0.0.1:0")
    runner = await http.serve(app, listener)
    async with aiohttp.ClientSession() as client:
        yield client, f"http://{listen.authority(listener)}"
    await runner.cleanup()


async def test_ready_when_the_children_are_and_the_registry_knows(api: Api) -> None:
    async with site(api) as (client, url):
        assert (await client.get(f"{url}/healthz")).status == 200
        response = await client.get(f"{url}/readyz")
        assert response.status == 503
        assert "worker, viewer1" in await response.text()
        for child in api.supervisor.children:
            child.ready = True
        assert "registry" in await (await client.get(f"{url}/readyz")).text()
        api.registered = True
        assert (await client.get(f"{url}/readyz")).status == 200
        node = await (await client.get(f"{url}/api/v1/node")).json()
        assert node["ready"] is True
        assert [child["name"] for child in node["children"]] == ["worker", "viewer1"]
        metrics = await (await client.get(f"{url}/metrics")).text()
        assert "headwater_build_info" in metrics


async def test_streams_are_described_from_their_pages(api: Api, tmp_path: Path) -> None:
    stream = LiveStream(tmp_path)
    stream.frames(5)
    api.supervisor.states["live"] = ("live", 7)
    api.supervisor.states["gone"] = ("joining", 0)
    async with site(api) as (client, url):
        found = (await (await client.get(f"{url}/api/v1/streams")).json())["streams"]
        assert [(entry["stream"], entry["state"]) for entry in found] == [
            ("gone", "joining"),
            ("live", "live"),
        ]
        one = await (await client.get(f"{url}/api/v1/streams/live")).json()
        assert one["tracks"][0]["codec"] == "avc1.42C00D"
        assert one["tracks"][0]["head"] == 5
        missing = await client.get(f"{url}/api/v1/streams/nobody")
        assert missing.status == 404


async def test_sessions_are_listed_of_one_stream_or_all(api: Api) -> None:
    found = [{"stream": "a"}, {"stream": "b"}]
    api.supervisor.sessions = AsyncMock(return_value=found)  # type: ignore[method-assign]
    async with site(api) as (client, url):
        listed = await (await client.get(f"{url}/api/v1/sessions")).json()
        assert listed["sessions"] == found
        one = await (await client.get(f"{url}/api/v1/sessions?stream=b")).json()
        assert one["sessions"] == [{"stream": "b"}]


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("evil.example", 403)])
async def test_another_name_for_this_machine_is_not_answered(
    api: Api, host: str, status: int
) -> None:
    async with site(api) as (client, url):
        response = await client.get(f"{url}/healthz", headers={"Host": host})
        assert response.status == status


async def test_a_drain_is_asked_for_in_the_registry_and_shown_once_it_is_seen(api: Api) -> None:
    registry = api.drain._registry
    await registry.register(NodeEntry("edge-1", "edge", {}))
    for child in api.supervisor.children:
        child.ready = True
    api.registered = True
    said: list[bool] = []
    api.drain.said = lambda: said.append(api.drain.active)
    async with site(api) as (client, url):
        answer = await client.post(f"{url}/api/v1/drain", json={"timeout": "5s"})
        assert (answer.status, await answer.json()) == (202, {"draining": True, "timeout": 5.0})
        (entry,) = await registry.nodes()
        assert (entry.draining, entry.drain_timeout) == (True, 5.0)
        assert (await client.get(f"{url}/readyz")).status == 200
        api.drain.look(Around("edge-1", draining=True, timeout=5.0))
        ready = await client.get(f"{url}/readyz")
        assert (ready.status, (await ready.text()).strip()) == (503, "draining")
        assert (await client.get(f"{url}/healthz")).status == 200
        told = await (await client.get(f"{url}/api/v1/drain")).json()
        assert told["draining"] is True
        assert 4 < told["seconds_left"] <= 5
        answer = await client.post(f"{url}/api/v1/undrain", json={})
        assert answer.status == 202
        assert not (await registry.nodes())[0].draining
        api.drain.look(Around("edge-1"))
        assert (await client.get(f"{url}/readyz")).status == 200
    assert said == [True, False]


@pytest.mark.parametrize("body", ["[]", "{", '{"timeout": "soon"}', '{"timeout": -1}'])
async def test_a_drain_that_makes_no_sense_is_refused(api: Api, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with site(api) as (client, url):
        answer = await client.post(f"{url}/api/v1/drain", data=body, headers=headers)
        assert answer.status == 400
        answer = await client.post(f"{url}/api/v1/drain", data="{}")  # as a page could send it
        assert answer.status == 400
        assert "Content-Type" in await answer.text()


async def test_other_machines_need_the_token_for_what_changes_something(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "_local", lambda request: False)  # the client is elsewhere
    await api.drain._registry.register(NodeEntry("edge-1", "edge", {}))
    json = {"Content-Type": "application/json"}
    for token, status in (("", 401), ("secret", 202)):
        api.token = token
        async with site(api) as (client, url):
            for words in ("Bearer wrong", f"Bearer {token}"):
                headers = {**json, "Authorization": words}
                expected = status if words.endswith(f" {token}") else 401
                for path in ("drain", "undrain"):
                    answer = await client.post(f"{url}/api/v1/{path}", headers=headers)
                    assert answer.status == expected, (token, words, path)
            assert (await client.get(f"{url}/api/v1/sessions")).status == 401
            assert (await client.post(f"{url}/api/v1/restart", headers=json)).status == 401
            for path in ("healthz", "metrics", "api/v1/node", "api/v1/streams", "api/v1/drain"):
                assert (await client.get(f"{url}/{path}")).status == 200, path
