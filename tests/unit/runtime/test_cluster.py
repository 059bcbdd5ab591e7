"""Nodes as child processes: ready, dead, stopped, swept; the demo and solo around them."""

import os
import subprocess
from pathlib import Path

import pytest

from common.errors import ConfigError, ListenError
from common.runtime import cluster, demo, listen, ready, solo
from common.runtime.cluster import Cluster, Node, NodeDied, NotReady, until
from common.runtime.config import NodeSettings
from common.runtime.embedded import start_time

ROLE = """
import asyncio, subprocess, sys
from common.runtime import ready
from common.runtime.config import NodeSettings
from common.runtime.tasks import run_until_signalled

async def main(run, what):
    print("00:00:00.000 WARNING x hello", file=sys.stderr, flush=True)
    if what == "die":
        print("last words", file=sys.stderr)
        raise SystemExit(7)
    if what == "orphan":
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
    ready.announce(NodeSettings(name="n", run=run), {"http": "h:1"})
    await asyncio.Event().wait()

asyncio.run(run_until_signalled(main(*sys.argv[1:])))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fakerole.py").write_text(ROLE)
    path = f"{tmp_path}:{Path(__file__).parents[3]}"
    monkeypatch.setenv("PYTHONPATH", path)
    return tmp_path


async def test_nodes_start_announce_and_leave_nothing_behind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = Cluster([Node("n", "fakerole", [str(folder), "orphan"])], folder)
    await group.start()
    assert (await group.announced("n")).endpoints == {"http": "h:1"}
    pids = group.pids()
    assert len(pids) == 2
    await group.stop()

    async def gone() -> bool:
        return not any(start_time(pid) for pid in pids)

    await until("all to be gone", gone, 5)
    assert "n: 00:00:00.000 WARNING x hello" in capsys.readouterr().err


async def test_a_node_that_dies_is_reported_with_its_last_words(folder: Path) -> None:
    group = Cluster([Node("n", "fakerole", [str(folder), "die"])], folder)
    await group.start()
    with pytest.raises(NodeDied, match="n stopped with exit code 7") as raised:
        await group.watch()
    assert "last words" in str(raised.value)
    assert raised.value.code == 7
    await group.stop()


async def test_a_wait_is_bounded_and_says_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    async def never() -> bool:
        return False

    with pytest.raises(NotReady, match="for the moon"):
        await until("the moon", never, timeout=1.2)
    assert capsys.readouterr().err == "waiting for the moon ...\n"


def test_what_a_node_announces_can_be_read_until_it_withdraws(tmp_path: Path) -> None:
    node = NodeSettings(name="e/1", run=str(tmp_path / "run"))
    assert ready.read(node.run, "e/1") is None
    ready.announce(node, {"http": "h:1"}, [1, 2])
    assert ready.read(node.run, "e/1") == ready.Ready({"http": "h:1"}, os.getpid(), (1, 2))
    ready.withdraw(node)
    ready.withdraw(node)
    assert ready.read(node.run, "e/1") is None


def test_a_family_is_a_process_and_all_below_it() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        found = cluster.family(os.getpid())
        child.kill()
    assert found[0] == os.getpid()
    assert child.pid in found


def test_the_demo_uses_the_usual_ports_or_any() -> None:
    usual = {plan.name: plan.settings for plan in demo.plan(2, any_ports=False)}
    assert usual["origin"]["rtmp"] == "127.0.0.1:1935"
    assert usual["edge2"] == {
        "http": "127.0.0.1:8180",
        "admin": "127.0.0.1:8181",
        "gossip": "127.0.0.1:5670",
        "control": "127.0.0.1:5661",
    }
    assert usual["balancer"] == {
        "http": "127.0.0.1:8042",
        "gossip": "127.0.0.1:5572",
    }
    free = [plan.settings for plan in demo.plan(3, any_ports=True)]
    assert len(free) == 5
    assert {address for settings in free for address in settings.values()} == {"127.0.0.1:0"}


def test_the_demo_names_who_holds_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen.bind("127.0.0.1:0") as held:
        port = held.getsockname()[1]
        plans = [demo.Plan("origin", "origin", {"http": f"127.0.0.1:{port}"})]
        monkeypatch.setattr(demo, "plan", lambda *_: plans)
        with pytest.raises(ListenError, match=rf"process {os.getpid()} .*demo --ports 0"):
            demo.main(edges=1, any_ports=False, duration=0, as_json=False)


@pytest.mark.parametrize("edges", [0, -1, 17])
def test_the_demo_has_one_edge_to_sixteen(edges: int) -> None:
    with pytest.raises(ConfigError, match="--edges: must be 1 to 16"):
        demo.main(edges=edges, any_ports=True, duration=0, as_json=False)


def test_the_demo_tells_a_person_where_to_look() -> None:
    found = {
        "stream": "test",
        "ingest": [{"stream": "live", "url": "rtmp://127.0.0.1:1935/live/KEY"}],
        "origin": {"api": "http://127.0.0.1:4242"},
        "edges": [{"name": "edge1", "http": "http://127.0.0.1:8080", "admin": "http://h:8081"}],
        "balancer": {"http": "http://127.0.0.1:8042"},
        "pids": [1],
    }
    text = demo.describe(found)
    assert "edge1      http://127.0.0.1:8080/test.html" in text
    assert "http://127.0.0.1:8042/cmaf/test/index.m3u8" in text
    assert "server rtmp://127.0.0.1:1935/live   key KEY" in text


def test_folders_of_killed_demos_are_swept(tmp_path: Path) -> None:
    mine = tmp_path / f"headwater-demo-{os.getpid()}-{start_time(os.getpid())}-abc"
    dead = tmp_path / "headwater-demo-999999999-5-abc"
    other = tmp_path / "headwater-demo-notes"
    for path in (mine, dead, other):
        path.mkdir()
    demo.sweep([tmp_path])
    assert [path.exists() for path in (mine, dead, other)] == [True, False, True]


def test_the_demo_writes_a_configuration_for_every_node(tmp_path: Path) -> None:
    for name in ("run", "pages"):
        (tmp_path / name).mkdir()
    demo.Demo(demo.plan(1, any_ports=True), tmp_path / "run", tmp_path / "pages")
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["balancer.toml", "edge1.toml", "origin.toml"]
    assert (tmp_path / "run" / "origin.toml").stat().st_mode & 0o077 == 0
    assert "videogen://" in (tmp_path / "run" / "origin.toml").read_text()


def test_the_roles_of_a_solo_node_keep_apart() -> None:
    node = NodeSettings(name="box", pages="/pages")
    options = solo._arguments(Path("f.toml"), ["edge.viewers=1"], node, "edge")
    assert options == [
        *("--config", "f.toml", "--set", "edge.viewers=1"),
        *("--set", "node.name=box-edge", "--set", "node.pages=/pages/edge"),
    ]
    assert solo._arguments(None, [], NodeSettings(), "origin") == ["--set", "node.name=origin"]


async def test_solo_starts_a_dead_node_again_unless_its_settings_are_wrong(folder: Path) -> None:
    program = folder / "flaky.py"
    program.write_text(
        "import pathlib, sys\n"
        "count = pathlib.Path(sys.argv[1])\n"
        "number = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(number))\n"
        "sys.exit(1 if number < 3 else 2)\n"
    )
    node = Node("n", "flaky", [str(folder / "count")])
    with pytest.raises(ExceptionGroup) as raised:
        await solo.supervise(Cluster([node], folder))
    assert isinstance(raised.value.exceptions[0], NodeDied)
    assert (folder / "count").read_text() == "3"


async def test_a_line_without_end_does_not_stop_the_log(folder: Path) -> None:
    (folder / "chatty.py").write_text(
        "import sys\nsys.stderr.write('x' * 300000 + '\\nend\\n')\nsys.exit(4)\n"
    )
    group = Cluster([Node("n", "chatty", [])], folder)
    await group.start()
    with pytest.raises(NodeDied, match="end"):
        await group.watch()
    await group.stop()


def test_an_onlooker_sees_warnings_with_what_belongs_to_them_and_not_all_the_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    echo = cluster.Echo(clock=lambda: now[0])
    error = ["12:00:00.000 ERROR x failed", "Traceback", "  KeyError"]
    for line in [*error, "12:00:00.100 INFO x fine", "detail", *error]:
        echo("edge1", line)
    now[0] = 11.0
    echo("edge1", error[0])
    assert capsys.readouterr().err.splitlines() == [
        *(f"edge1: {line}" for line in error),
        "edge1: 12:00:00.000 ERROR x failed",
    ]


def test_what_a_node_says_before_it_can_log_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    cluster.Echo()("edge1", "headwater: edge.http: wrong")
    assert capsys.readouterr().err == "edge1: headwater: edge.http: wrong\n"
