"""Tell whoever started this process that it is ready, and on which addresses.

A node writes ``RUN/NAME.ready.json`` once it serves; ``headwater demo`` and ``solo`` wait for it.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

from common.runtime import inherit, notify
from common.runtime.config import NodeSettings

MAX_REFUSED = 10
"""Reasons of refused settings that are kept. The oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a node announced."""

    endpoints: dict[str, str]
    """``HOST:PORT`` by purpose, as in the registry."""

    pid: int
    children: tuple[int, ...]
    """The pids of its child processes at that time."""

    generation: int = 0
    """How often it has restarted itself."""

    refused: tuple[str, ...] = ()
    """Why restarts since then were refused."""


def announce(
    node: NodeSettings, endpoints: Mapping[str, str], children: Sequence[int] = ()
) -> Path:
    """Write the file that says this node is ready, and tell systemd; return its path."""
    generation = inherit.estate().handover.generation
    path = _write(node, Ready(dict(endpoints), os.getpid(), tuple(children), generation))
    restarts = f", restarted in place {generation} times" if generation else ""
    notify.ready(f"{node.name} serves{restarts}")
    return path


def refuse(node: NodeSettings, reason: str) -> None:
    """Add to the file why a restart was refused; nothing happens if the node was not ready."""
    notify.refused(reason)
    known = read(node.run, node.name)
    if known is not None:
        _write(node, replace(known, refused=(*known.refused, reason)[-MAX_REFUSED:]))


def withdraw(node: NodeSettings) -> None:
    """Remove the file; call it when the node stops."""
    with contextlib.suppress(OSError):
        path_of(node.run, node.name).unlink()


def read(run: Path | str, name: str) -> Ready | None:
    """Return what the node announced, None while it is not ready."""
    try:
        tree = json.loads(path_of(run, name).read_text())
    except (OSError, ValueError):
        return None
    told = tree.get("generation", 0), tuple(tree.get("refused", ()))
    return Ready(tree["endpoints"], tree["pid"], tuple(tree["children"]), *told)


def _write(node: NodeSettings, said: Ready) -> Path:
    path = path_of(node.run, node.name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(said)))
    new.replace(path)
    return path


def path_of(run: Path | str, name: str) -> Path:
    """Return where the node called ``name`` announces itself."""
    return Path(run) / f"{quote(name, safe='')}.ready.json"
