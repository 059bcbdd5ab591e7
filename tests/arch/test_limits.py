"""Every limit is in the manual, and says what it bounds and what happens at it."""

import ast

import msgspec
import pytest

from common.runtime import limits
from common.runtime.limits import OTHERS, SETTINGS, Limit

NO_LIMITS = {
    "streams.NAME.part",
    "streams.NAME.paths",
    "streams.NAME.segment",
    "streams.NAME.takeover",
    "streams.NAME.window",
    "origin.bandwidth",
    "edge.linger",
    "edge.paths",
    "edge.viewers",
    "relay.linger",
    "relay.paths",
    "balancer.bandwidth",
    "balancer.sessions",
    "balancer.steering",
}
"""Settings that are numbers and bound nothing that a peer sends or takes."""


@pytest.fixture(scope="module")
def found() -> list[Limit]:
    return limits.limits()


def test_every_limit_says_what_it_bounds_and_what_happens_at_it(found: list[Limit]) -> None:
    assert len(found) > 200
    silent = [limit.place for limit in found if not limit.bounds or not limit.then]
    assert silent == [], 'write """What it bounds. What happens at it.""" below each'


def test_every_limit_that_is_named_is_there(found: list[Limit]) -> None:
    assert {limit.place for limit in found} >= OTHERS | SETTINGS


def test_every_setting_that_is_a_number_is_a_limit_or_known_to_be_none() -> None:
    numbers = {
        f"{place}.{field.name}"
        for place, schema in limits.sections()
        for field in msgspec.structs.fields(schema)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }
    assert numbers - SETTINGS - NO_LIMITS == set(), "add it to SETTINGS of common/runtime/limits.py"
    assert SETTINGS - numbers == set()
    assert numbers - SETTINGS >= NO_LIMITS


def test_a_new_constant_is_found() -> None:
    tree = ast.parse('MAX_NEW = 5\n"""Horses of a cart. More are let go."""\nMAX_BARE: int = 1\n')
    assert dict(limits._written(tree)) == {
        "MAX_NEW": "Horses of a cart. More are let go.",
        "MAX_BARE": "",
    }


def test_values_are_shown_with_their_units() -> None:
    shown = {
        (8 * 2**20, "Bytes of a tag"): "8MiB",
        (8190, "Bytes of a line"): "8 190",
        (5.0, "Seconds until"): "5 s",
        (1.5, "Seconds without"): "1.5 s",
        (4096, "Edges"): "4 096",
        (1e9, "Bits a second"): "1 000 000 000",
    }
    assert {key: limits._shown(*key) for key in shown} == shown


def test_a_limit_stands_in_one_chapter() -> None:
    rows = [line.split("`")[1] for line in limits.document().splitlines() if line[:3] == "| `"]
    assert len(rows) == len(set(rows)) == len(limits.limits())
