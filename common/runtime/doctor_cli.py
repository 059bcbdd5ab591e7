"""``headwater doctor``: the command."""

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.runtime import config, doctor
from common.runtime.doctor_look import examine
from common.runtime.loader import ROLES


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``headwater doctor``."""
    top = argparse.ArgumentParser(
        prog="headwater doctor",
        description="Look at this machine and its way to the others; say what to do about it. "
        "Ends with 1 if something is bad.",
    )
    top.add_argument(
        "roles",
        nargs="*",
        metavar="ROLE",
        help=f"which of {', '.join(ROLES)} this machine has (origin, edge and balancer)",
    )
    top.add_argument("-c", "--config", type=Path, metavar="FILE", help="TOML file")
    top.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="section.key=value"
    )
    top.add_argument("--token", default="", help="opens the APIs of nodes on other machines")
    top.add_argument("--json", action="store_true", help="print JSON")
    return top


def main(argv: Sequence[str]) -> int:
    """Print the findings; return 1 if one is bad.

    Raises:
        ConfigError: If the settings are wrong: mend them first.
    """
    arguments = parser().parse_args(argv)
    wanted = arguments.roles or [role for role in ROLES if role != "relay"]
    for role in wanted:
        if role not in ROLES:
            raise config.ConfigError(role, f"no such role{config.suggestion(role, ROLES)}")
    given = config.overrides(arguments.set)
    roles = {}
    for role in wanted:
        schema = importlib.import_module(f"{role}.config").Config
        roles[role] = config.load(schema, arguments.config, given, os.environ)
    found = asyncio.run(examine(roles, arguments.token))
    sys.stdout.write((doctor.as_json if arguments.json else doctor.as_text)(found) + "\n")
    return doctor.worst(found)
