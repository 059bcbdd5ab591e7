"""``headwater solo``: origin, edge and balancer of one configuration file on one machine.

Each node is a process of its own, and is started again when it dies.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from common.runtime import notify
from common.runtime.cluster import Cluster, Node, NodeDied
from common.runtime.config import NodeSettings
from common.runtime.logs import Log
from common.runtime.tasks import Backoff, run_until_signalled

log = Log("solo")

ROLES = ("origin", "edge", "balancer")

LOOK = 0.1
"""Seconds between two looks whether a node serves."""

_FATAL = (2, 3)
"""Exit codes that another attempt would not change: configuration, cannot listen."""


def main(path: Path | None, pairs: Sequence[str], node: NodeSettings) -> int:
    """Run the three roles until told to stop; return the exit code."""
    nodes = [Node(_name(node, role), role, _arguments(path, pairs, node, role)) for role in ROLES]
    try:
        asyncio.run(run_until_signalled(supervise(Cluster(nodes, Path(node.run)))))
    except ExceptionGroup as group:
        deaths = [error for error in group.exceptions if isinstance(error, NodeDied)]
        if not deaths:
            raise
        sys.stderr.write(f"headwater: {str(deaths[0]).partition(';')[0]}\n")
        return deaths[0].code
    return 0


async def supervise(cluster: Cluster) -> None:
    """Keep all nodes running until cancelled.

    Raises:
        ExceptionGroup: With a :exc:`NodeDied` if a node cannot be started with these settings.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(notify.watchdog(), name="watchdog")
            for node in cluster.nodes:
                tasks.create_task(_keep(node), name=f"keep {node.name}")
            tasks.create_task(_announce(cluster), name="announce")
    finally:
        await cluster.stop()


async def _announce(cluster: Cluster) -> None:
    """Tell systemd when all nodes serve."""
    for node in cluster.nodes:
        while not cluster.serves(node.name):  # noqa: ASYNC110 - a file that another process writes
            await asyncio.sleep(LOOK)
    notify.ready()


async def _keep(node: Node) -> None:
    backoff = Backoff(first=0.2)
    while True:
        await node.start(_echo)
        death = await node.died()
        if death.code in _FATAL:
            raise death
        log.error("node died", extra={"node": node.name, "code": death.code})
        await backoff.wait()


def _echo(_: str, line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _name(node: NodeSettings, role: str) -> str:
    return role if node.name == NodeSettings().name else f"{node.name}-{role}"


def _arguments(path: Path | None, pairs: Sequence[str], node: NodeSettings, role: str) -> list[str]:
    """Return the options of one role: the user's, and a name and a page folder of its own."""
    own = [f"node.name={_name(node, role)}"]
    if node.pages != NodeSettings(name=node.name).pages:
        own.append(f"node.pages={Path(node.pages) / role}")
    options = ["--config", str(path)] if path is not None else []
    for pair in [*pairs, *own]:
        options += ["--set", pair]
    return options
