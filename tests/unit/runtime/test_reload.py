"""Changed settings: every single option is taken up or refused, all of a change or nothing."""

import asyncio
import atexit
import contextlib
import importlib
import json
import logging
import os
import shutil
import tempfile
import threading
import typing
from collections.abc import Iterator
from http import server as http_server
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from aiohttp.test_utils import TestClient, TestServer

from common.errors import ConfigError, NodeUnavailable
from common.runtime import (
    cli,
    cli_config,
    config,
    http,
    loader,
    logs,
    metrics,
    ready,
    reload,
    restart,
)
from common.runtime.config import Duration, NodeSettings, Size
from common.runtime.definitions import Definitions
from common.runtime.loader import ROLES
from common.runtime.options import Option, options
from tests.harness import certificates

FILES = Path(tempfile.mkdtemp(prefix="headwater-tls-"))
atexit.register(shutil.rmtree, FILES)
PEM = "".join(path.read_text() for path in certificates.make(FILES, "edge"))
for name in ("one.pem", "other.pem"):
    (FILES / name).write_text(PEM)
TLS = {"listen": "127.0.0.1:8443", "certificate": str(FILES / "one.pem")}

OTHER: dict[str, Any] = {
    "node.latitude": 50.0,
    "node.longitude": 8.0,
    "edge.outputs": {"flv": {}},
    "origin.inputs": {"rtmp": {"listen": "127.0.0.1:0"}},
    "balancer.weights": {"cpu": 2.0},
    "balancer.round_trips": {"ams fra": 0.008},
    "streams.NAME.source": "videogen://",
    "node.bus_security": "none",
    "origin.repair_rate": "40MB",
    "relay.repair_rate": "40MB",
    "edge.tls.certificate": str(FILES / "other.pem"),
    "edge.tls.key": str(FILES / "other.pem"),
    "edge.uncounted": ["192.0.2.0/24"],
    **{
        f"{role}.proxies.{name}": value
        for role in ("edge", "balancer")
        for name, value in {
            "trusted": ["192.0.2.0/24"],
            "fields": ["Forwarded"],
            "protocol": ["192.0.2.1"],
        }.items()
    },
}
"""Values for options of which the type does not tell another good one."""


def changed(option: Option) -> Any:
    """Return a value that the option has not got, as it stands in a file."""
    if option.key in OTHER:
        return OTHER[option.key]
    if typing.get_origin(option.type) is Literal:
        return next(one for one in typing.get_args(option.type) if one != option.default)
    if typing.get_origin(option.type) is list:
        return ["other"]
    if option.type is bool:
        return not option.default
    if option.type is Duration:
        return float(Duration.parse(option.default)) + 1
    if option.type is Size:
        return int(Size.parse(option.default)) * 2 or 2**20
    if option.type in (int, float):
        return option.default + 1
    assert option.type is str, option
    return "127.0.0.1:0" if ":" in str(option.default or "") else "other"


def settings(schema: type[Any], option: Option | None = None) -> Any:
    """Return the settings of a role, one option not as it is by default."""
    tree: dict[str, Any] = {}
    if option is not None:
        tree = {option.key.rpartition(".")[2]: changed(option)}
        for part in reversed(option.key.split(".")[:-1]):
            tree = {part: tree}
    if "edge" in schema.__annotations__:  # a certificate is good only with all that belongs to it
        edge = tree.get("edge", {})
        tree = {**tree, "edge": {**edge, "tls": {**TLS, **edge.get("tls", {})}}}
    # Streams for some nodes alone need an encrypted bus.
    tree = {**tree, "node": {"bus_security": "curve", **tree.get("node", {})}}
    return loader.build(schema, tree)


