"""The stream worker without a network: who is wanted, what is told, what is adopted."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.bus.intake import Intake
from common.bus.pages import Pages
from common.runtime.config import StreamSettings
from common.runtime.machine import Machine
from common.runtime.registry import Owner
from common.runtime.units import Size
from common.track.board import Board
from common.track.limits import DEFAULT_STREAM_BYTES, Limits
from common.track.store import StreamWriter
from tests.harness.bus import Source, catalog, found_by


@dataclass
class Rig:
    root: Path
    said: list[dict[str, Any]] = field(default_factory=list)
    owners: dict[str, Owner] = field(default_factory=dict)
    now: int = 1_000_000

    def make(self) -> Intake:
        return Intake(
            node="edge",
            pages=Pages(self.root, Board.create(self.root), Limits()),
            find=found_by(self.owner),
            tell=self.told,
            settled=lambda _streams, _moved: None,
            linger=5,
            machine=Machine(mono_us=lambda: self.now),
        )

    def told(self, stream: str, state: str, epoch: int) -> None:
        self.said.append({"stream": stream, "state": state, "epoch": epoch})

    async def owner(self, stream: str) -> Owner | None:
        return self.owners.get(stream)

    def own(self, stream: str, port: int) -> None:
        ports = {"bus": f"tcp://127.0.0.1:{port}", "control": f"tcp://127.0.0.1:{port + 1}"}
        self.owners[stream] = Owner(stream, "origin", 1, 1, ports)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_streams_of_one_origin_share_a_link_and_the_last_one_takes_it_along(
    rig: Rig,
) -> None:
    made = rig.make()
    rig.own("a", 10_001)
    rig.own("b", 10_001)
    rig.own("c", 10_003)
    made.want(["a", "b", "c", "nobodys"])
    await made.follow()
    assert len(made._links) == 2
    made.want(["a"])
    rig.now += 5_000_001
    made.tick()
    assert set(made._entries) == {"a"}
    assert len(made._links) == 1
    made.close()


async def test_a_stream_wanted_again_in_time_is_kept(rig: Rig) -> None:
    made = rig.make()
    made.want(["a"])
    made.want([])
    rig.now += 4_000_000
    made.tick()
    made.want(["a"])
    rig.now += 4_000_000
    made.tick()
    assert set(made._entries) == {"a"}
    made.close()


async def test_states_are_told_once(rig: Rig) -> None:
    made = rig.make()
    made.want(["a"])
    made.want(["a"])
    made.tick()
    assert rig.said == [{"stream": "a", "state": "joining", "epoch": 0}]
    made.close()


async def test_pages_that_are_here_are_told_at_once_and_go_if_nobody_wants_them(
    rig: Rig,
) -> None:
    source = Source(rig.root, catalog())
    source.next()
    source.writer.close()
    made = rig.make()
    made.adopt()
    assert rig.said == [{"stream": "live", "state": "live", "epoch": 1000}]
    rig.now += 5_000_001
    made.tick()
    assert rig.said[-1]["state"] == "absent"
    assert StreamWriter.existing(rig.root) == []
    made.close()


async def test_pages_of_an_ended_stream_are_live_before_they_are_ended(rig: Rig) -> None:
    source = Source(rig.root, catalog())
    source.next()
    source.writer.set_catalog(source.catalog.evolve(live=False))
    source.writer.close()
    made = rig.make()
    made.adopt()
    assert [message["state"] for message in rig.said] == ["live", "ended"]
    made.close()


async def test_of_several_epochs_the_newest_goes_on(rig: Rig) -> None:
    for epoch in (1000, 1001):
        source = Source(rig.root, catalog(epoch=epoch, term=epoch))
        source.next()
        source.writer.close()
    made = rig.make()
    made.adopt()
    assert rig.said == [{"stream": "live", "state": "live", "epoch": 1001}]
    assert len(StreamWriter.existing(rig.root)) == 2
    made.close()


async def test_a_folder_without_a_catalog_is_removed(rig: Rig) -> None:
    StreamWriter.open(rig.root, "live", 1, Limits()).close()
    made = rig.make()
    made.adopt()
    assert rig.said == []
    assert StreamWriter.existing(rig.root) == []
    made.close()


async def test_a_stream_without_an_owner_for_a_minute_has_ended(rig: Rig) -> None:
    source = Source(rig.root, catalog())
    source.next()
    source.writer.close()
    made = rig.make()
    made.adopt()
    made.want(["live"])
    rig.now += 59_000_000
    await made.follow()
    made.tick()
    assert rig.said[-1]["state"] == "live"
    rig.now += 2_000_000
    await made.follow()
    made.tick()
    assert rig.said[-1]["state"] == "ended"
    made.close()


def test_the_pages_of_a_stream_take_what_its_settings_allow(rig: Rig) -> None:
    streams = {"live": StreamSettings(key="secret", bytes_max=Size(1_000_000))}
    pages = Pages(rig.root, Board.create(rig.root), Limits(), streams)
    for stream, most in (("live", 1_000_000), ("live+a", 1_000_000), ("x", DEFAULT_STREAM_BYTES)):
        writer = pages.open(stream, 1)
        assert writer._limits.bytes_per_stream == most
        writer.close()
