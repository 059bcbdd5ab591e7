"""Tests of viewer processes run on both event loops that these may have."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

VIEWERS = ("test_edge_bypass.py", "test_edge_viewer.py")


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]]
    loops = {"asyncio": asyncio.new_event_loop}
    if item.path.name in VIEWERS:
        loops["uvloop"] = uvloop.new_event_loop
    return loops
