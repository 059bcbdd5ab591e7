"""Dashboards, rules and runbooks that stay in step with the metrics."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram

from common.runtime import dashboards, metrics
from tests.arch.sources import ROOT

PROMETHEUS = ROOT / "deploy/prometheus"
RULES = (PROMETHEUS / "rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)
EXPRESSIONS = [
    pytest.param(expression, id=f"{board.uid}: {panel.title}")
    for board in dashboards.dashboards()
    for panel in board.panels
    for expression, _ in panel.queries
]


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    assert found, "promtool is missing; install it with `make peers`"
    return found


def names() -> set[str]:
    """Return every name that a node gives to a series."""
    found = set()
    for metric in vars(metrics).values():
        if isinstance(metric, Histogram):
            found |= {f"{metric._name}_{part}" for part in ("bucket", "sum", "count")}
        elif isinstance(metric, Counter):
            found.add(f"{metric._name}_total")
        elif isinstance(metric, Gauge):
            found.add(metric._name)
    text = metrics.text().decode()
    return found | set(re.findall(r"^(headwater_process_\w+) ", text, re.MULTILINE))


@pytest.mark.parametrize("board", dashboards.dashboards(), ids=lambda board: board.uid)
def test_the_dashboards_are_those_of_this_code(board: dashboards.Dashboard) -> None:
    path = ROOT / "deploy/grafana" / f"{board.uid}.json"
    assert path.read_text() == dashboards.as_json(board), "run `make docs`"
    tree = json.loads(path.read_text())
    assert tree["id"] is None
    titles = [panel["title"] for panel in tree["panels"]]
    assert len(titles) == len(set(titles))


def test_there_is_no_dashboard_besides() -> None:
    made = {f"{board.uid}.json" for board in dashboards.dashboards()}
    assert {path.name for path in (ROOT / "deploy/grafana").glob("*.json")} == made


def test_rules_and_panels_speak_of_metrics_that_exist() -> None:
    expressions = "".join(str(param.values[0]) for param in EXPRESSIONS)
    spoken = set(re.findall(r"\bheadwater_\w+", expressions + RULES))
    assert len(spoken) > 30
    assert spoken - names() == set()


def test_a_panel_cannot_select_by_a_label_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="has no label stream"):
        dashboards.series(metrics.SESSIONS, 'stream="$stream"')


def test_promtool_reads_every_panel(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:number{number}", "expr": concrete(str(param.values[0]))}
        for number, param in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "panels.json"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(EXPRESSIONS)} rules found" in done.stdout


def concrete(expression: str) -> str:
    """Return an expression as Grafana would send it."""
    for name, value in (("__rate_interval", "1m"), ("datacenter", ".*"), ("stream", "test")):
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression
    return expression


def test_the_alerts_come_when_they_should(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "test", "rules", "rules_test.yml"], cwd=PROMETHEUS, capture_output=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    tested = (PROMETHEUS / "rules_test.yml").read_text()
    expected = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:", tested))
    assert expected == set(ALERTS), "each alert is shown to come"


def test_prometheus_accepts_its_configuration(promtool: str, tmp_path: Path) -> None:
    shutil.copy(PROMETHEUS / "prometheus.yml", tmp_path)
    (tmp_path / "rules").mkdir()
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path / "rules")
    done = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_each_alert_names_its_page() -> None:
    pages = re.findall(r"runbook_url: (\S+)", RULES)
    assert len(pages) == len(ALERTS) == len(set(pages)) > 10
    for name, page in zip(ALERTS, pages, strict=True):
        text = (ROOT / page).read_text()
        assert text.startswith(f"# {name}\n")
        assert all(f"\n## {part}\n" in text for part in ("Look", "Do")), page
    assert {path.name for path in (ROOT / "docs/runbooks").iterdir()} == {
        Path(page).name for page in pages
    }
