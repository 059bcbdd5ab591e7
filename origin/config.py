"""Settings of an origin: ``[origin]`` of the configuration file."""

from typing import Any, Literal

import msgspec

from common.runtime.config import LogSettings, NodeSettings, Settings, Size, StreamSettings

__all__ = ["Config", "OriginSettings", "StreamSettings"]


class OriginSettings(Settings, frozen=True):
    """``[origin]``: what this origin listens on, and its limits."""

    rtmp: str = "[::]:1935"
    """Where encoders publish over RTMP."""

    http: str = "[::]:4242"
    """API, metrics and health."""

    bus: str = "127.0.0.1:5550"
    """Where edges subscribe. Encrypted unless it, and ``control``, are on loopback: see
    ``node.bus_security``."""

    control: str = "127.0.0.1:5560"
    """Where edges join and ask for repair. As ``bus``."""

    gossip: str = "127.0.0.1:5571"
    """Where balancers hear about this origin's load, to choose one for a publisher."""

    public: str = ""
    """Host that edges use to reach this origin, whatever it listens on; see ``node.address``."""

    token: str = ""
    """What the API asks of clients that are not on this machine; without one they are refused."""

    repair_rate: Size = Size(31_000_000)
    """Bytes a second for joins, repair and backfill of all edges together, one of them at most
    half: a quarter of 1 Gbit/s. What is more waits; the rate should not be more than a quarter of
    the link."""

    standby: Literal["follow", "refuse"] = "follow"
    """What a publisher gets whose stream another origin owns. ``follow``: if the owner has no
    publisher, it gets what comes here, passed on as it is; if it has one, this node holds the
    stream ready, and goes on with it when the owner dies. ``refuse``: an error."""

    mirror: bool = False
    """Keep the pages of all streams that other origins own and that are configured here. An
    encoder that loses its origin can then go on here in the same numbering."""

    publishers: int = 1000
    """Publishers at a time. One more is refused."""

    bandwidth: float = 1e9
    """Bits a second that this origin can take in; the balancer counts with it."""

    inputs: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    """Settings of single inputs, by name."""


class Config(Settings, frozen=True):
    """Everything an origin reads."""

    node: NodeSettings = msgspec.field(default_factory=NodeSettings)
    log: LogSettings = msgspec.field(default_factory=LogSettings)
    origin: OriginSettings = msgspec.field(default_factory=OriginSettings)
    streams: dict[str, StreamSettings] = msgspec.field(default_factory=dict)
