"""Two datacenters on one machine, and every command of the tutorial about them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.runtime import demo as plans
from tests.harness.cluster import Cluster, demo

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

TUTORIAL = Path(__file__).parents[2] / "docs/tutorials/two-datacenters.md"


def commands() -> list[str]:
    """Return the lines of all shell blocks of the tutorial."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def moved(line: str, running: Cluster) -> str:
    """Return a command with the addresses of a demo on free ports instead of the usual ones."""
    usual = {plan.name: plan.settings for plan in plans.plan(1, False, 2)}
    nodes = [*running.said["edges"], *running.said["balancers"]]
    for node in nodes:
        line = line.replace(f"http://{usual[node['name']]['http']}/", f"{node['http']}/")
    return line


def test_the_tutorial_of_two_datacenters_does_what_it_says(tmp_path: Path) -> None:
    first, *rest = commands()
    assert first.startswith("headwater demo --datacenters 2 ")
    with demo(tmp_path / "log", *first.split()[2:]) as running:
        said = running.said
        assert said["datacenters"] == ["dc1", "dc2"]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CONFIG": said["config"],
            "CONSUL": str(said["consul"][0]["pid"]),
        }
        answers, playlists = {}, []
        for line in rest:
            done = subprocess.run(
                ["bash", "-c", moved(line, running)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            answers[line] = done.stdout
            playlists += [done.stdout] if line.startswith("curl") else []
        found = answers["headwater nodes --config $CONFIG"]
        names = re.findall(r"^name=(\S+)  role=\S+  datacenter=(\S+)", found, re.MULTILINE)
        assert names == [
            *(("balancer", "dc1"), ("dc2-balancer", "dc2"), ("dc2-edge1", "dc2")),
            *(("dc2-relay", "dc2"), ("edge1", "dc1"), ("origin", "dc1"), ("relay", "dc1")),
        ]
        assert "stream=test  node=origin" in answers["headwater streams --config $CONFIG"]
        defined = answers["headwater streams defined --config $CONFIG"]
        assert defined == "stream=show  key=(hidden)  window=30s\n"
        assert len(playlists) == 5
        assert all(text.startswith("#EXTM3U") for text in playlists)


def test_without_consul_the_demo_says_how_to_get_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("headwater")), "demo", "--consul", "--ports", "0"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "--consul: the program `consul` is not installed" in done.stderr
    assert "Traceback" not in done.stderr
