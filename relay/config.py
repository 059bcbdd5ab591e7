"""Settings of a relay: ``[relay]`` of the configuration file."""

import msgspec

from common.runtime.config import (
    Duration,
    LogSettings,
    NodeSettings,
    Settings,
    Size,
    StreamSettings,
)

__all__ = ["Config", "RelaySettings"]


class RelaySettings(Settings, frozen=True):
    """``[relay]``: where edges reach this relay, and where it takes streams from."""

    bus: str = "127.0.0.1:5551"
    """Where edges, and relays further down, subscribe. It is not encrypted: open it to a network
    you trust, no other."""

    control: str = "127.0.0.1:5569"
    """Where they join and ask for repair. As ``bus``."""

    admin: str = "127.0.0.1:8082"
    """API, metrics and health."""

    token: str = ""
    """What the admin port asks of clients on other machines that restart the relay or reload its
    settings; without one they are refused. Health and metrics need none."""

    public: str = ""
    """Host that edges use to reach this relay, whatever it listens on; see ``node.address``."""

    upstream: list[str] = msgspec.field(default_factory=list)
    """Names of the relays that this one takes streams from, while one of them is there; without
    them it goes to the origin that owns a stream. At most two relays should stand between an
    origin and an edge."""

    paths: int = 1
    """Upstreams that a stream is taken from at the same time."""

    linger: Duration = Duration(15)
    """How long a stream is kept after nobody subscribes to it any more."""

    repair: Duration = Duration(3)
    """How long a missing frame is waited for, before edges are told that it is lost. They should
    wait for longer than that."""

    repair_rate: Size = Size(31_000_000)
    """Bytes a second for joins, repair and backfill: of all edges together, one of them at most
    half, and as much again from the relay's own upstream. What is more waits."""

    keep_pages: bool = True
    """Keep the track pages when the relay stops, so that it starts again with the window."""


class Config(Settings, frozen=True):
    """What a relay reads of the configuration file."""

    node: NodeSettings = NodeSettings(name="relay")
    log: LogSettings = LogSettings()
    relay: RelaySettings = RelaySettings()
    streams: dict[str, StreamSettings] = msgspec.field(default_factory=dict)
