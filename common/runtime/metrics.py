"""Every metric of Headwater, in one place.

Names begin with ``headwater_`` and use base units. Labels are only stream, protocol, node, kind
and reason: nothing that grows without end, no addresses and no ids. To add a metric, add a line.
``kind`` is a track's (video, audio, metadata, subtitle).
"""

import os
import resource
import time
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry(auto_describe=True)

Snapshot = dict[str, list[Any]]
"""Family name -> [type, help, [[sample name, [[label, value], ...], number], ...]]; plain values
that msgpack carries."""

LABELS = frozenset({"stream", "protocol", "node", "kind", "reason"})

LATENCY_BUCKETS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 1.5, 2, 3, 5, 10, 30)
"""Seconds; fine where two frames are, coarse where segments are."""


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"headwater_{name}", text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"headwater_{name}", text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(f"headwater_{name}", text, labels, registry=REGISTRY, buckets=LATENCY_BUCKETS)


def observe(histogram: Histogram, seconds: float, count: int) -> None:
    """Take ``seconds`` into a histogram of this module ``count`` times, for the price of once.

    The library has no way to do so; a test compares with what it does itself.
    """
    histogram._sum.inc(seconds * count)
    histogram._buckets[bisect_left(LATENCY_BUCKETS, seconds)].inc(count)


# The registry.
REGISTRY_UP = _gauge("registry_up", "1 while the registry answers; media does not depend on it.")
REGISTRY_FAILURES = _counter("registry_failures", "Questions to it without answer.", "reason")

# Origin: what comes in and goes to the bus.
FRAMES_INGESTED = _counter("frames_ingested", "Frames taken in.", "stream", "kind")
INGEST_BYTES = _counter("ingest_bytes", "Payload bytes taken in.", "stream", "kind")
FRAMES_DROPPED = _counter("frames_dropped", "Frames not carried on.", "stream", "reason")
DISCONTINUITIES = _counter("discontinuities", "Breaks of a timeline.", "stream", "reason")
SEGMENTS = _counter("segments", "Segments closed.", "stream")
PUBLISHERS = _gauge("publishers", "Publishers connected.", "protocol")
PUBLISHERS_TOTAL = _counter("publishers_accepted", "Publishers accepted.", "protocol")
PUBLISHERS_REFUSED = _counter("publishers_refused", "Publishers refused.", "protocol", "reason")
STREAM_ONLINE = _gauge("stream_online", "Whether a publisher feeds the stream.", "stream")
LAST_FRAME = _gauge("last_frame_timestamp_seconds", "Unix time of the newest frame.", "stream")
FOLLOWING = _gauge(
    "stream_following",
    "For a stream that another origin owns: 1 while it is followed, 2 while frame by frame.",
    "stream",
)
FOLLOWER_LAG = _gauge(
    "follower_lag_seconds",
    "Age of the oldest frame here that the stream's owner has not published.",
    "stream",
)
TAKEOVERS = _counter("takeovers", "Streams taken over from their owners.", "stream", "reason")
FORWARDED = _counter("publishers_forwarded", "Publishers passed on to their owner.", "stream")
STEP_DOWNS = _counter("step_downs", "Streams given up to another origin.", "stream")

# Bus, sending side.
RECORDS_BROADCAST = _counter("records_broadcast", "Records sent to the bus.", "stream")
BROADCAST_BYTES = _counter("broadcast_bytes", "Payload bytes sent to the bus.", "stream")
RECORDS_RESENT = _counter("records_resent", "Records sent again: join, repair.", "stream", "reason")

# Bus, receiving side.
RECORDS_RECEIVED = _counter("records_received", "Records received live.", "stream")
RECEIVED_BYTES = _counter("received_bytes", "Payload bytes received.", "stream")
RECORDS_MERGED = _counter("records_merged", "Records that came again, over another path.", "stream")
RECORDS_RELAYED = _counter("records_relayed", "Records that a relay passed on.", "stream")
PATHS = _gauge("stream_paths", "Upstreams that a stream comes from now.", "stream")
RECORDS_REPAIRED = _counter(
    "records_repaired",
    "Missing records that repair brought; reason: the owner, a standby, a relay or an edge had it.",
    "stream",
    "reason",
)
RECORDS_BACKFILLED = _counter(
    "records_backfilled",
    "Older records fetched at a join; reason: who had them.",
    "stream",
    "reason",
)
GAPS = _counter("bus_gaps", "Gaps seen in the numbering.", "stream")
RECORDS_LOST = _counter("records_lost", "Records written down as lost.", "stream", "reason")
BUS_DROPS = _counter("bus_messages_dropped", "Messages of the bus not used.", "reason")
BUS_RECONNECTS = _counter("bus_reconnects", "Connections made anew to nodes that fell silent.")
STREAMS_SUBSCRIBED = _gauge("streams_subscribed", "Streams taken from the bus.")
CAPTURE_TO_EDGE = _histogram(
    "capture_to_edge_seconds", "From the encoder's clock to the pages of the edge.", "stream"
)

