"""The one command."""

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import ConfigError, ListenError, NodeUnavailable
from common.runtime import cli, logs, solo
from common.runtime.config import NodeSettings, Settings
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import NodeEntry


class Config(Settings, frozen=True):
    """Settings of a role of this test."""

    node: NodeSettings = NodeSettings()


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Put a role of this test in the place of all others."""
    app = SimpleNamespace(Config=Config, error=None, seen=[])

    async def run(settings: Any) -> None:
        app.seen.append(settings)
        if app.error is not None:
            raise app.error

    def check(settings: Any) -> None:
        if app.error is not None:
            raise app.error

    app.run, app.check = run, check
    monkeypatch.setattr(cli, "_app", lambda _: app)
    monkeypatch.setattr(cli, "_schema", lambda _: Config)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    return app


def test_a_role_runs_with_its_settings(role: SimpleNamespace) -> None:
    assert cli.main(["edge", "--set", "node.name=e7"]) == 0
    assert role.seen[0].node.name == "e7"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("edge.http", "wrong"), 2),
        (ListenError("cannot listen"), 3),
        (NodeUnavailable("no"), 1),
        (ExceptionGroup("g", [ListenError("cannot listen")]), 3),
        (ExceptionGroup("g", [ExceptionGroup("h", [ConfigError("a", "b")])]), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_expected_errors_are_one_line_and_an_exit_code(
    role: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    role.error = error
    assert cli.main(["origin"]) == code
    assert capsys.readouterr().err.count("\n") == (0 if code == 130 else 1)


def test_a_bug_keeps_its_traceback(role: SimpleNamespace) -> None:
    role.error = ExceptionGroup("g", [ConfigError("a", "b"), KeyError("bug")])
    with pytest.raises(ExceptionGroup):
        cli.main(["origin"])


@pytest.mark.parametrize("pair", ["edge.http", "edge.nothing=1", "nothing=1", "log.level=loud"])
def test_a_wrong_option_ends_with_2(role: SimpleNamespace, pair: str) -> None:
    assert cli.main(["edge", "--set", pair]) == (0 if pair == "edge.nothing=1" else 2)


def test_settings_are_shown_and_checked(
    role: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", "show", "edge", "-s", "node.name=x"]) == 0
    assert '[node]\nname = "x"\n' in capsys.readouterr().out
    assert cli.main(["config", "check"]) == 0
    assert cli.main(["config", "check", "-s", "node.nam=x"]) == 2
    assert "did you mean 'name'?" in capsys.readouterr().err
    role.error = ConfigError("streams.a.source", "no such option")
    assert cli.main(["config", "check"]) == 2
    assert cli.main(["config", "show"]) == 0
    assert "no such option" in capsys.readouterr().err


def test_solo_checks_every_setting_before_it_starts_anything(
    role: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Sequence[str]] = []

    def main(_: object, pairs: Sequence[str], node: NodeSettings) -> int:
        started.append([*pairs, node.name])
        return 0

    monkeypatch.setattr(solo, "main", main)
    assert cli.main(["solo", "-s", "node.nam=x"]) == 2
    assert started == []
    assert cli.main(["solo", "-s", "node.name=x"]) == 0
    assert started == [["node.name=x", "x"]]


def test_nodes_and_streams_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["-s", f"node.registry={tmp_path}"]
    assert cli.main(["nodes", *where]) == 0
    assert cli.main(["streams", *where]) == 0
    assert capsys.readouterr().out == "no node is live\nno stream is live\n"

    async def fill() -> None:
        shared = EmbeddedRegistry(tmp_path)
        await shared.register(NodeEntry(name="e1", role="edge", endpoints={"http": "h:1"}))
        await shared.acquire("live", "o1", {})
        await shared.stand_by("live", "o2", {})

    asyncio.run(fill())
    assert cli.main(["nodes", *where]) == 0
    assert "name=e1  role=edge" in capsys.readouterr().out
    assert cli.main(["streams", "--json", *where]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["node"], row["followers"]) == ("o1", "o2")


def test_streams_are_defined_for_all_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--set", f"node.registry={tmp_path}"]
    assert cli.main(["streams", "defined", *where]) == 0
    assert cli.main(["streams", "define", "show", "key=secret", "window=90s", *where]) == 0
    assert cli.main(["streams", "defined", *where]) == 0
    assert cli.main(["streams", "define", "show", "windw=90s", *where]) == 2
    assert cli.main(["streams", "delete", *where]) == 2
    assert cli.main(["streams", "delete", "show", *where]) == 0
    assert cli.main(["streams", "defined", *where]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "the registry defines no stream",
        "stream=show  key=(hidden)  window=90s",
        "the registry defines no stream",
    ]
    assert "did you mean 'window'" in err
    assert "say which stream" in err


def test_videogen_gets_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def main(options: list[str]) -> int:
        seen.append(options)
        return 5

    module = SimpleNamespace(main=main)
    monkeypatch.setattr(importlib, "import_module", lambda _: module)
    assert cli.main(["videogen", "--help", "x"]) == 5
    assert seen == [["--help", "x"]]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["--help"])
    assert raised.value.code == 0
    out = capsys.readouterr().out
    for command in ("origin", "edge", "balancer", "solo", "demo", "videogen", "config", "nodes"):
        assert command in out


def test_the_command_line_loads_no_role() -> None:
    program = (
        "import sys; from common.runtime import cli; cli.parser()\n"
        "print(sorted({'av', 'zmq', 'aiohttp', 'numpy', 'origin', 'edge'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_keys_shows_the_public_key_and_makes_a_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["edge", "-s", "node.name=e1", "-s", f"node.keys={tmp_path}/key"]

    def shown(*more: str) -> str:
        assert cli.main(["keys", *where, *more]) == 0
        name, key = capsys.readouterr().out.split()
        assert name == "e1"
        assert (tmp_path / "key").read_text().strip() != key
        return key

    first = shown()
    assert shown() == first
    second = shown("--new")
    assert second != first
    assert shown() == second
