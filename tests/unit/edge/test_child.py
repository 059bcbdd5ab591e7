"""What the children of an edge are told of the configuration."""

import socket
from collections.abc import Sequence

import msgspec

from common.runtime.config import StreamSettings
from common.runtime.tasks import Adopted, Running
from common.runtime.units import Size
from edge import child
from edge.config import Config


class Told:
    """Starts nothing, and remembers what a child would be told."""

    def __init__(self) -> None:
        self.module, self.text = "", ""
        self.fds: list[int] = []

    async def spawn(self, module: str, text: str, fds: Sequence[int]) -> Running:
        self.module, self.text, self.fds = module, text, list(fds)
        return Adopted(0)

    @property
    def given(self) -> child.Inheritance:
        return msgspec.json.decode(self.text, type=child.Inheritance)


async def test_a_child_knows_what_bounds_a_stream_and_who_may_have_it_and_not_its_key() -> None:
    told = Told()
    live = StreamSettings(key="SECRET", nodes=["edge-*"], paths=2, bytes_max=Size(1_000_000))
    config = Config(streams={"live": live})
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as listener:
        for spawn in (
            child.viewer(told, config, 0, [listener]),
            child.worker(told, config, lambda: [0], listener),
        ):
            await spawn(theirs)
            assert "SECRET" not in told.text
            found = told.given.config().streams["live"]
            assert (found.nodes, found.paths, found.key) == (["edge-*"], 2, "")
            assert found.bytes_max == 1_000_000
            assert told.fds == told.given.fds
    assert told.module == child.WORKER


async def test_a_child_finds_its_descriptors_whatever_numbers_they_have() -> None:
    told = Told()
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as one, socket.socket() as two, socket.socket() as three:
        await child.viewer(told, Config(), 0, [one, two], [three])(theirs)
    moved = told.given.at([10, 11, 12, 13, 14])
    assert (moved.control, moved.wake) == (10, [11])
    assert (moved.listen, moved.secure) == ([12, 13], [14])
    assert moved.fds == [10, 11, 12, 13, 14]
