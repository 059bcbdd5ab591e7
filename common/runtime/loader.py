"""Reading settings: msgspec structs filled from a TOML file, then the environment, then ``--set``.

The struct is the schema and its attribute docstrings are the manual. A setting that it does not
have is an error that names the nearest one it has. One file serves all roles of a machine: a role
reads the sections its schema has and ignores those of the others.
"""

import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from common.errors import ConfigError
from common.runtime.units import Duration, Size

T = TypeVar("T")

SECTIONS = ("node", "log", "origin", "edge", "relay", "balancer", "streams")
"""The sections of a configuration file."""

ROLES = ("origin", "edge", "relay", "balancer")

PREFIX = "HEADWATER_"
MAX_FILE = 4 * 1024 * 1024
"""Bytes of a configuration file. A larger one is refused."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of everything that stands in a configuration file.

    Subclasses say ``frozen=True`` again, for the type checker.
    """


def load(
    schema: type[T],
    path: Path | str | None,
    overrides: Mapping[str, str] = types.MappingProxyType({}),
    environ: Mapping[str, str] = types.MappingProxyType({}),
) -> T:
    """Return ``schema`` filled from the file, ``HEADWATER_SECTION__KEY``, and ``a.b=value`` pairs.

    Raises:
        ConfigError: If a setting is unknown, missing, or has a wrong value.
    """
    tree = read(Path(path)) if path is not None else {}
    for section in tree:
        if section not in SECTIONS:
            raise ConfigError(section, f"unknown section{suggestion(section, SECTIONS)}")
    for name, text in sorted(environ.items()):
        keys = name.removeprefix(PREFIX).lower().split("__")
        if name.startswith(PREFIX) and len(keys) > 1 and keys[0] in SECTIONS:
            _override(schema, tree, keys, text)
    for dotted, text in overrides.items():
        keys = dotted.split(".")
        if keys[0] not in SECTIONS:
            raise ConfigError(dotted, f"unknown section{suggestion(keys[0], SECTIONS)}")
        _override(schema, tree, keys, text)
    known = typing.get_type_hints(schema)
    tree = {section: value for section, value in tree.items() if section in known}
    role = [name for name in ROLES if name in known]
    if "node" in known and len(role) == 1 and isinstance(tree.setdefault("node", {}), dict):
        tree["node"].setdefault("name", role[0])
    return build(schema, tree)


def overrides(pairs: typing.Iterable[str]) -> dict[str, str]:
    """Return ``--set`` options as a mapping.

    Raises:
        ConfigError: If one is not of the form KEY=VALUE.
    """
    given = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError("--set", f"{pair!r} is not of the form section.key=value")
        given[key] = text
    return given


