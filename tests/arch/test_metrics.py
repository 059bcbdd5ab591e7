"""Metrics that Prometheus' own linter accepts."""

import shutil
import subprocess

import pytest
from prometheus_client import Counter, Gauge, Histogram

from common.runtime import metrics

INSTALL = "promtool is missing; install it with `make peers` (Debian: apt-get install prometheus)"


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    assert found, INSTALL
    return found


def test_promtool_finds_nothing_wrong_with_any_metric(promtool: str) -> None:
    stream = "arch-test"
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram) and "stream" in metric._labelnames:
            metric.labels(**dict.fromkeys(metric._labelnames, stream))
    text = metrics.text()
    metrics.forget_stream(stream)
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (done.stdout + done.stderr).decode() == ""
    assert done.returncode == 0


def test_every_metric_is_documented() -> None:
    names = [m._name for m in vars(metrics).values() if isinstance(m, Counter | Gauge | Histogram)]
    assert len(names) == len(set(names)) > 30
