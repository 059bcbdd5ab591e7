"""Make the dashboards for Grafana out of the metrics themselves: a name cannot drift.

``python -m common.runtime.dashboards deploy/grafana`` (in ``make docs``) writes one JSON file for
each. Panels show sums, or the busiest :data:`MOST` series with all others in one, so that a
dashboard costs the same with ten thousand streams as with ten. ``$stream``, ``$datacenter`` and
``$source`` are chosen by whoever looks.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from common.runtime import metrics as m

MOST = 20
"""Series that a panel shows by name."""

TARGET_LABELS = frozenset({"instance", "role", "datacenter"})
"""What service discovery adds to every series."""

_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: what it is called, in which unit, and what is asked for it."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """Expression and legend."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page of panels."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    variables: tuple[tuple[str, str], ...] = ()
    """Name, and the query for its values."""


def series(metric: Counter | Gauge | Histogram, chosen: str = "", suffix: str = "") -> str:
    """Return the selector of a metric's series.

    Raises:
        ValueError: If ``chosen`` selects by a label that the metric has not got.
    """
    name = metric._name + (suffix or ("_total" if isinstance(metric, Counter) else ""))
    pairs = ['datacenter=~"$datacenter"', *filter(None, [chosen])]
    labels = {pair.partition("=")[0] for pair in pairs}
    if unknown := labels - TARGET_LABELS - set(metric._labelnames):
        raise ValueError(f"{name} has no label {', '.join(sorted(unknown))}")
    return f"{name}{{{','.join(pairs)}}}"


def rate(metric: Counter, by: str, chosen: str = "", factor: int = 1) -> str:
    """Return what a counter counts a second, summed by labels."""
    scaled = f"{factor} * " if factor != 1 else ""
    return f"{scaled}sum by ({by}) (rate({series(metric, chosen)}[$__rate_interval]))"


def events(metric: Counter, by: str, chosen: str = "") -> str:
    """Return a rate of what seldom happens: nothing counted yet is shown as 0."""
    return f"{rate(metric, by, chosen)} or vector(0)"


def quantile(metric: Histogram, q: float, by: str, chosen: str = "") -> str:
    """Return a quantile of a histogram by labels."""
    buckets = series(metric, chosen, "_bucket")
    return f"histogram_quantile({q}, sum by ({by}, le) (rate({buckets}[$__rate_interval])))"


def busiest(expression: str, rest: bool = False) -> tuple[tuple[str, str], ...]:
    """Return queries for the busiest streams by name, and for the sum of all others if wanted."""
    found = ((f"topk({MOST}, {expression})", "{{stream}}"),)
    if not rest:
        return found
    others = f"sum({expression}) - sum(topk({MOST}, {expression}))"
    return (*found, (others, "all others"))


def _one(title: str, unit: str, expression: str, legend: str) -> Panel:
    return Panel(title, unit, ((expression, legend),))


def _machine(title: str, unit: str, name: str, counter: bool = False) -> Panel:
    """Return a panel of a metric that the process itself tells."""
    selected = f'{name}{{datacenter=~"$datacenter"}}'
    return _one(
        title,
        unit,
        f"topk({MOST}, {f'rate({selected}[$__rate_interval])' if counter else selected})",
        "{{instance}}",
    )


