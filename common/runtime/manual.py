"""Write the manual of settings, metrics and limits from the code (``make docs``)."""

import ast
import importlib
import inspect
import json
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import Counter, Gauge, Histogram

from common.runtime import metrics
from common.runtime.config import (
    Duration,
    LogSettings,
    NodeSettings,
    Settings,
    Size,
    StreamSettings,
)
from common.runtime.loader import ROLES

NOTE = "<!-- Made by `make docs`; edit the docstrings in the code instead. -->"

_WORDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Duration: "duration",
    Size: "size",
}

_CONFIGURATION = """
One TOML file serves all roles of a machine. Each setting can also come from the environment, as
`HEADWATER_SECTION__KEY`, and from the command line, as `--set section.key=value`; the command line
wins. `headwater config explain KEY` says the same as this page, and where the value comes from;
`headwater config schema` prints a JSON Schema ([here](configuration.schema.json)) for editors. How
changes are taken up while a node runs: [how-to/configure.md](how-to/configure.md).
A duration is a number of seconds or has a unit (`"500ms"`, `"2s"`, `"5m"`), a size is a
number of bytes or has one (`"64KiB"`, `"2GB"`). An address is `HOST:PORT`; `[::]` is IPv6 and
IPv4 alike, port 0 any free one.
"""

_METRICS = """
Served under `/metrics` on every node in the text format of Prometheus. Histograms have `_bucket`,
`_sum` and `_count`.
"""


def configuration() -> str:
    """Return the manual of all settings."""
    parts = ["# Configuration", NOTE, _CONFIGURATION.strip()]
    parts += _section("node", NodeSettings) + _section("log", LogSettings)
    for role in ROLES:
        hints = typing.get_type_hints(importlib.import_module(f"{role}.config").Config)
        parts += _section(role, hints[role])
    parts += _section("streams.NAME", StreamSettings)
    return "\n\n".join(parts) + "\n"


def measurements() -> str:
    """Return the manual of all metrics."""
    rows = ["| Metric | Type | Labels | What |", "|---|---|---|---|"]
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            name = metric._name + ("_total" if isinstance(metric, Counter) else "")
            labels = ", ".join(metric._labelnames)
            kind = type(metric).__name__.lower()
            rows.append(f"| `{name}` | {kind} | {labels} | {metric._documentation} |")
    for family in metrics.ProcessCollector().collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append(f"| `{name}` | {family.type} | | {family.documentation} |")
    return "\n\n".join(["# Metrics", NOTE, _METRICS.strip(), "\n".join(rows)]) + "\n"


def schema() -> str:
    """Return the JSON Schema of a configuration file."""
    from common.runtime.options import json_schema  # which needs this module

    return json.dumps(json_schema(), indent=2) + "\n"


def main(folder: Path) -> None:
    """Write all files into ``folder``."""
    from common.runtime import limits  # which needs this module

    (folder / "configuration.md").write_text(configuration())
    (folder / "metrics.md").write_text(measurements())
    (folder / "limits.md").write_text(limits.document())
    (folder / "configuration.schema.json").write_text(schema())


def docstrings(schema: type[Any]) -> dict[str, str]:
    """Return what the docstring below each field of a class says."""
    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0])
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=said)):
                found[name] = inspect.cleandoc(str(said))
    return found


def _section(name: str, schema: type[Settings]) -> list[str]:
    what = inspect.cleandoc(schema.__doc__ or "").partition(": ")[2].replace("``", "`")
    parts = [f"## `[{name}]`", what[:1].upper() + what[1:]]
    hints = typing.get_type_hints(schema)
    words = docstrings(schema)
    inner = []
    for field in msgspec.structs.fields(schema):
        if isinstance(hints[field.name], type) and issubclass(hints[field.name], Settings):
            inner += _section(f"{name}.{field.name}", hints[field.name])
            continue
        default = "" if _default(field) is None else f", default `{_default(field)}`"
        parts.append(f"### `{field.name}`\n\n{type_words(hints[field.name])}{default}")
        parts.append(words.get(field.name, "").replace("``", "`"))
    return [part for part in [*parts, *inner] if part]


def type_words(hint: Any) -> str:
    """Return the type of a setting in words."""
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f"`{json.dumps(choice)}`" for choice in typing.get_args(hint))
    if typing.get_origin(hint) is dict:
        return "tables"
    if typing.get_origin(hint) in (list, tuple):
        return f"list of {type_words(typing.get_args(hint)[0])}"
    return _WORDS.get(hint, str(hint))


def _default(field: msgspec.structs.FieldInfo) -> str | None:
    value = field.default
    if value is msgspec.NODEFAULT or value == "" or value is None:
        return None
    if isinstance(value, Duration | Size):
        return json.dumps(str(value))
    return json.dumps(msgspec.to_builtins(value))


def undocumented(schema: type[Any]) -> Iterator[str]:
    """Return the fields of a schema that have no docstring."""
    words = docstrings(schema)
    for field in msgspec.structs.fields(schema):
        if not words.get(field.name):
            yield field.name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
