"""Settings of an edge: ``[edge]`` of the configuration file."""

import os
from typing import Any

import msgspec

from common.errors import ConfigError
from common.runtime import door
from common.runtime.config import (
    Duration,
    LogSettings,
    NodeSettings,
    Settings,
    Size,
    StreamSettings,
)
from common.runtime.proxies import Proxies, ProxySettings
from common.runtime.tls import TlsSettings

MAX_VIEWER_PROCESSES = 64
"""Viewer processes of an edge. A setting that says more is refused."""


class EdgeSettings(Settings, frozen=True):
    """``[edge]``: what this edge listens on and how it treats viewers."""

    http: str = "[::]:8080"
    """Where viewers come in."""

    admin: str = "127.0.0.1:8081"
    """API, metrics and health."""

    gossip: str = "127.0.0.1:5570"
    """Where balancers hear about this edge's load."""

    control: str = "127.0.0.1:5561"
    """Where other edges ask this one for frames that the origin has no more."""

    token: str = ""
    """What the admin port asks of clients on other machines that drain or restart the edge, reload
    its settings or list its viewers; without one they are refused. Health and metrics need none."""

    public: str = ""
    """``HOST:PORT``, or a URL such as ``https://edge1.example.org``, that viewers use to reach this
    edge, if it is not the address it listens on. With ``https://``, balancers, playlists and
    players send viewers to HTTPS and to secure WebSockets."""

    balancer: str = ""
    """URL at which viewers reach a balancer, such as ``https://live.example.org``, for steering and
    for redirects; if not set, that of a live balancer of the registry."""

    drain: Duration = Duration(1)
    """How long the edge, told to stop, goes on for viewers that are being moved to other edges. Who
    is left then is ended at a keyframe."""

    viewers: int = 0
    """Viewer processes; 0: one per core, up to four."""

    uvloop: bool = True
    """Run viewer processes on uvloop, if it is installed: less CPU time for each viewer."""

    wait: Duration = Duration(10)
    """How long a viewer waits for a stream that is not live yet. Then the answer is 404."""

    linger: Duration = Duration(15)
    """How long a stream is kept after its last viewer has left."""

    idle: Duration = Duration(15)
    """How long after the last request an HLS viewer counts as one. Then its session ends."""

    stall: Duration = Duration(10)
    """How long a viewer's connection may take nothing of what is sent to it. Then it is cut."""

    slow: Duration = Duration(1)
    """Media that may wait for a slow viewer. With more it goes on at the next keyframe."""

    retire: Duration = Duration(30)
    """How long viewers that watch over one connection may stay with the old processes after a
    restart. Players that can are moved to the new ones at once; what is left ends at a keyframe."""

    repair: Duration = Duration(4)
    """How long a missing frame is waited for. Then it counts as lost."""

    paths: int = 1
    """Upstreams that a stream is taken from at the same time: relays of the edge's datacenter, then
    the origin. With 2, the failure of one is not seen."""

    keep_pages: bool = True
    """Keep the track pages when the edge stops, so that it starts again with the window."""

    cache: Size = Size(128 * 2**20)
    """Bytes of finished parts and segments that a viewer process keeps in memory. Beyond them those
    used longest ago go, and are made again if somebody asks."""

    memory_max: Size = Size(0)
    """Bytes that this edge may take: the memory of its processes, and its pages. As they fill up,
    newcomers are refused (85 %), streams lose their oldest pages (92 %), and the viewers for whom
    most waits are cut (97 %). 0: what the machine has, or the control group of the edge, which
    count in any case."""

    bandwidth: float = 1e9
    """Bits a second that this edge can send; the balancer counts with it. From 95 % on, new viewers
    are sent to other edges."""

    sessions: int = 10_000
    """Viewers that this edge can have; the balancer counts with it. From 95 % on, new ones are sent
    to other edges; a viewer process that has as many by itself answers 503."""

    connections_per_address: int = 256
    """Connections that one address (of IPv6, one /64) may have to a viewer process at a time;
    0: any number. Further ones are shut at once."""

    uncounted: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.0/8", "::1"])
    """Addresses and networks that may have any number of connections: proxies and CDNs."""

    hls_js: str = ""
    """File or folder of hls.js for the player page; found in ``node_modules`` if not set."""

    tls: TlsSettings = TlsSettings()
    """HTTPS for viewers."""

    proxies: ProxySettings = ProxySettings()
    """Web servers and load balancers before the edge."""

    outputs: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """Settings of single outputs, by name."""

    def crowd(self) -> door.Crowd:
        """Return what counts the connections of a viewer process.

        Raises:
            ConfigError: If a network is none.
        """
        free = door.networks(self.uncounted, "edge.uncounted")
        free = (*free, *self.believed().networks)
        return door.Crowd(door.most_connections(), max(0, self.connections_per_address), free)

    def believed(self) -> Proxies:
        """Return the proxies that are believed about viewers.

        Raises:
            ConfigError: If a network is none, or a field none that can be believed.
        """
        return Proxies(self.proxies, "edge.proxies")

    def viewer_processes(self) -> int:
        """Return how many viewer processes to run.

        Raises:
            ConfigError: If the setting is out of range.
        """
        if not 0 <= self.viewers <= MAX_VIEWER_PROCESSES:
            raise ConfigError("edge.viewers", f"must be 0 to {MAX_VIEWER_PROCESSES}")
        return self.viewers or min(os.cpu_count() or 1, 4)


def servers(config: "Config") -> dict[str, str]:
    """Return where an edge listens for other nodes, by setting."""
    return {"edge.gossip": config.edge.gossip, "edge.control": config.edge.control}


class Config(Settings, frozen=True):
    """What an edge reads of the configuration file."""

    node: NodeSettings = NodeSettings(name="edge")
    log: LogSettings = LogSettings()
    edge: EdgeSettings = EdgeSettings()
    streams: dict[str, StreamSettings] = msgspec.field(default_factory=dict)
