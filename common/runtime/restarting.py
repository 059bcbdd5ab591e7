"""``headwater restart``: tell nodes of this machine to restart, and say how it went."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from common.errors import HeadwaterError, NodeUnavailable
from common.runtime import ready
from common.runtime.config import NodeSettings
from common.runtime.embedded import start_time

TIMEOUT = 120.0
"""Seconds that one node may take; a machine that is busy starts processes slowly."""

LOOK = 0.05


class RestartFailed(HeadwaterError):
    """The node goes on as it was, or has died; the text says which and why."""


def restart(
    node: NodeSettings,
    names: Sequence[str],
    tell: Callable[[str], object],
    timeout: float = TIMEOUT,
) -> None:
    """Restart nodes whose run folder is that of ``node``, one after the other; ``tell`` of each.

    Raises:
        NodeUnavailable: If none of that name runs here.
        RestartFailed: If one does not come back with a new image; those after it are left alone.
    """
    for name in names:
        before = running(node, name)
        os.kill(before.pid, signal.SIGHUP)
        tell(f"{name} restarted in {wait(node, name, before, timeout):.1f} s")


def named(node: NodeSettings, pid: int) -> str:
    """Return the name of the node that runs as process ``pid``, as a unit of systemd knows it.

    Raises:
        NodeUnavailable: If that process is no node that is ready.
    """
    for path in Path(node.run).glob("*.ready.json"):
        name = unquote(path.name.removesuffix(".ready.json"))
        found = ready.read(node.run, name)
        if found is not None and found.pid == pid:
            return name
    raise NodeUnavailable(f"process {pid} is no node that is ready, with node.run = {node.run!r}")


def wait(node: NodeSettings, name: str, before: ready.Ready, timeout: float = TIMEOUT) -> float:
    """Wait until a node that was told to restart is back; return the seconds it took.

    Raises:
        RestartFailed: If it does not come back with a new image.
    """
    began = time.monotonic()
    while not _over(node, name, before):
        if time.monotonic() - began > timeout:
            raise RestartFailed(f"{name} is not ready again after {timeout:.0f} s; see its log")
        time.sleep(LOOK)
    return time.monotonic() - began


def running(node: NodeSettings, name: str) -> ready.Ready:
    """Return what a node of this machine announced.

    Raises:
        NodeUnavailable: If none of that name runs here.
    """
    found = ready.read(node.run, name)
    if found is None or not start_time(found.pid):
        raise NodeUnavailable(
            f"no node called {name!r} runs on this machine with node.run = {node.run!r}"
        )
    return found


def _over(node: NodeSettings, name: str, before: ready.Ready) -> bool:
    """Return whether the node has restarted.

    Raises:
        RestartFailed: If it will not.
    """
    if not start_time(before.pid):
        raise RestartFailed(f"{name} has stopped instead; see its log")
    now = ready.read(node.run, name)
    if now is None or now == before:
        return False
    if now.generation == before.generation and now.refused:
        raise RestartFailed(f"{name} goes on as it was: {now.refused[-1]}")
    return now.generation > before.generation