def vitals() -> Dashboard:
    """Return what to look at first: is the cluster well, and how full is it."""
    up = 'sum by (role) (up{job="headwater"})'
    fullest = f"topk({MOST}, max by (node) ({series(m.NODE_LOAD)}))"
    return Dashboard(
        "headwater-vitals",
        "Headwater: vitals",
        (
            _one("Nodes that answer", "none", up, "{{role}}"),
            _one("Viewers", "none", f"sum by (protocol) ({series(m.SESSIONS)})", "{{protocol}}"),
            _one(
                "Sent to viewers",
                "bps",
                rate(m.EGRESS_BYTES, "datacenter", factor=8),
                "{{datacenter}}",
            ),
            _one("Streams online", "none", f"sum({series(m.STREAM_ONLINE)})", "streams"),
            _one("Viewers that came", "ops", rate(m.SESSIONS_TOTAL, "protocol"), "{{protocol}}"),
            _one("Viewers refused", "ops", events(m.SESSIONS_REFUSED, "reason"), "{{reason}}"),
            _one(
                "From capture to viewer, 95 %",
                "s",
                quantile(m.CAPTURE_TO_VIEWER, 0.95, "protocol"),
                "{{protocol}}",
            ),
            _one("Fullest nodes", "percentunit", fullest, "{{node}}"),
            _one(
                "Edges that can take viewers",
                "none",
                f"max by (datacenter) ({series(m.EDGES_ELIGIBLE)})",
                "{{datacenter}}",
            ),
            _one(
                "Since the last word of a node",
                "s",
                f"topk({MOST}, max by (node) ({series(m.GOSSIP_AGE)}))",
                "{{node}}",
            ),
            _one("Viewers sent to an edge", "ops", events(m.REDIRECTS, "node"), "{{node}}"),
            _one(
                "Frames that viewers missed",
                "ops",
                events(m.FRAMES_SKIPPED, "reason"),
                "{{reason}}",
            ),
            _one("Records lost", "ops", events(m.RECORDS_LOST, "instance"), "{{instance}}"),
            _one(
                "Registry answers", "none", f"min by (role) ({series(m.REGISTRY_UP)})", "{{role}}"
            ),
            _one(
                "Processes started again",
                "ops",
                events(m.CHILD_RESTARTS, "instance"),
                "{{instance}}",
            ),
            _one(
                "Timers late",
                "s",
                f"topk({MOST}, max by (instance) ({series(m.LOOP_LAG)}))",
                "{{instance}}",
            ),
            _machine("CPU", "none", "headwater_process_cpu_seconds_total", counter=True),
            _machine("Memory", "bytes", "headwater_process_resident_memory_bytes"),
            _machine("Descriptors", "none", "headwater_process_open_fds"),
            _one("Drained", "none", f"sum({series(m.DRAINING)})", "edges"),
            _one("Versions", "none", f"count by (version) ({series(m.BUILD_INFO)})", "{{version}}"),
        ),
    )


def stream() -> Dashboard:
    """Return all about one stream, from the encoder to the edges."""
    one = 'stream="$stream"'
    age = f"time() - max({series(m.LAST_FRAME, one)})"
    return Dashboard(
        "headwater-stream",
        "Headwater: stream details",
        (
            _one("Online", "none", f"max({series(m.STREAM_ONLINE, one)})", "online"),
            _one("Age of the newest frame", "s", age, "age"),
            _one("Taken in", "bps", rate(m.INGEST_BYTES, "kind", one, 8), "{{kind}}"),
            _one("Frames taken in", "ops", rate(m.FRAMES_INGESTED, "kind", one), "{{kind}}"),
            _one("Frames dropped", "ops", events(m.FRAMES_DROPPED, "reason", one), "{{reason}}"),
            _one(
                "Breaks of the timeline",
                "ops",
                events(m.DISCONTINUITIES, "reason", one),
                "{{reason}}",
            ),
            _one("Segments", "ops", rate(m.SEGMENTS, "instance", one), "{{instance}}"),
            _one(
                "Sent to the bus",
                "bps",
                rate(m.BROADCAST_BYTES, "instance", one, 8),
                "{{instance}}",
            ),
            Panel(
                "From capture to the edges",
                "s",
                (
                    (quantile(m.CAPTURE_TO_EDGE, 0.5, "instance", one), "{{instance}} 50 %"),
                    (quantile(m.CAPTURE_TO_EDGE, 0.95, "instance", one), "{{instance}} 95 %"),
                ),
            ),
            _one(
                "Records received", "ops", rate(m.RECORDS_RECEIVED, "instance", one), "{{instance}}"
            ),
            _one(
                "Records repaired",
                "ops",
                events(m.RECORDS_REPAIRED, "instance, reason", one),
                "{{instance}} by {{reason}}",
            ),
            _one("Records lost", "ops", events(m.RECORDS_LOST, "instance", one), "{{instance}}"),
            _one("Gaps in the numbering", "ops", events(m.GAPS, "instance", one), "{{instance}}"),
            _one(
                "Upstreams", "none", f"max by (instance) ({series(m.PATHS, one)})", "{{instance}}"
            ),
            _one(
                "Pages", "bytes", f"sum by (instance) ({series(m.PAGE_BYTES, one)})", "{{instance}}"
            ),
        ),
        (("stream", f"label_values({m.STREAM_ONLINE._name}, stream)"),),
    )


