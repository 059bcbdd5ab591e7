"""``headwater config`` and ``headwater reload``: look at settings, explain them, take them up."""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from common.errors import ConfigError, HeadwaterError, NodeUnavailable
from common.runtime import reload, restarting
from common.runtime.config import NodeSettings
from common.runtime.loader import ROLES, overrides
from common.runtime.options import Option, find, json_schema, leaves, options, sources

TIMEOUT = 110.0
"""Seconds that a node may take to check new settings: a little more than it gives itself."""

MAX_ANSWER = 8 * 1024 * 1024
"""Bytes of a node's answer that ``headwater config`` reads. What comes after them is not read."""


class ReloadFailed(HeadwaterError):
    """A node goes on with its settings; the text says why."""


def explain(
    key: str,
    running: Mapping[str, Mapping[str, Any]],
    file: Path | None,
    overrides: Mapping[str, str],
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Return what a key means, its type, default, value, and where that comes from.

    ``running`` holds the settings as plain values by role. A section instead of a key lists what
    is in it.

    Raises:
        ConfigError: If there is no such key.
    """
    inside = [one for one in options() if one.key.startswith(f"{key}.")]
    if inside and key != "streams":
        return "\n".join(f"{one.key:<32} {_first_sentence(one.doc)}" for one in inside)
    option = find(key)
    lines = [key, *(f"  {line}" for line in _wrapped(option.doc)), ""]
    default = json.dumps(option.default) if option.default not in (None, "") else "none"
    lines += [f"  type     {option.words}", f"  default  {default}"]
    source = sources(file, overrides, environ).get(key, "the default")
    for value, roles in _values(key, running).items():
        shown = reload.HIDDEN if option.secret and value != '""' else value
        whose = f" ({', '.join(roles)})" if len(_values(key, running)) > 1 else ""
        lines.append(f"  value    {shown}, from {source}{whose}")
    lines += [f"  change   {line}" for line in _changes(option, key)]
    return "\n".join(lines)


def _values(key: str, running: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the roles that have each value."""
    found: dict[str, list[str]] = {}
    for role, tree in running.items():
        for dotted, value in leaves(tree):
            if dotted == key:
                found.setdefault(json.dumps(value, default=str), []).append(role)
    return found


NOW: dict[str, tuple[str, ...]] = {
    "origin": ("log.*", "streams.*"),
    "relay": ("log.*", "streams.*"),
    "balancer": ("log.*",),
    "edge": (),
}
"""What running processes take up, by role; each says so itself, and a test compares."""


def _changes(option: Option, key: str) -> list[str]:
    readers = [role for role in ROLES if option in options(role)]
    told: dict[str, list[str]] = {}
    for role in readers:
        how, why = reload.decide(role, key, NOW[role])
        text = {"now": "at once", "restart": why, "refused": f"not while it runs: {why}"}[how]
        told.setdefault(text, []).append(role)
    return [f"{', '.join(roles)}: {text}" for text, roles in told.items()]


def diff(node: NodeSettings, names: Sequence[str], tokens: Sequence[str] = ()) -> tuple[str, bool]:
    """Return what a reload of nodes of this machine would change, and whether it is anything.

    Raises:
        NodeUnavailable: If one does not run here or does not answer.
        ReloadFailed: If what is written now is wrong.
    """
    lines = []
    for name in names:
        plan = ask(node, name, "/api/v1/config/plan", tokens=tokens)
        lines += [f"{name}: {line}" for line in words(plan)]
    return "\n".join(lines), any(": nothing" not in line for line in lines)


def words(plan: Mapping[str, Any]) -> list[str]:
    """Return a plan for people."""
    said = []
    for one in plan["changes"]:
        before, after = (json.dumps(one[which]) for which in ("before", "after"))
        how = {"now": "at once", "restart": "restart in place", "refused": "REFUSED"}[one["how"]]
        why = f": {one['why']}" if one["how"] == "refused" else ""
        said.append(f"{one['key']} = {before} -> {after} ({how}{why})")
    if plan["consequence"]:
        said.append(f"it restarts in place: {plan['consequence']}")
    return said or ["nothing changes"]


def reload_nodes(
    node: NodeSettings,
    names: Sequence[str],
    dry: bool,
    tell: Callable[[str], object],
    tokens: Sequence[str] = (),
) -> None:
    """Have nodes of this machine take up their settings, one after the other.

    Raises:
        NodeUnavailable: If one does not run here or does not answer.
        ReloadFailed: If one refuses; those after it are left alone.
    """
    if dry:
        tell(diff(node, names, tokens)[0])
        return
    for name in names:
        before = restarting.running(node, name)
        done = ask(node, name, "/api/v1/reload", b"{}", tokens)
        for line in words(done):
            tell(f"{name}: {line}")
        if done["how"] == "restart":
            restarting.wait(node, name, before)
            tell(f"{name}: it is back")


def read_token(path: Path) -> str:
    """Return the token that is in a file.

    Raises:
        ConfigError: If it cannot be read, or is empty.
    """
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--token", f"cannot read {path}: {error}") from error
    if not token:
        raise ConfigError("--token", f"{path} is empty")
    return token


def ask(
    node: NodeSettings,
    name: str,
    path: str,
    body: bytes | None = None,
    tokens: Sequence[str] = (),
) -> dict[str, Any]:
    """Ask a node of this machine over its API.

    A node that listens on no loopback address wants the token of its role, which is one of
    ``tokens``.

    Raises:
        NodeUnavailable: If it does not run here or does not answer.
        ReloadFailed: If it refuses.
    """
    endpoints = restarting.running(node, name).endpoints
    address = endpoints.get("admin") or endpoints.get("http", "")
    _, _, port = address.rpartition(":")
    wild = address.startswith(("0.0.0.0:", "[::]:")) or not address
    url = f"http://{f'127.0.0.1:{port}' if wild else address}{path}"
    said = ""
    for token in tokens or ("",):
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return cast(dict[str, Any], json.loads(answer.read(MAX_ANSWER)))
        except urllib.error.HTTPError as error:
            said = _detail(error)
            if error.code != HTTPStatus.FORBIDDEN:
                break
        except (OSError, ValueError) as error:
            raise NodeUnavailable(f"{name} does not answer at {url}: {error}") from error
    raise ReloadFailed(f"{name}: {said}")


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(MAX_ANSWER))["detail"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP status {error.code}"


def main(
    arguments: argparse.Namespace,
    node: NodeSettings,
    running: Mapping[str, Mapping[str, Any]],
    tokens: Sequence[str],
) -> int:
    """Do ``explain``, ``diff`` or ``schema``.

    Raises:
        ConfigError: If a key is missing or unknown.
    """
    words_given = arguments.names
    if arguments.action == "schema":
        return _say(json.dumps(json_schema(), indent=2))
    if not words_given:
        what = "KEY, such as edge.http" if arguments.action == "explain" else "NODE"
        raise ConfigError(what, "is missing")
    if arguments.action == "explain":
        pairs = overrides(arguments.set)
        return _say("\n\n".join(explain(k, running, arguments.config, pairs) for k in words_given))
    text, any_changes = diff(node, words_given, tokens)
    _say(text)
    return 1 if any_changes else 0


def _say(text: str) -> int:
    sys.stdout.write(text + "\n")
    return 0


def _first_sentence(text: str) -> str:
    return text.replace("``", "").split(". ")[0].rstrip(".")


def _wrapped(text: str) -> list[str]:
    lines, line = [], ""
    for word in text.replace("``", "").split():
        if len(line) + len(word) > 76:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [*lines, line] if line else lines
