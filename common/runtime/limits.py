"""Every limit on what a peer can send, take or fill, collected from where each stands.

A limit is a constant or a setting beside what it protects. The docstring below it says in its
first sentence what it bounds, and after that what happens at it. This module finds them all by
name and writes the manual of them (``make docs``); a test fails where one does not say both.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import msgspec

from common.runtime import manual
from common.runtime.config import NodeSettings, Settings, StreamSettings
from common.runtime.units import Duration, Size

ROOT = Path(__file__).parents[2]

PACKAGES = ("common", "origin", "edge", "relay", "balancer")

NAMES = re.compile(r"_?MAX_[A-Z0-9_]+")
"""Constants that are limits by their name."""

OTHERS = {
    "balancer/steering.py:MOST",
    "common/bus/controls.py:SEND_HWM",
    "common/bus/gossip.py:SEND_LIMIT",
    "common/bus/link.py:RECEIVE_HWM",
    "common/runtime/accesslog.py:MOST",
    "common/runtime/logs.py:BURST",
    "common/track/board.py:SLOTS",
    "common/bus/broadcast.py:QUEUE_BYTES",
    "common/runtime/door.py:HANDSHAKE",
    "common/runtime/door.py:RESERVED_FILES",
    "common/runtime/door.py:SPARE_FILES",
    "common/runtime/http.py:BODY_DEADLINE",
    "common/runtime/pump.py:DEAD_AFTER",
    "common/runtime/serving.py:HEADER_DEADLINE",
    "common/runtime/serving.py:KEEPALIVE",
    "common/runtime/serving.py:NOTSENT_LOWAT",
    "common/runtime/serving.py:STALL",
    "origin/child.py:MEMORY_LIMIT",
    "origin/child.py:SILENCE_LIMIT",
    "origin/follower.py:HOLD_BYTES",
}
"""Those that have another name."""

SETTINGS = {
    "node.pages_max",
    "streams.NAME.bytes_max",
    "streams.NAME.reconnect",
    "streams.NAME.segment_max",
    "origin.publishers",
    "origin.repair_rate",
    "origin.inputs.rtmp.connections",
    "origin.inputs.rtmp.connections_per_address",
    "origin.inputs.rtmp.handshake",
    "origin.inputs.rtmp.publish",
    "origin.inputs.rtmp.silence",
    "edge.bandwidth",
    "edge.cache",
    "edge.connections_per_address",
    "edge.drain",
    "edge.idle",
    "edge.memory_max",
    "edge.repair",
    "edge.retire",
    "edge.sessions",
    "edge.slow",
    "edge.stall",
    "edge.wait",
    "relay.repair",
    "relay.repair_rate",
}
"""Settings that are limits."""

CHAPTERS = (
    ("Settings", ("setting",)),
    (
        "Viewers",
        (
            "edge/*",
            "common/runtime/door.py",
            "common/runtime/http.py",
            "common/runtime/serving.py",
            "common/formats/forwarded.py",
            "common/formats/proxy_protocol.py",
            "common/wire/steering.py",
        ),
    ),
    ("Publishers and files", ("origin/*", "common/formats/*", "common/media/*", "common/names.py")),
    ("Pages", ("common/track/*",)),
    (
        "The bus",
        (
            "common/bus/*",
            "common/wire/*",
            "common/runtime/connections.py",
            "common/runtime/curve.py",
            "common/runtime/pump.py",
        ),
    ),
    ("Balancer and registry", ("balancer/*", "common/runtime/consul*", "*/definitions.py")),
    ("Processes, files and tools", ("*",)),
)
"""Where a limit stands in the manual: in the first chapter that one of whose patterns fits."""

INTRODUCTION = """
What a peer can send, take or fill has a limit. This is all of them: where each stands, what it
bounds, and what happens at it. A setting is changed [as any other](how-to/configure.md), a constant
in the code. What an edge does step by step as it gets full: [overload](explanation/overload.md).
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit."""

    place: str
    """``FILE:CONSTANT``, or the name of a setting."""

    default: str
    bounds: str
    """What it bounds, with its unit."""

    then: str
    """What happens at it; empty if nothing says so."""

    @property
    def file(self) -> str:
        """Where a constant stands; empty for a setting."""
        return self.place.partition(":")[0] if ":" in self.place else ""


def limits(root: Path = ROOT) -> list[Limit]:
    """Return every limit, settings first."""
    return [*_settings(), *_constants(root)]


def document() -> str:
    """Return the manual of all limits."""
    parts = ["# Limits", manual.NOTE, INTRODUCTION.strip()]
    found = limits()
    for title, patterns in CHAPTERS:
        inside = [one for one in found if _fits(one, patterns)]
        found = [one for one in found if one not in inside]
        rows = ["| Limit | Default | What it bounds | At the limit |", "|---|---|---|---|"]
        rows += [f"| `{o.place}` | {o.default} | {o.bounds} | {o.then} |" for o in inside]
        parts += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _fits(limit: Limit, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(limit.file or "setting", pattern) for pattern in patterns)


def _limit(place: str, value: object, text: str) -> Limit:
    words = " ".join(text.replace("``", "`").split())
    bounds, _, then = words.partition(". ")
    return Limit(place, _shown(value, bounds), bounds.removesuffix("."), then.removesuffix("."))


def _shown(value: object, bounds: str) -> str:
    if isinstance(value, Duration | Size):
        return str(value)
    if not isinstance(value, int | float):
        return str(value)
    if bounds.startswith("Bytes") and isinstance(value, int) and value % 1024 == 0:
        return str(Size(value))
    number = f"{value:,}".replace(",", " ").removesuffix(".0")
    return f"{number} s" if bounds.startswith("Seconds") else number


def _constants(root: Path) -> Iterator[Limit]:
    for path in sorted(file for package in PACKAGES for file in (root / package).rglob("*.py")):
        place = str(path.relative_to(root))
        for name, text in _written(ast.parse(path.read_text())):
            if NAMES.fullmatch(name) or f"{place}:{name}" in OTHERS:
                module = importlib.import_module(place.removesuffix(".py").replace("/", "."))
                yield _limit(f"{place}:{name}", getattr(module, name), text)


def _written(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Return the constants that a module defines, and what is written below each."""
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        yield name, text
                    case _:
                        yield name, ""


def _settings() -> Iterator[Limit]:
    for place, schema in sections():
        words = manual.docstrings(schema)
        for field in msgspec.structs.fields(schema):
            if (name := f"{place}.{field.name}") in SETTINGS:
                yield _limit(name, field.default, words.get(field.name, ""))


def sections() -> Iterator[tuple[str, type[Settings]]]:
    """Return the sections of the settings in which limits are."""
    yield "node", NodeSettings
    yield "streams.NAME", StreamSettings
    for role in ("origin", "edge", "relay", "balancer"):
        yield role, importlib.import_module(f"{role}.config").Config.__annotations__[role]
    rtmp = importlib.import_module("origin.inputs.rtmp").RtmpSettings
    yield "origin.inputs.rtmp", rtmp
