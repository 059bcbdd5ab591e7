"""Tell whoever started this process that it is ready, and on which addresses.

A node writes ``RUN/NAME.ready.json`` once it serves; ``headwater demo`` and ``solo`` wait for it.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from common.runtime.config import NodeSettings


@dataclass(frozen=True, slots=True)
class Ready:
    """What a node announced."""

    endpoints: dict[str, str]
    """``HOST:PORT`` by purpose, as in the registry."""

    pid: int
    children: tuple[int, ...]
    """The pids of its child processes at that time."""


def announce(
    node: NodeSettings, endpoints: Mapping[str, str], children: Sequence[int] = ()
) -> Path:
    """Write the file that says this node is ready; return its path."""
    path = path_of(node.run, node.name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_suffix(".new")
    tree = {"endpoints": dict(endpoints), "pid": os.getpid(), "children": list(children)}
    new.write_text(json.dumps(tree))
    new.replace(path)
    return path


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
    return Ready(tree["endpoints"], tree["pid"], tuple(tree["children"]))


def path_of(run: Path | str, name: str) -> Path:
    """Return where the node called ``name`` announces itself."""
    return Path(run) / f"{quote(name, safe='')}.ready.json"
