"""Metrics of one process, and of a supervisor with its children."""

import msgpack
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from common.runtime import metrics
from common.runtime.merge import MAX_SERIES, Merger


class Child:
    """The metrics of a process that is not this one."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.frames = Counter("t_frames", "Frames.", ["stream"], registry=self.registry)
        self.sessions = Gauge("t_sessions", "Sessions.", registry=self.registry)
        self.delay = Histogram("t_delay_seconds", "Delay.", buckets=(1, 2), registry=self.registry)

    def snapshot(self) -> metrics.Snapshot:
        taken: metrics.Snapshot = msgpack.unpackb(msgpack.packb(metrics.snapshot(self.registry)))
        return taken


def lines(merger: Merger) -> set[str]:
    return {line for line in merger.text().decode().splitlines() if not line.startswith("#")}


def test_counters_histograms_and_gauges_of_children_are_summed() -> None:
    merger = Merger(CollectorRegistry())
    for name, amount in (("a", 1), ("b", 2)):
        child = Child()
        child.frames.labels("live").inc(amount)
        child.sessions.set(amount)
        child.delay.observe(amount)
        merger.update(name, child.snapshot())
    assert {'t_frames_total{stream="live"} 3.0', "t_sessions 3.0"} <= lines(merger)
    assert {'t_delay_seconds_bucket{le="1.0"} 1.0', "t_delay_seconds_sum 3.0"} <= lines(merger)


def test_counters_never_fall_when_children_die_again_and_again() -> None:
    merger = Merger(CollectorRegistry())
    for _ in range(3):
        child = Child()
        child.frames.labels("live").inc(10)
        child.sessions.set(5)
        merger.update("a", child.snapshot())
        merger.retire("a")
    assert 't_frames_total{stream="live"} 30.0' in lines(merger)
    assert not any(line.startswith("t_sessions") for line in lines(merger))


def test_a_newer_snapshot_replaces_the_older_one() -> None:
    merger, child = Merger(CollectorRegistry()), Child()
    for _ in range(3):
        child.frames.labels("live").inc()
        merger.update("a", child.snapshot())
    assert 't_frames_total{stream="live"} 3.0' in lines(merger)


def test_the_series_of_a_removed_stream_go_from_living_and_dead() -> None:
    merger, child = Merger(CollectorRegistry()), Child()
    child.frames.labels("gone").inc()
    child.frames.labels("live").inc()
    merger.update("a", child.snapshot())
    merger.retire("a")
    merger.update("a", child.snapshot())
    metrics.GAPS.labels(stream="gone").inc()
    merger.forget_stream("gone")
    assert not any("gone" in line for line in lines(merger))
    assert 't_frames_total{stream="live"} 2.0' in lines(merger)
    assert b"gone" not in metrics.text()


def test_a_child_with_endless_series_is_not_taken() -> None:
    merger = Merger(CollectorRegistry())
    merger.update("a", {"x": ["gauge", "X.", [["x", [["stream", "s"]], 1.0]] * (MAX_SERIES + 1)]})
    assert lines(merger) == set()


def test_every_process_reports_itself() -> None:
    text = metrics.text().decode()
    for name in ("build_info", "process_cpu_seconds_total", "process_resident_memory_bytes"):
        assert f"\nheadwater_{name}" in text


def test_what_there_is_one_of_on_a_node_is_not_summed() -> None:
    merger = Merger()
    merger.update("a", metrics.snapshot())
    build = [line for line in lines(merger) if line.startswith("headwater_build_info")]
    assert [line.rpartition(" ")[2] for line in build] == ["1.0"]


@pytest.mark.parametrize(
    "metric", [m for m in vars(metrics).values() if isinstance(m, Counter | Gauge | Histogram)]
)
def test_names_and_labels_keep_the_rules(metric: Counter | Gauge | Histogram) -> None:
    assert metric._name.startswith("headwater_")
    assert metric._name == metric._name.lower()
    assert metric is metrics.BUILD_INFO or set(metric._labelnames) <= metrics.LABELS
    assert metric._documentation.endswith(".")
    if isinstance(metric, Gauge):
        assert not metric._name.endswith("_total")


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.011, 0.35, 30.0, 31.0])
def test_a_figure_taken_many_times_at_once_counts_as_if_one_by_one(seconds: float) -> None:
    once, each = CollectorRegistry(), CollectorRegistry()
    made = [
        Histogram("t_delay_seconds", "d", ["p"], registry=one, buckets=metrics.LATENCY_BUCKETS)
        for one in (once, each)
    ]
    metrics.observe(made[0].labels("hls"), seconds, 3)
    for _ in range(3):
        made[1].labels("hls").observe(seconds)
    assert metrics.text(once) == metrics.text(each)
