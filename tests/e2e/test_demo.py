"""The first thing anyone runs, and the lines of the README, as a newcomer would type them."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from common.errors import ListenError
from common.runtime import listen
from tests.harness.cluster import Cluster, alive, demo
from tests.harness.media import clip

pytestmark = pytest.mark.e2e

HEADWATER = str(Path(sys.executable).with_name("headwater"))
README = Path(__file__).parents[2] / "README.md"


def test_three_edges_that_end_by_themselves(tmp_path: Path) -> None:
    with demo(tmp_path / "log", "--edges", "3", "--duration", "2") as running:
        assert [edge["name"] for edge in running.said["edges"]] == ["edge1", "edge2", "edge3"]
        assert sorted(running.said) == ["balancer", "edges", "ingest", "origin", "pids", "stream"]
        assert running.process.wait(30) == 0
        assert not any(alive(pid) for pid in running.pids)


def test_the_demo_ends_with_the_code_of_a_node_that_dies(tmp_path: Path) -> None:
    with demo(tmp_path / "log") as running:
        origin = running.pids[0]
        subprocess.run(["kill", "-KILL", str(origin)], check=True)
        assert running.process.wait(30) == 128 + signal.SIGKILL
    assert "origin stopped with exit code 137" in (tmp_path / "log").read_text()


def test_a_taken_port_is_named_with_its_holder() -> None:
    try:
        held = listen.bind("127.0.0.1:1935")
    except ListenError:
        held = None  # somebody else's: it is as taken as ours would be
    try:
        done = subprocess.run([HEADWATER, "demo"], capture_output=True, text=True, timeout=30)
    finally:
        if held is not None:
            held.close()
    assert done.returncode == 3
    assert "port 1935 is taken by process" in done.stderr
    assert "--ports 0" in done.stderr
    assert "Traceback" not in done.stderr


def line_of_the_readme(tool: str, url: str, file: Path) -> list[str]:
    """Return the command of the table *With, Do*, with our address and file in it."""
    found = re.search(rf"^\| {tool} \| `(.+)` \|$", README.read_text(), re.MULTILINE)
    assert found
    text = re.sub(r"rtmp://\S+/live/KEY", url, found[1])
    return [str(file) if word == "FILE" else word for word in shlex.split(text)]


def plays(cluster: Cluster, stream: str) -> bool:
    """Return whether the balancer leads to a playlist with media in it."""
    try:
        url = f"{cluster.balancer}/json_{stream}.js"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return b"h264" in answer.read().lower()
    except OSError:
        return False


@pytest.mark.parametrize("tool", ["ffmpeg", "GStreamer"])
def test_the_lines_of_the_readme_play(cluster: Cluster, tmp_path: Path, tool: str) -> None:
    file = clip(tmp_path / "clip.flv", 60)
    command = line_of_the_readme(tool, cluster.ingest, file)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as encoder:
        try:
            deadline = time.monotonic() + 60
            while not plays(cluster, "live"):
                assert encoder.poll() is None, f"{tool} ended with {encoder.returncode}"
                assert time.monotonic() < deadline, f"the stream of {tool} does not play"
        finally:
            encoder.kill()


def test_nodes_and_streams_of_a_machine_are_listed(cluster: Cluster) -> None:
    run = Path(f"/proc/{cluster.pids[0]}/cmdline").read_bytes().split(b"\0")
    config = next(word.decode() for word in run if word.endswith(b".toml"))
    done = subprocess.run(
        [HEADWATER, "nodes", "--json", "--config", config],
        capture_output=True,
        check=True,
    )
    assert [node["role"] for node in json.loads(done.stdout)] == [
        *("balancer", "edge", "edge", "origin")
    ]