EVERY = [(role, option) for role in ROLES for option in options(role)]


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Replace the restart in place by a list of how often it was begun."""
    begun: list[bool] = []

    async def begin() -> None:
        begun.append(True)

    monkeypatch.setattr(restart, "current", lambda: SimpleNamespace(begin=begin))
    return begun


@pytest.mark.parametrize(("role", "option"), EVERY, ids=lambda v: getattr(v, "key", v))
async def test_every_single_option_is_taken_up_or_refused_with_a_reason(
    role: str, option: Option, restarts: list[bool]
) -> None:
    app = importlib.import_module(f"{role}.app")
    running = settings(app.Config)
    taken: list[Any] = []

    def read() -> Any:
        fresh = settings(app.Config, option)
        app.check(fresh)
        return fresh

    reloader = reload.Reloader(role, running, read)
    reloader.at_once(dict.fromkeys(cli_config.NOW[role], taken.append))
    if option.key in reload.REFUSED:
        with pytest.raises(restart.RestartRefused) as refused:
            await reloader.apply()
        assert f"{option.key}: {reload.REFUSED[option.key]}" in str(refused.value)
        assert (taken, restarts, reloader.running) == ([], [], running)
        return
    plan = await reloader.apply()
    if option.key == "edge.outputs":
        assert plan.how == "nothing"  # no output has a setting yet that could differ
        return
    assert plan.changes, "the option did not even change"
    assert plan.how in ("now", "restart")
    assert all(change.why for change in plan.changes)
    assert len(restarts) == (plan.how == "restart")
    assert len(taken) == (plan.how == "now")
    if plan.how == "now":
        assert reloader.running is taken[0]


def reloader(before: Any, after: Any, role: str = "origin") -> reload.Reloader:
    def read() -> Any:
        if isinstance(after, Exception):
            raise after
        return after

    return reload.Reloader(role, before, read)


def origin(**node: Any) -> Any:
    config_of = importlib.import_module("origin.config").Config
    return config_of(node=NodeSettings(**{"name": "o1", **node}))


async def test_one_option_that_cannot_change_keeps_all_others_as_they_are(
    restarts: list[bool],
) -> None:
    wanted = reloader(origin(), origin(name="o2", tags=["x"]))
    with pytest.raises(restart.RestartRefused, match=r"node\.name: that is another node"):
        await wanted.apply()
    assert restarts == []
    assert metrics.CONFIG_LAST_RELOAD_SUCCESSFUL._value.get() == 0
    with pytest.raises(restart.RestartRefused, match="another node"):
        wanted.forbid()


async def test_wrong_settings_change_nothing(restarts: list[bool]) -> None:
    wanted = reloader(origin(), ConfigError("origin.rtmp", "wrong"))
    with pytest.raises(ConfigError):
        await wanted.apply()
    with pytest.raises(restart.RestartRefused, match="wrong"):
        wanted.forbid()
    assert restarts == []


async def test_nothing_happens_where_nothing_has_changed(restarts: list[bool]) -> None:
    assert (await reloader(origin(), origin()).apply()).how == "nothing"
    assert restarts == []
    assert metrics.CONFIG_LAST_RELOAD_SUCCESSFUL._value.get() == 1


async def test_the_file_is_taken_up_once_it_has_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "LOOK", 0.005)
    file = tmp_path / "node.toml"
    file.write_text("old")
    seen: asyncio.Queue[str] = asyncio.Queue()
    running = origin()

    def read() -> Any:
        text = file.read_text()
        seen.put_nowait(text)
        if text == "wrong":
            raise ConfigError("x", "half written")
        return running

    watching = asyncio.create_task(reload.Reloader("origin", running, read, file).watch())
    for text in ("wrong", "good again"):
        await asyncio.sleep(0)
        new = tmp_path / "new"
        new.write_text(text)
        os.replace(new, file)
        assert await seen.get() == text
    watching.cancel()
    assert seen.empty()


async def test_the_watch_keeps_out_of_a_restart_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "LOOK", 0.005)
    looks = iter([True] * 5)
    monkeypatch.setattr(restart, "under_way", lambda: next(looks, False))
    file = tmp_path / "node.toml"
    file.write_text("old")
    seen: asyncio.Queue[bool] = asyncio.Queue()
    running = origin()

    def read() -> Any:
        seen.put_nowait(next(looks, False))
        return running

    watching = asyncio.create_task(reload.Reloader("origin", running, read, file).watch())
    await asyncio.sleep(0)
    file.write_text("a new one")
    assert await seen.get() is False, "not before the restart has been given up"
    watching.cancel()


@pytest.fixture
def begun() -> Iterator[None]:
    yield
    reload._current = None


async def test_the_api_tells_a_plan_and_shows_no_secret(begun: None, restarts: list[bool]) -> None:
    edge = importlib.import_module("balancer.config")
    before = edge.Config(balancer=edge.BalancerSettings(token="old-secret"))
    after = edge.Config(balancer=edge.BalancerSettings(token="new-secret", sessions=7))
    reload.begin("balancer", before, lambda: after, None)
    async with TestClient(TestServer(http.application(reload.routes()))) as client:
        shown = await (await client.get("/api/v1/config")).text()
        assert json.loads(shown)["settings"]["balancer"]["token"] == "(hidden)"
        plan = await (await client.get("/api/v1/config/plan")).text()
        assert "secret" not in shown + plan
        keys = {one["key"]: one["how"] for one in json.loads(plan)["changes"]}
        assert keys == {"balancer.sessions": "restart", "balancer.token": "restart"}
        assert (await client.post("/api/v1/reload")).status == 400
        assert restarts == []
        answer = await client.post("/api/v1/reload", json={})
        assert (answer.status, restarts) == (202, [True])
        foreign = {"Origin": "http://evil.example"}
        assert (await client.get("/api/v1/config", headers=foreign)).status == 403


async def test_a_refusal_reaches_who_asked(begun: None) -> None:
    reload.begin("origin", origin(), lambda: origin(name="o2"), None)
    async with TestClient(TestServer(http.application(reload.routes()))) as client:
        answer = await client.post("/api/v1/reload", json={})
        assert answer.status == 409
        assert "start it beside this one" in (await answer.json())["detail"]


async def test_the_level_of_logs_is_taken_up_while_running(begun: None) -> None:
    before = origin()
    after = type(before)(node=before.node, log=config.LogSettings(level="debug"))
    made = reload.begin("origin", before, lambda: after, None)
    level = logging.getLogger().level
    try:
        assert (await made.apply()).how == "now"
        assert logging.getLogger().level == logging.DEBUG
    finally:
        logs.configure()
        logging.getLogger().setLevel(level)


class Guarded(http_server.BaseHTTPRequestHandler):
    """A node that listens on a network, and so wants its token."""

    def do_GET(self) -> None:
        allowed = self.headers["Authorization"] == "Bearer sesame"
        body = json.dumps({"changes": [], "consequence": ""} if allowed else {"detail": "no token"})
        self.send_response(200 if allowed else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[NodeSettings]:
    """Settings of a machine on which such a node runs, as ``n``."""
    node = NodeSettings(name="n", run=str(tmp_path))
    with http_server.HTTPServer(("127.0.0.1", 0), Guarded) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        ready.announce(node, {"admin": f"127.0.0.1:{server.server_port}"})
        try:
            yield node
        finally:
            server.shutdown()
            thread.join()


def test_the_token_is_sent_to_a_node_that_wants_it(guarded: NodeSettings, tmp_path: Path) -> None:
    for tokens in ((), ("another",)):
        with pytest.raises(cli_config.ReloadFailed, match="no token"):
            cli_config.diff(guarded, ["n"], tokens)
    assert cli_config.diff(guarded, ["n"], ("another", "sesame")) == ("n: nothing changes", False)
    command = ["config", "diff", "n", "--set", f"node.run={tmp_path}"]
    assert cli.main(command) == 1
    assert cli.main([*command, "--set", "relay.token=sesame"]) == 0
    assert cli.main([*command, "--token", str(tmp_path / "none")]) == 2
    (tmp_path / "token").write_text("sesame\n")
    assert cli.main([*command, "--token", str(tmp_path / "token")]) == 0
    (tmp_path / "token").write_text("\n")
    assert cli.main([*command, "--token", str(tmp_path / "token")]) == 2


def test_a_process_that_runs_no_role_cannot_reload() -> None:
    with pytest.raises(NodeUnavailable):
        reload.current()
    reload.at_once({"log.*": print})


def test_another_file_changes_what_it_defines_and_leaves_the_registry() -> None:
    known = Definitions({"a": config.StreamSettings(key="1")})
    known.take({"a": {"key": "9"}, "b": {"key": "2"}})
    assert known.reload({"c": config.StreamSettings(key="3")})
    assert {name: one.key for name, one in known.items()} == {"a": "9", "b": "2", "c": "3"}
    assert not known.reload({"c": config.StreamSettings(key="3")})


async def test_the_watch_ends_with_its_role(tmp_path: Path) -> None:
    made = reloader(origin(), origin())
    made.file = tmp_path / "none"

    async def role() -> None:
        await asyncio.sleep(0)

    await reload.alongside(made, True, role())
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
    assert tuple(cli_config.NOW) == loader.ROLES or set(loader.ROLES) == set(cli_config.NOW)