def streams() -> Dashboard:
    """Return all streams at a glance: the busiest, the latest, the most broken."""
    age = f"time() - max by (stream) ({series(m.LAST_FRAME)})"
    lost = f"{rate(m.RECORDS_LOST, 'stream')} > 0"
    return Dashboard(
        "headwater-streams",
        "Headwater: all streams",
        (
            _one("Online", "none", f"sum({series(m.STREAM_ONLINE)})", "streams"),
            _one(
                "Publishers", "none", f"sum by (protocol) ({series(m.PUBLISHERS)})", "{{protocol}}"
            ),
            _one("Publishers refused", "ops", events(m.PUBLISHERS_REFUSED, "reason"), "{{reason}}"),
            Panel("Taken in", "bps", busiest(rate(m.INGEST_BYTES, "stream", factor=8), rest=True)),
            Panel("Frames taken in", "ops", busiest(rate(m.FRAMES_INGESTED, "stream"), rest=True)),
            Panel("Longest without a frame", "s", busiest(age)),
            Panel(
                "Latest at an edge, 95 %", "s", busiest(quantile(m.CAPTURE_TO_EDGE, 0.95, "stream"))
            ),
            Panel(
                "Most records lost", "ops", ((f"topk({MOST}, {lost}) or vector(0)", "{{stream}}"),)
            ),
            Panel(
                "Most pages",
                "bytes",
                busiest(f"sum by (stream) ({series(m.PAGE_BYTES)})", rest=True),
            ),
            _one(
                "Streams at each edge",
                "none",
                f"topk({MOST}, {series(m.STREAMS_SUBSCRIBED)})",
                "{{instance}}",
            ),
            _one("Streams taken over", "ops", events(m.TAKEOVERS, "reason"), "{{reason}}"),
            _one("Breaks of timelines", "ops", events(m.DISCONTINUITIES, "reason"), "{{reason}}"),
        ),
    )


def dashboards() -> tuple[Dashboard, ...]:
    """Return all of them."""
    return vitals(), stream(), streams()


def as_json(board: Dashboard) -> str:
    """Return a dashboard as Grafana imports and provisions it."""
    variables = [
        ("datacenter", f"label_values({m.BUILD_INFO._name}, datacenter)"),
        *board.variables,
    ]
    tree = {
        "id": None,
        "uid": board.uid,
        "title": board.title,
        "tags": ["headwater"],
        "schemaVersion": 38,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), *(_variable(*one) for one in variables)]},
        "panels": [_panel(number, panel) for number, panel in enumerate(board.panels)],
    }
    return json.dumps(tree, indent=1) + "\n"


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, query: str) -> dict[str, Any]:
    every = name == "datacenter"
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "includeAll": every,
        "multi": every,
        **({"allValue": ".*", "current": {"text": "All", "value": "$__all"}} if every else {}),
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    place = number * _WIDTH
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {
            "x": place % _COLUMNS,
            "y": place // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + order), "expr": expression, "legendFormat": legend}
            for order, (expression, legend) in enumerate(panel.queries)
        ],
    }


def write(folder: Path) -> None:
    """Write the file of every dashboard."""
    folder.mkdir(parents=True, exist_ok=True)
    for board in dashboards():
        (folder / f"{board.uid}.json").write_text(as_json(board))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
