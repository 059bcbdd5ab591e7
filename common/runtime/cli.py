"""The one command: ``headwater origin|edge|relay|balancer|solo|demo|...``.

A role is named by its module and imported only when it is started, so that ``common`` depends on
no role and a balancer never loads FFmpeg. Exit codes: 0 stopped on request, 2 configuration,
3 cannot listen, 130 interrupted twice.
"""

import argparse
import asyncio
import importlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from common import __version__
from common.errors import ConfigError, HeadwaterError, ListenError, NodeUnavailable
from common.runtime import config, definitions, inherit, logs, restart
from common.runtime.loader import as_toml
from common.runtime.registries import open_registry
from common.runtime.registry import DRAIN_TIMEOUT, Registry
from common.runtime.tasks import INTERRUPTED, end_soon
from common.runtime.units import Duration

T = TypeVar("T")

ROLES = {
    "origin": "ingest live streams and broadcast them to the edges",
    "edge": "serve viewers",
    "relay": "take streams in for a datacenter and send them on to its edges",
    "balancer": "redirect viewers to the least loaded edge",
}

ELSEWHERE = {
    "videogen": ("origin.videogen_cli", "send a generated test stream"),
    "size": ("balancer.sizing_cli", "reckon what hardware an audience needs"),
    "bench": ("edge.calibrate", "measure this machine for the command size"),
    "doctor": ("common.runtime.doctor_cli", "look at this machine, and say what to do about it"),
}
"""Commands with a parser of their own: their modules, and what they are for."""

CONFIGURATION = 2
"""Exit code for a setting that is wrong."""

CANNOT_LISTEN = 3
"""Exit code for an address that cannot be listened on."""


class Role(Protocol):
    """What the ``app`` module of a role provides."""

    Config: type[Any]

    def check(self, settings: Any) -> None:
        """Raise :exc:`ConfigError` for what only the role itself can tell to be wrong."""

    def run(self, settings: Any) -> Coroutine[Any, Any, None]:
        """Serve until cancelled."""


class Machine(config.Settings, frozen=True):
    """The sections that belong to no role."""

    node: config.NodeSettings = config.NodeSettings()
    log: config.LogSettings = config.LogSettings()


def parser() -> argparse.ArgumentParser:
    """Return the argument parser; the manual page is made from it."""
    top = argparse.ArgumentParser(prog="headwater", description="Distributed live-media cluster.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in ROLES.items():
        _configurable(commands.add_parser(name, help=what, description=what))
    what = "run origin, edge and balancer on this machine"
    _configurable(commands.add_parser("solo", help=what, description=what))
    what = "run a whole cluster on loopback with a test stream"
    demo = commands.add_parser("demo", help=what, description=what)
    demo.add_argument("--edges", type=int, default=2, metavar="N", help="how many edges (2)")
    demo.add_argument("--ports", choices=["0", "default"], default="default", help="0: any free")
    demo.add_argument("--duration", type=float, metavar="S", help="end after so many seconds")
    demo.add_argument("--json", action="store_true", help="print one line for scripts")
    demo.add_argument(
        "--datacenters", type=int, default=1, metavar="N", help="in how many datacenters (1)"
    )
    demo.add_argument("--consul", action="store_true", help="keep the registry in a real Consul")
    for name, (_, what) in ELSEWHERE.items():
        commands.add_parser(name, help=what, add_help=False)
    what = "show, check or explain the settings; what a reload would change; their JSON Schema"
    settings = commands.add_parser("config", help=what, description=what)
    settings.add_argument("action", choices=["show", "check", "explain", "diff", "schema"])
    words = "one role only (show, check), options to explain, or nodes to compare (diff)"
    settings.add_argument("names", nargs="*", metavar="WHAT", help=words)
    _configurable(settings, token=True)
    what = "have nodes of this machine take up changed settings, all or none"
    again = commands.add_parser("reload", help=what, description=what)
    again.add_argument("names", nargs="+", metavar="NODE", help="one after the other")
    again.add_argument("--dry-run", action="store_true", help="only say what would change")
    _configurable(again, token=True)
    what = "show the public key of a node, or give it a new one"
    keys = commands.add_parser("keys", help=what, description=what)
    keys.add_argument("role", choices=list(ROLES), help="whose settings to read")
    keys.add_argument("--new", action="store_true", help="write a new key; then restart the node")
    _configurable(keys)
    what = "list the live nodes"
    nodes = commands.add_parser("nodes", help=what, description=what)
    nodes.add_argument("--json", action="store_true", help="print JSON")
    _configurable(nodes)
    _streams_command(commands)
    _drain_commands(commands)
    what = "restart nodes of this machine in place, with their new code and settings"
    again = commands.add_parser("restart", help=what, description=what)
    again.add_argument("names", nargs="*", metavar="NODE", help="one after the other")
    again.add_argument("--pid", type=int, help="the node that runs as this process")
    _configurable(again)
    return top


def _streams_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    what = "list the live streams; define streams for all nodes"
    streams = commands.add_parser("streams", help=what, description=what)
    streams.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=["list", "defined", "define", "delete"],
        help="list those that are live (default), or those that the registry defines; define one "
        "anew; delete a definition",
    )
    streams.add_argument("stream", nargs="?", metavar="NAME", help="name of the stream")
    streams.add_argument("settings", nargs="*", metavar="SETTING=VALUE", help="of its section")
    streams.add_argument("--json", action="store_true", help="print JSON")
    _configurable(streams)


