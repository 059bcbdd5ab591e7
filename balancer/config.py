"""Settings of a balancer."""

import msgspec

from common.runtime.config import LogSettings, NodeSettings, Settings


class BalancerSettings(Settings, frozen=True):
    """``[balancer]``: where viewers are redirected from."""

    http: str = "[::]:8042"
    """``HOST:PORT`` of redirects, API, health and metrics."""

    bandwidth: float = 1e9
    """Bits a second that an edge can send if it does not say so itself."""

    sessions: int = 5000
    """Viewers that an edge can have if it does not say so itself."""


class Config(msgspec.Struct, frozen=True):
    """What the configuration file says to a balancer."""

    node: NodeSettings = msgspec.field(default_factory=lambda: NodeSettings(name="balancer"))
    log: LogSettings = msgspec.field(default_factory=LogSettings)
    balancer: BalancerSettings = msgspec.field(default_factory=BalancerSettings)
