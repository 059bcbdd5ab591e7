"""Metrics of several processes as one: children send snapshots, their supervisor adds them up.

The totals of a child that died are kept, so that no counter falls when it is started again.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from common.runtime import metrics
from common.runtime.metrics import Snapshot

MAX_SERIES = 20_000
"""Samples that a supervisor takes from one child. With more, the child's last good ones stay."""

_ONE_EACH = frozenset({"headwater_build_info", "headwater_process_start_time_seconds"})
_LEAST = frozenset({"headwater_tls_certificate_expiry_timestamp_seconds"})
"""Gauges of which the least one is told, not the sum; those that nobody has set are 0."""

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Merger(Collector):
    """The metrics of a supervisor and of all children it has or had."""

    def __init__(self, registry: CollectorRegistry = metrics.REGISTRY) -> None:
        self._own = registry
        self._children: dict[str, Snapshot] = {}
        self._dead: Snapshot = {}

    def update(self, child: str, latest: Snapshot) -> None:
        """Take the newest snapshot of a child."""
        if sum(len(family[2]) for family in latest.values()) <= MAX_SERIES:
            self._children[child] = latest

    def retire(self, child: str) -> None:
        """Note that a child died: its totals stay, its gauges go."""
        last = self._children.pop(child, {})
        totals = {name: family for name, family in last.items() if family[0] != "gauge"}
        self._dead = _plain(_sum([self._dead, totals]))

    def forget_stream(self, stream: str) -> None:
        """Remove the series of a stream that is gone, everywhere."""
        metrics.forget_stream(stream)
        for known in (self._dead, *self._children.values()):
            for family in known.values():
                family[2] = [s for s in family[2] if ["stream", stream] not in map(list, s[1])]

    def collect(self) -> Iterator[Metric]:
        """Return the sums."""
        own = metrics.snapshot(self._own)
        children = [
            {name: family for name, family in child.items() if name not in _ONE_EACH}
            for child in (self._dead, *self._children.values())
        ]
        for name, (kind, documentation, samples) in _sum([own, *children]).items():
            family = Metric(name, documentation, kind)
            for (sample, labels), value in samples.items():
                family.add_sample(sample, dict(labels), value)
            yield family

    def text(self) -> bytes:
        """Return the sums in the text format of Prometheus."""
        both = CollectorRegistry(auto_describe=False)
        both.register(_Once(list(self.collect())))
        return generate_latest(both)


class _Once(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _sum(snapshots: list[Snapshot]) -> dict[str, tuple[str, str, dict[_Key, float]]]:
    sums: dict[str, tuple[str, str, dict[_Key, float]]] = {}
    for one in snapshots:
        for name, (kind, documentation, samples) in one.items():
            known = sums.setdefault(name, (kind, documentation, {}))[2]
            for sample, labels, value in samples:
                key = (sample, tuple((label, text) for label, text in labels))
                if name in _LEAST:
                    known[key] = min(filter(None, (known.get(key), value)), default=0.0)
                else:
                    known[key] = known.get(key, 0.0) + value
    return sums


def _plain(sums: Mapping[str, tuple[str, str, dict[_Key, float]]]) -> Snapshot:
    plain: Snapshot = {}
    for name, (kind, documentation, samples) in sums.items():
        rows = [[key[0], [list(pair) for pair in key[1]], value] for key, value in samples.items()]
        plain[name] = [kind, documentation, rows]
    return plain