def _drain_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    what = "move the viewers of an edge to the others"
    drain = commands.add_parser("drain", help=what, description=what)
    drain.add_argument("name", metavar="NODE", help="name of the edge")
    drain.add_argument(
        "--timeout",
        type=Duration.parse,
        default=Duration(DRAIN_TIMEOUT),
        metavar="TIME",
        help="end the viewers that are left after this time (60s)",
    )
    drain.add_argument("--wait", action="store_true", help="show who is left until nobody is")
    _configurable(drain)
    what = "let an edge that was drained have viewers again"
    undrain = commands.add_parser("undrain", help=what, description=what)
    undrain.add_argument("name", metavar="NODE", help="name of the edge")
    _configurable(undrain)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if given and given[0] in ELSEWHERE:
            module = importlib.import_module(ELSEWHERE[given[0]][0])
            return cast(Callable[[Sequence[str]], int], module.main)(given[1:])
        arguments = parser().parse_args(given)
        return _COMMANDS.get(arguments.command, _role)(arguments)
    except (HeadwaterError, ExceptionGroup) as error:
        return fail(_expected(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def fail(error: HeadwaterError) -> int:
    """Say on standard error what went wrong; return the exit code."""
    print(f"headwater: {error}", file=sys.stderr)
    if isinstance(error, ListenError):
        return CANNOT_LISTEN
    return CONFIGURATION if isinstance(error, ConfigError) else 1


def _expected(error: Exception) -> HeadwaterError:
    """Return the error raised on purpose, also out of a task group; raise any other."""
    if isinstance(error, ExceptionGroup):
        ours, others = error.split(HeadwaterError)
        if ours is None or others is not None:
            raise error
        return _expected(ours.exceptions[0])
    if not isinstance(error, HeadwaterError):
        raise error
    return error


def _configurable(command: argparse.ArgumentParser, token: bool = False) -> None:
    if token:
        what = "file with the token of the nodes, if it is not in the settings given"
        command.add_argument("--token", type=Path, metavar="FILE", help=what)
    command.add_argument("-c", "--config", type=Path, metavar="FILE", help="TOML file")
    command.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="section.key=value"
    )


def _load(schema: type[Any], arguments: argparse.Namespace) -> Any:
    return config.load(schema, arguments.config, config.overrides(arguments.set), os.environ)


def _app(role: str) -> Role:
    return cast(Role, importlib.import_module(f"{role}.app"))


def _schema(role: str) -> type[Any]:
    return cast(type[Any], importlib.import_module(f"{role}.config").Config)


def _role(arguments: argparse.Namespace) -> int:
    machine: Machine = _load(Machine, arguments)
    logs.configure(machine.log.level, machine.log.style)
    inherit.estate()  # before anything is started that could inherit it, too
    try:
        return _run(arguments)
    finally:
        end_soon()


def _run(arguments: argparse.Namespace) -> int:
    """Run a role, or check whether it could."""
    role = _app(arguments.command)
    settings = _load(role.Config, arguments)
    if restart.checking():
        role.check(settings)
        restart.check_addresses(settings)
        return 0
    from common.runtime import reload

    def read() -> Any:
        fresh = _load(role.Config, arguments)
        role.check(fresh)
        return fresh

    reloader = reload.begin(arguments.command, settings, read, arguments.config)
    job = reload.alongside(reloader, settings.node.watch, role.run(settings))
    asyncio.run(restart.serve(settings.node, job, [reloader.forbid]))
    return 0


def _config(arguments: argparse.Namespace) -> int:
    from common.runtime import cli_config

    machine: Machine = _load(Machine, arguments)
    if arguments.action not in ("show", "check"):
        running = {}
        if arguments.action == "explain":
            running = {role: config.dump(_load(_schema(role), arguments)) for role in ROLES}
        return cli_config.main(arguments, machine.node, running, _tokens(arguments))
    for name in arguments.names:
        if name not in ROLES:
            raise ConfigError(name, f"no such role{config.suggestion(name, ROLES)}")
    for role in arguments.names or ROLES:
        settings = _load(_schema(role), arguments)
        if arguments.action == "check":
            _app(role).check(settings)
        else:
            print(f"# {role}\n{as_toml(config.dump(settings))}")
    if arguments.action == "check":
        print("the configuration is good")
    return 0


async def _ask(machine: Machine, question: Callable[[Registry], Awaitable[T]]) -> T:
    async with open_registry(machine.node) as registry:
        answer = await question(registry)
        if trouble := registry.trouble():
            raise NodeUnavailable(f"the registry does not answer: {trouble}")
        return answer


def _reload(arguments: argparse.Namespace) -> int:
    from common.runtime import cli_config

    machine: Machine = _load(Machine, arguments)
    cli_config.reload_nodes(
        machine.node, arguments.names, arguments.dry_run, print, _tokens(arguments)
    )
    return 0


def _tokens(arguments: argparse.Namespace) -> list[str]:
    """Return what nodes may ask for: the token given, or those of the settings."""
    from common.runtime import cli_config

    if arguments.token is not None:
        return [cli_config.read_token(arguments.token)]
    sections = [getattr(_load(_schema(role), arguments), role) for role in ROLES]
    return [section.token for section in sections if section.token]


def _restart(arguments: argparse.Namespace) -> int:
    from common.runtime import restarting

    machine: Machine = _load(Machine, arguments)
    names = list(arguments.names)
    if arguments.pid is not None:
        names.append(restarting.named(machine.node, arguments.pid))
    if not names:
        raise ConfigError("NODE", "say which node, by its name or with --pid")
    restarting.restart(machine.node, names, print)
    return 0


def _streams(arguments: argparse.Namespace) -> int:
    if arguments.action != "list":
        return _definitions(arguments)
    machine: Machine = _load(Machine, arguments)
    rows = asyncio.run(_ask(machine, _list_streams))
    return _print(rows, arguments.json, "no stream is live")


async def _list_streams(registry: Registry) -> list[dict[str, Any]]:
    """Return who leads every stream, and who follows it."""
    rows = []
    for owner in await registry.owners():
        row = {"stream": owner.stream, "node": owner.node, "epoch": owner.epoch, "term": owner.term}
        followers = ",".join(standby.node for standby in await registry.standbys(owner.stream))
        rows.append({**row, "followers": followers or "none"})
    return rows


def _definitions(arguments: argparse.Namespace) -> int:
    machine: Machine = _load(Machine, arguments)
    action, name = arguments.action, arguments.stream
    if action == "defined":
        found = asyncio.run(_ask(machine, lambda registry: registry.definitions()))
        rows = [{"stream": stream, **_hidden(tree)} for stream, tree in found.items()]
        return _print(rows, arguments.json, "the registry defines no stream")
    if not name:
        raise ConfigError("NAME", "say which stream")
    tree = definitions.parse(name, arguments.settings) if action == "define" else None
    asyncio.run(_ask(machine, lambda registry: registry.define(name, tree)))
    return 0


def _hidden(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: "(hidden)" if key == "key" else value for key, value in tree.items()}


def _nodes(arguments: argparse.Namespace) -> int:
    machine: Machine = _load(Machine, arguments)
    nodes = asyncio.run(_ask(machine, lambda registry: registry.nodes()))
    rows = [
        {
            "name": n.name,
            "role": n.role,
            "datacenter": n.datacenter,
            "draining": n.draining,
            "pid": n.pid,
            **n.endpoints,
        }
        for n in nodes
    ]
    return _print(rows, arguments.json, "no node is live")


def _keys(arguments: argparse.Namespace) -> int:
    from common.runtime.keys import Keys

    node = _load(_schema(arguments.role), arguments).node
    path = Path(node.keys)
    if arguments.new:
        Keys.new().save(path)
    print(f"{node.name} {Keys.load(path).public}")
    return 0


def _print(rows: Sequence[dict[str, Any]], as_json: bool, nothing: str) -> int:
    if as_json:
        print(json.dumps(rows))
    for row in () if as_json else rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    if not rows and not as_json:
        print(nothing)
    return 0


def _drain(arguments: argparse.Namespace) -> int:
    from common.runtime import draining  # what a role does not need, it does not load

    machine: Machine = _load(Machine, arguments)
    name, timeout, wait = arguments.name, arguments.timeout, arguments.wait
    gone = asyncio.run(
        _ask(machine, lambda registry: draining.drain(registry, name, timeout, wait=wait))
    )
    return 0 if gone else 1


def _undrain(arguments: argparse.Namespace) -> int:
    from common.runtime import draining

    machine: Machine = _load(Machine, arguments)
    asyncio.run(_ask(machine, lambda registry: draining.undrain(registry, arguments.name)))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from common.runtime import demo  # what a role does not need, it does not load

    logs.configure("warning")
    return demo.main(
        edges=arguments.edges,
        any_ports=arguments.ports == "0",
        duration=arguments.duration,
        as_json=arguments.json,
        datacenters=arguments.datacenters,
        consul=arguments.consul,
    )


def _solo(arguments: argparse.Namespace) -> int:
    from common.runtime import solo

    machine: Machine = _load(Machine, arguments)
    logs.configure(machine.log.level, machine.log.style)
    for role in ROLES:
        _load(_schema(role), arguments)  # a wrong setting ends it before anything is started
    return solo.main(arguments.config, arguments.set, machine.node)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "config": _config,
    "keys": _keys,
    "demo": _demo,
    "drain": _drain,
    "nodes": _nodes,
    "reload": _reload,
    "restart": _restart,
    "solo": _solo,
    "streams": _streams,
    "undrain": _undrain,
}
