"""The counts of one stream, handed to the metrics once a second instead of with every frame."""

from collections.abc import Iterable

from common.runtime import metrics
from origin.feed import Feed
from origin.segmenter import Segmenter


class Figures:
    """What has been told to the metrics of one stream so far."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._dropped = self._closed = self._breaks = 0

    def drop(self, reason: str) -> None:
        """Count a frame that is not carried on."""
        metrics.FRAMES_DROPPED.labels(self._stream, reason).inc()

    def report(
        self, feeds: Iterable[Feed], segmenter: Segmenter, now_us: int, online: bool
    ) -> None:
        """Hand over what has been counted since the last time."""
        stream = self._stream
        for feed in feeds:
            frames, size = feed.unreported()
            if frames:
                metrics.FRAMES_INGESTED.labels(stream, feed.kind).inc(frames)
                metrics.INGEST_BYTES.labels(stream, feed.kind).inc(size)
                metrics.LAST_FRAME.labels(stream).set(now_us / 1_000_000)
        dropped = segmenter.dropped - self._dropped
        if dropped:
            metrics.FRAMES_DROPPED.labels(stream, "before_keyframe").inc(dropped)
        metrics.SEGMENTS.labels(stream).inc(segmenter.closed - self._closed)
        if segmenter.breaks > self._breaks:
            breaks = segmenter.breaks - self._breaks
            metrics.DISCONTINUITIES.labels(stream, "timeline").inc(breaks)
        self._dropped, self._closed = segmenter.dropped, segmenter.closed
        self._breaks = segmenter.breaks
        metrics.STREAM_ONLINE.labels(stream).set(online)
