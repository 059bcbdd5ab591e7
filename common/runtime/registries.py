"""Which registry a node uses."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from common.runtime.config import NodeSettings
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import NodeEntry, Registry


@contextlib.asynccontextmanager
async def open_registry(node: NodeSettings) -> AsyncIterator[Registry]:
    """Use the registry that the settings of a node name, for the time of a block.

    Raises:
        ConfigError: If the settings of Consul are no good.
    """
    if not node.consul.address:
        yield EmbeddedRegistry(node.registry)
        return
    from common.runtime.consul_registry import open_consul  # a slow import, and not for everybody

    async with open_consul(node.consul, Path(node.run) / "consul") as registry:
        yield registry


def node_entry(
    node: NodeSettings,
    role: str,
    endpoints: Mapping[str, str],
    capacity: Mapping[str, float] | None = None,
) -> NodeEntry:
    """Return what a node tells the registry of itself.

    Raises:
        ConfigError: If its key file cannot be used.
    """
    from common.runtime.keys import Keys  # the command line asks registries without ZeroMQ

    place = None
    if node.latitude is not None and node.longitude is not None:
        place = (node.latitude, node.longitude)
    return NodeEntry(
        node.name,
        role,
        dict(endpoints),
        dict(capacity or {}),
        datacenter=node.datacenter,
        tags=tuple(node.tags),
        location=place,
        key=Keys.load(Path(node.keys)).public,
    )
