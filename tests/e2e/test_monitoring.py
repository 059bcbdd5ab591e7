"""A real Prometheus that watches a demo: every panel of every dashboard has something to show."""

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.runtime import dashboards, listen
from tests.arch.test_monitoring import concrete
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.e2e

DEPLOY = Path(__file__).parents[2] / "deploy"
PATIENCE = 60.0
RECORDED = re.findall(r"record: (\S+)", (DEPLOY / "prometheus/rules.yml").read_text())


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[str]:
    """The one with our configuration, only faster."""
    folder = tmp_path_factory.mktemp("prometheus")
    text = (DEPLOY / "prometheus/prometheus.yml").read_text()
    text = text.replace("http://127.0.0.1:8042", cluster.balancer)
    text = re.sub(r"(interval: )1[05]s", r"\g<1>1s", text)
    (folder / "prometheus.yml").write_text(text)
    (folder / "rules").mkdir()
    (folder / "rules/rules.yml").write_text((DEPLOY / "prometheus/rules.yml").read_text())
    with listen.bind("127.0.0.1:0") as free:
        address = listen.authority(free)
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def ask(prometheus: str, expression: str) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?{query}", timeout=10) as answer:
        tree = json.load(answer)
    assert tree["status"] == "success"
    return list(tree["data"]["result"])


def watch(cluster: Cluster) -> None:
    """Be viewers that come from the balancer, over HLS and progressively."""
    for path in ("cmaf/test/index.m3u8", "test.mp4"):
        with urllib.request.urlopen(f"{cluster.balancer}/{path}", timeout=10) as answer:
            answer.read(65536 if path.endswith(".mp4") else -1)


def empty(prometheus: str) -> list[str]:
    """Return the panels that show nothing now."""
    return [
        f"{board.uid}: {panel.title}: {expression}"
        for board in dashboards.dashboards()
        for panel in board.panels
        for expression, _ in panel.queries
        if not numbers(ask(prometheus, concrete(expression)))
    ]


def numbers(result: list[dict[str, Any]]) -> list[float]:
    return [value for one in result if (value := float(one["value"][1])) == value]


def test_every_panel_shows_something(cluster: Cluster, prometheus: str) -> None:
    deadline = time.monotonic() + PATIENCE
    missing = ["nothing asked yet"]
    while missing:
        assert time.monotonic() < deadline, "\n".join(missing)
        try:
            watch(cluster)
            missing = empty(prometheus) + [name for name in RECORDED if not ask(prometheus, name)]
        except OSError as error:  # Prometheus has not started yet
            missing = [str(error)]
    found = ask(prometheus, "up")
    roles = {one["metric"]["role"]: one["value"][1] for one in found}
    assert roles == {"origin": "1", "edge": "1", "balancer": "1"}
    assert {one["metric"]["datacenter"] for one in found} == {"none"}
    series = ask(prometheus, 'count by (instance) ({job="headwater"})')
    assert all(value < 2000 for value in numbers(series)), series
