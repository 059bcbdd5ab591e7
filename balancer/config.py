"""Settings of a balancer."""

from dataclasses import fields, replace

import msgspec

from balancer.policy import Weights
from common.errors import ConfigError
from common.runtime.config import Duration, LogSettings, NodeSettings, Settings
from common.runtime.loader import suggestion
from common.runtime.proxies import ProxySettings


class BalancerSettings(Settings, frozen=True):
    """``[balancer]``: where viewers are redirected from."""

    http: str = "[::]:8042"
    """``HOST:PORT`` of redirects, API, health and metrics."""

    gossip: str = "127.0.0.1:5572"
    """Where the other balancers hear that this one is there."""

    public: str = ""
    """``HOST:PORT``, or a URL such as ``https://live.example.org``, at which viewers and others
    reach this balancer, if it is not the address it listens on."""

    bandwidth: float = 1e9
    """Bits a second that a node can send if it does not say so itself."""

    steering: Duration = Duration(10)
    """How often players with Content Steering ask which edge to use. They hear of a drain that
    much later at most."""

    sessions: int = 5000
    """Viewers that an edge can have if it does not say so itself."""

    weights: dict[str, float] = msgspec.field(default_factory=dict)
    """What counts how much in the choice: ``cpu``, ``memory``, ``bandwidth`` and ``sessions`` scale
    a resource (1); ``geography`` (0.3), ``carrier`` (0.05) and ``errors`` (0.5) are shares of
    load. ``docs/reference/balancer.md`` says how they work."""

    round_trips: dict[str, float] = msgspec.field(default_factory=dict)
    """Seconds of round trip between two datacenters, ``"ams fra" = 0.008``, for viewers of whom
    nobody knows where they are. What is not set Consul measures; without it, all other datacenters
    are equally far."""

    elsewhere: list[str] = msgspec.field(default_factory=list)
    """Base URLs of balancers of other datacenters, for viewers whom no edge of ours can take."""

    proxies: ProxySettings = ProxySettings()
    """Web servers and load balancers before the balancer."""

    token: str = ""
    """What changing the weights, and a restart, ask of clients that are not on this machine;
    without one they are refused."""


class Config(msgspec.Struct, frozen=True):
    """What the configuration file says to a balancer."""

    node: NodeSettings = msgspec.field(default_factory=lambda: NodeSettings(name="balancer"))
    log: LogSettings = msgspec.field(default_factory=LogSettings)
    balancer: BalancerSettings = msgspec.field(default_factory=BalancerSettings)


def weights(given: dict[str, float], before: Weights | None = None) -> Weights:
    """Return ``before``, or the weights that stand for nothing else, with some of them changed.

    Raises:
        ConfigError: If one is unknown, or out of range.
    """
    names = [field.name for field in fields(Weights)]
    for name, value in given.items():
        if name not in names:
            hint = suggestion(name, names)
            raise ConfigError(f"balancer.weights.{name}", f"no such weight{hint}")
        if not 0 <= value <= 100:  # also refuses what is not a number
            raise ConfigError(f"balancer.weights.{name}", "must be 0 to 100")
    return replace(before or Weights(), **given)


def round_trips(given: dict[str, float]) -> dict[frozenset[str], float]:
    """Return the round trips between datacenters, whichever way they are asked for.

    Raises:
        ConfigError: If a key does not name two datacenters, or a value is no time.
    """
    found = {}
    for names, seconds in given.items():
        pair = frozenset(names.split())
        if len(pair) != 2 or not 0 <= seconds < 60:
            where = f'balancer.round_trips."{names}"'
            raise ConfigError(where, 'must be such as "ams fra" = 0.008, in seconds')
        found[pair] = seconds
    return found