def build(schema: type[T], tree: Any, path: str = "") -> T:
    """Return ``schema`` filled from ``tree``; ``path`` is where in the file the tree stands.

    Raises:
        ConfigError: If a setting is unknown, missing, or has a wrong value.
    """
    _check_keys(schema, tree, path)
    try:
        return msgspec.convert(tree, schema, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise _located(schema, tree, path) from error


def dump(settings: Any) -> dict[str, Any]:
    """Return settings as plain values, for ``headwater config show``."""
    plain: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    return plain


def suggestion(word: str, known: typing.Iterable[str]) -> str:
    """Return ``; did you mean X?``, or the known words if none is near."""
    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else "; nothing can be set here"


def _located(wanted: Any, tree: Any, path: str) -> ConfigError:
    """Return the error with the exact setting in it; ``tree`` is known not to fit."""
    struct, value = _struct(wanted), _item(wanted, dict)
    if isinstance(tree, Mapping):
        hints = typing.get_type_hints(struct) if struct else dict.fromkeys(tree, value)
        for key, inner in tree.items():
            if _misfit(hints[key], inner):
                return _located(hints[key], inner, f"{path}.{key}".lstrip("."))
    reason = _misfit(wanted, tree)
    missing = re.search(r"missing required field `(\w+)`", reason)
    if missing:
        return ConfigError(f"{path}.{missing[1]}".lstrip("."), "has to be set")
    return ConfigError(path or "configuration", _plain(reason))


def _misfit(wanted: Any, value: Any) -> str:
    """Say why a value is not of a type, nothing if it is."""
    try:
        msgspec.convert(value, wanted, dec_hook=_decode)
    except msgspec.ValidationError as error:
        return str(error).partition(" - at `$")[0]
    return ""


def _plain(reason: str) -> str:
    words = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
    words["object"] = "a section"
    match = re.fullmatch(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`", reason)
    if match and match[1] in words:
        return f"expected {words[match[1]]}, got {words.get(match[2], match[2])}"
    return reason


def read(path: Path) -> dict[str, Any]:
    """Return the tables of a file.

    Raises:
        ConfigError: If it cannot be read, or is no TOML.
    """
    try:
        data = path.read_bytes()
        if len(data) > MAX_FILE:
            raise ConfigError(str(path), "the file is too large for a configuration")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), str(error)) from error


def _decode(wanted: type[Any], value: Any) -> Any:
    """Read what msgspec does not know."""
    if wanted is object:
        return value
    if isinstance(wanted, type) and issubclass(wanted, Duration | Size):
        return wanted.parse(value)
    raise ValueError(f"settings cannot be of type {wanted}")


def _struct(wanted: Any) -> type[msgspec.Struct] | None:
    """Return the struct in a type such as ``X`` or ``X | None``."""
    if isinstance(wanted, types.UnionType):
        return next((s for s in map(_struct, typing.get_args(wanted)) if s is not None), None)
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return wanted
    return None


def _item(wanted: Any, container: type) -> Any:
    """Return the type of the values in ``dict[str, X]`` or ``list[X]``, else None."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    return arguments[-1 if container is dict else 0] if origin is container else None


def _check_keys(wanted: Any, tree: Any, path: str) -> None:
    struct = _struct(wanted)
    if struct is not None and isinstance(tree, Mapping):
        hints = typing.get_type_hints(struct)
        for key, value in tree.items():
            dotted = f"{path}.{key}".lstrip(".")
            if key not in hints:
                raise ConfigError(dotted, f"unknown setting{suggestion(key, hints)}")
            _check_keys(hints[key], value, dotted)
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            _check_keys(_item(wanted, dict), value, f"{path}.{key}".lstrip("."))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            _check_keys(_item(wanted, list), value, f"{path}[{number}]")


def _override(schema: type[Any], tree: dict[str, Any], keys: list[str], text: str) -> None:
    """Put one value given as text into ``tree``, converted by the type of its field."""
    wanted: Any = schema
    rest = list(keys)
    while rest:
        struct, value = _struct(wanted), _item(wanted, dict)
        if struct is None and _struct(value) is not None and len(rest) > 1:
            # A name such as a stream's may hold dots: all but the last word belong to it.
            rest = [".".join(rest[:-1]), rest[-1]]
        key = rest.pop(0)
        hints = typing.get_type_hints(struct) if struct else {}
        if struct is not None and key not in hints and (len(keys) > len(rest) + 1):
            raise ConfigError(".".join(keys), f"unknown setting{suggestion(key, hints)}")
        wanted = hints.get(key, value)
        if not rest:
            tree[key] = _from_text(wanted, text, ".".join(keys))
            return
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(".".join(keys), f"{key} is a value, not a section")


def _from_text(wanted: Any, text: str, path: str) -> Any:
    if wanted is None or wanted in (Any, Duration, Size, str):
        return text
    given: Any = text
    if typing.get_origin(wanted) in (list, tuple, set, frozenset):
        given = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.to_builtins(
            msgspec.convert(given, wanted, strict=False, dec_hook=_decode), enc_hook=str
        )
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at `$")[0]
        raise ConfigError(path, f"{_plain(reason)} ({text!r})") from error


def as_toml(tree: dict[str, Any], path: str = "") -> str:
    """Return plain settings as TOML."""
    lines = [f"{_key(k)} = {json.dumps(v)}" for k, v in tree.items() if not _unlike_value(v)]
    if lines and path:
        lines.insert(0, f"[{path}]")
    parts = ["\n".join(lines) + "\n"] if lines else []
    for key, value in tree.items():
        if isinstance(value, dict):
            parts.append(as_toml(value, f"{path}.{_key(key)}".lstrip(".")))
    return "\n".join(filter(None, parts))


def _unlike_value(value: object) -> bool:
    return value is None or isinstance(value, dict)  # TOML has no word for what is not set


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)
