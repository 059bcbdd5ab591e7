"""What happened to the records of one stream on their way into the pages."""

from collections import Counter
from dataclasses import dataclass, field

from common.runtime import metrics

MAX_DELAYS = 4096
"""Delays that are kept until they are reported. Further ones are not measured."""


@dataclass(slots=True)
class Tally:
    """Counted since the last report. Plain numbers: a frame costs no call into the metrics."""

    received: int = 0
    received_bytes: int = 0
    merged: int = 0
    """Records that another path had brought already."""
    repaired: Counter[str] = field(default_factory=Counter)
    """By the kind of node that had them."""
    backfilled: Counter[str] = field(default_factory=Counter)
    gaps: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)
    """Seconds from the encoder's clock to the pages."""

    def delay(self, capture_us: int, wall_us: int) -> None:
        """Note how old a frame is that has reached the pages."""
        if len(self.delays) < MAX_DELAYS:
            self.delays.append(max(0, wall_us - capture_us) / 1_000_000)

    def report(self, stream: str) -> None:
        """Move everything into the process's metrics."""
        metrics.RECORDS_RECEIVED.labels(stream).inc(self.received)
        metrics.RECEIVED_BYTES.labels(stream).inc(self.received_bytes)
        metrics.RECORDS_MERGED.labels(stream).inc(self.merged)
        for kind, count in self.repaired.items():
            metrics.RECORDS_REPAIRED.labels(stream, kind).inc(count)
        for kind, count in self.backfilled.items():
            metrics.RECORDS_BACKFILLED.labels(stream, kind).inc(count)
        metrics.GAPS.labels(stream).inc(self.gaps)
        for reason, count in self.lost.items():
            metrics.RECORDS_LOST.labels(stream, reason).inc(count)
        for reason, count in self.dropped.items():
            metrics.BUS_DROPS.labels(reason).inc(count)
        histogram = metrics.CAPTURE_TO_EDGE.labels(stream)
        for seconds in self.delays:
            histogram.observe(seconds)
        self.received = self.received_bytes = self.merged = self.gaps = 0
        self.repaired.clear()
        self.backfilled.clear()
        self.lost.clear()
        self.dropped.clear()
        self.delays.clear()
