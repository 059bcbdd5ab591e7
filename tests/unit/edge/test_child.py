"""What the children of an edge are told of the configuration."""

import json
import os
import socket
from typing import Any

import pytest

from common.runtime.config import StreamSettings
from edge import child
from edge.config import Config


async def test_a_worker_knows_who_may_have_a_stream_and_not_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: dict[str, str] = {}

    async def spawned(command: list[str], *, environment: dict[str, str], **_: Any) -> None:
        told.update(environment)

    monkeypatch.setattr(child, "spawn_child", spawned)
    config = Config(streams={"live": StreamSettings(key="SECRET", nodes=["edge-*"], paths=2)})
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as listener:
        await child.viewer(config, 0, [listener])(theirs)
    assert "SECRET" not in json.dumps(told)
    monkeypatch.setitem(os.environ, child.VARIABLE, told[child.VARIABLE])
    live = child.inheritance().config().streams["live"]
    assert (live.nodes, live.paths, live.key) == (["edge-*"], 2, "")
