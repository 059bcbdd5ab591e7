"""One node of each role runs on a machine without a setting."""

from collections import Counter

from balancer.config import BalancerSettings
from common.errors import ConfigError
from common.runtime import listen
from edge.config import EdgeSettings
from origin.config import OriginSettings
from relay.config import RelaySettings


def test_no_two_roles_listen_on_one_port_by_default() -> None:
    ports: Counter[int] = Counter()
    for settings in (OriginSettings(), EdgeSettings(), RelaySettings(), BalancerSettings()):
        for field in settings.__struct_fields__:
            value = getattr(settings, field)
            if isinstance(value, str) and ":" in value:
                try:
                    ports[listen.parse(value)[1]] += 1
                except ConfigError:
                    continue
    assert len(ports) >= 13
    assert set(ports.values()) == {1}, ports
