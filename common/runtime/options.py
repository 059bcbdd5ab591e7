"""Every option there is: its type, default, manual, where its value comes from; the JSON Schema.

All of it is read from the ``Settings`` structs and their attribute docstrings.
"""

import importlib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from common.errors import ConfigError
from common.runtime import loader, manual
from common.runtime.config import Duration, LogSettings, NodeSettings, Size, StreamSettings
from common.runtime.loader import PREFIX, ROLES, SECTIONS, suggestion

NAME = "NAME"
"""Stands for the name of a stream in the key of an option."""

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"

SECRET = ("key", "token", "password", "secret")
"""Options of these names are never shown by the API."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option."""

    key: str
    """Dotted, such as ``edge.http`` or ``streams.NAME.window``."""
    type: Any
    words: str
    """The type for people."""
    default: Any
    """As plain value; None if there is none."""
    doc: str

    @property
    def secret(self) -> bool:
        """Whether its value must not be shown."""
        return self.key.rpartition(".")[2] in SECRET


def schemas() -> dict[str, type[Any]]:
    """Return the struct of each section."""
    found: dict[str, type[Any]] = {"node": NodeSettings, "log": LogSettings}
    for role in ROLES:
        config = importlib.import_module(f"{role}.config").Config
        found[role] = typing.get_type_hints(config)[role]
    return {**found, f"streams.{NAME}": StreamSettings}


def options(role: str | None = None) -> list[Option]:
    """Return all options, or those that one role reads."""
    return [
        option
        for section, schema in schemas().items()
        if role is None or section == role or section not in ROLES
        if role != "balancer" or not section.startswith("streams")
        for option in _walk(section, schema)
    ]


def find(key: str) -> Option:
    """Return the option that a key such as ``streams.live.window`` means.

    Raises:
        ConfigError: If there is none; says what it may have been.
    """
    known = {option.key: option for option in options()}
    section, _, rest = key.partition(".")
    last = rest.rpartition(".")[2]
    general = f"streams.{NAME}.{last}" if section == "streams" else key
    if general in known:
        return known[general]
    for option in known.values():
        if typing.get_origin(option.type) is dict and general.startswith(f"{option.key}."):
            return option
    if section not in SECTIONS:
        raise ConfigError(key, f"unknown section{suggestion(section, SECTIONS)}")
    near = [one for one in known if one.startswith(f"{section}.")]
    raise ConfigError(key, f"unknown setting{suggestion(general, near)}")


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Return the dotted keys and values of plain settings."""
    for key, value in tree.items():
        dotted = f"{path}.{key}".lstrip(".")
        if isinstance(value, Mapping):
            yield from leaves(value, dotted)
        else:
            yield dotted, value


def sources(
    path: Path | None, overrides: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, str]:
    """Return where each option that is set comes from; the others have their default.

    Raises:
        ConfigError: If the file cannot be read.
    """
    found = {}
    if path is not None:
        found = {key: f"file {path}" for key, _ in leaves(loader.read(path))}
    for name in sorted(environ):
        keys = name.removeprefix(PREFIX).lower().split("__")
        if name.startswith(PREFIX) and len(keys) > 1 and keys[0] in SECTIONS:
            found[".".join(keys)] = f"environment {name}"
    for key in overrides:
        found[key] = f"command line --set {key}"
    return found


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file, for editors."""
    sections = schemas()
    streams = _object(sections.pop(f"streams.{NAME}"))
    properties = {name: _object(schema) for name, schema in sections.items()}
    properties["streams"] = {
        "type": "object",
        "description": "Streams by name; a name also configures NAME+anything.",
        "additionalProperties": streams,
    }
    return {
        "$schema": SCHEMA_ID,
        "title": "Headwater configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _walk(prefix: str, schema: type[Any]) -> Iterator[Option]:
    hints, words = typing.get_type_hints(schema), manual.docstrings(schema)
    for field in msgspec.structs.fields(schema):
        hint = hints[field.name]
        key = f"{prefix}.{field.name}"
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from _walk(key, hint)
            continue
        said = " ".join(words.get(field.name, "").split())
        yield Option(key, hint, _words(hint), _default(field), said)


def _words(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_words(one) for one in typing.get_args(hint) if one is not type(None))
    return manual.type_words(hint).replace("`", "")


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.to_builtins(field.default_factory(), enc_hook=str)
    if field.default is msgspec.NODEFAULT:
        return None
    if isinstance(field.default, Duration | Size):
        return str(field.default)
    return msgspec.to_builtins(field.default, enc_hook=str)


def _object(schema: type[Any]) -> dict[str, Any]:
    hints, words = typing.get_type_hints(schema), manual.docstrings(schema)
    properties: dict[str, Any] = {}
    required = []
    for field in msgspec.structs.fields(schema):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            properties[field.name] = _object(hint)
            continue
        entry = _json(hint)
        if field.required:
            required.append(field.name)
        default = _default(field)
        if default is not None:
            entry["default"] = default
        entry["description"] = " ".join(words.get(field.name, "").split())
        properties[field.name] = entry
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": required} if required else found


def _json(hint: Any) -> dict[str, Any]:
    if isinstance(hint, types.UnionType):
        return _json(next(one for one in typing.get_args(hint) if one is not type(None)))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _json(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _json(arguments[1])}
    if hint is Duration:
        return {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(us|ms|s|m|h|d)?\s*$"},
            ]
        }
    if hint is Size:
        return {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([kMG]?B|[KMG]iB)?\s*$"},
            ]
        }
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return {"type": names[hint]} if hint in names else {}