# Edge: viewers.
SESSIONS = _gauge("sessions", "Viewers' sessions now.", "protocol")
SESSIONS_TOTAL = _counter("sessions_opened", "Viewers' sessions opened.", "protocol")
SESSIONS_REFUSED = _counter("sessions_refused", "Viewers refused.", "protocol", "reason")
EGRESS_BYTES = _counter("egress_bytes", "Bytes sent to viewers.", "protocol")
FRAMES_SKIPPED = _counter(
    "viewer_frames_skipped",
    "Frames that viewers did not get: they were slow, or the edge had lost the frames.",
    "protocol",
    "reason",
)
CAPTURE_TO_VIEWER = _histogram(
    "capture_to_viewer_seconds", "From the encoder's clock to the viewer's socket.", "protocol"
)
VIEWERS_CUT = _counter(
    "viewers_cut",
    "Viewers cut; reason: stalled (they took nothing), overload (most waited for them).",
    "protocol",
    "reason",
)
VIEWERS_MOVED = _counter(
    "viewers_moved", "Long-lived viewers told to go on at another edge, or ended.", "protocol"
)
REQUESTS_REDIRECTED = _counter(
    "requests_redirected", "Requests sent to another edge or a balancer.", "reason"
)
REQUESTS_REFUSED = _counter(
    "requests_refused", "Newcomers told to come back later, with nowhere to go; reason.", "reason"
)
OVERLOAD = _gauge(
    "overload",
    "1 while something is given up; reason: flush (in how many processes), refuse, history, cut.",
    "reason",
)
HISTORY_DROPPED = _counter("history_dropped_bytes", "Bytes of pages given up to save memory.")
DRAINING = _gauge("draining", "Whether the viewers of this node are being moved away.")
CHILD_RESTARTS = _counter("child_restarts", "Child processes started again.", "kind")

# Connections, of every role that serves HTTP.
CONNECTIONS_REFUSED = _counter(
    "connections_refused",
    "Connections not let in; reason: full, address (too many from there), files (no descriptors).",
    "reason",
)
CONNECTIONS_CUT = _counter(
    "connections_cut",
    "Connections ended; reason: what of a request, or of what a proxy says, came too slowly.",
    "reason",
)
TLS_HANDSHAKES_FAILED = _counter("tls_handshakes_failed", "TLS connections that never began.")
TLS_RELOADS = _counter("tls_reloads", "New certificate files; reason: loaded or failed.", "reason")
TLS_EXPIRY = _gauge(
    "tls_certificate_expiry_timestamp_seconds", "Unix time at which the certificate in use ends."
)

# Pages.
PAGES = _gauge("pages", "Track pages held.", "stream")
PAGE_BYTES = _gauge("page_bytes", "Bytes of track pages held.", "stream")

# Balancer.
REDIRECTS = _counter("redirects", "Viewers sent to an edge.", "node", "protocol")
REDIRECTS_REFUSED = _counter("redirects_refused", "Viewers not sent anywhere.", "reason")
REDIRECTS_ELSEWHERE = _counter("redirects_elsewhere", "Viewers sent to another datacenter.")
GOSSIP_AGE = _gauge("gossip_age_seconds", "Since the last word of a node.", "node")
NODE_LOAD = _gauge("node_load", "Fullest resource of a node, pending viewers included.", "node")
VIEWERS_PENDING = _gauge("viewers_pending", "Viewers sent to a node, not reported yet.", "node")
BALANCERS = _gauge("balancers", "Balancers that are there, this one included.")
STEERED = _counter("steering_answers", "Answers to players that ask.", "protocol", "reason")
EDGES_ELIGIBLE = _gauge("edges_eligible", "Edges that can take viewers.")

# Every process.
BUILD_INFO = Gauge("headwater_build_info", "1, by version.", ["version"], registry=REGISTRY)
BUILD_INFO.labels(version=__version__).set(1)
CONFIG_LAST_RELOAD_SUCCESSFUL = _gauge(
    "config_last_reload_successful", "1 if the last reload of the settings was taken up, else 0."
)
CONFIG_LAST_RELOAD_SUCCESSFUL.set(1)
LOOP_LAG = _gauge("loop_lag_seconds", "How late the event loop runs its timers.", "kind")


class ProcessCollector(Collector):
    """CPU, memory and descriptors of this process; those of children are added when merged."""

    def collect(self) -> Iterator[Metric]:
        """Read the figures now."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield CounterMetricFamily(
            "headwater_process_cpu_seconds",
            "CPU time of the node's processes.",
            value=usage.ru_utime + usage.ru_stime,
        )
        with open("/proc/self/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * resource.getpagesize()
        yield GaugeMetricFamily(
            "headwater_process_resident_memory_bytes",
            "Memory of the node's processes, shared pages counted in each.",
            value=resident,
        )
        yield GaugeMetricFamily(
            "headwater_process_open_fds",
            "File descriptors open in the node's processes.",
            value=len(os.listdir("/proc/self/fd")),
        )


REGISTRY.register(ProcessCollector())
STARTED = _gauge("process_start_time_seconds", "Unix time when the node started.")
STARTED.set(time.time())


def snapshot(registry: CollectorRegistry = REGISTRY) -> Snapshot:
    """Return the metrics of this process, to be sent to its supervisor."""
    return {
        family.name: [
            family.type,
            family.documentation,
            [[s.name, [list(pair) for pair in s.labels.items()], s.value] for s in family.samples],
        ]
        for family in registry.collect()
        if family.samples
    }


def text(registry: CollectorRegistry = REGISTRY) -> bytes:
    """Return the metrics of this process alone, in the text format of Prometheus."""
    return generate_latest(registry)


def forget_stream(stream: str) -> None:
    """Remove the series of a stream that is gone from this process."""
    for metric in list(globals().values()):
        if "stream" in getattr(metric, "_labelnames", ()):
            metric.remove_by_labels({"stream": stream})


def forget_node(node: str) -> None:
    """Remove the series of a node that is gone from this process."""
    for metric in list(globals().values()):
        if "node" in getattr(metric, "_labelnames", ()):
            metric.remove_by_labels({"node": node})
