"""A follower in its owner's place publishes what the owner would have published."""

from pathlib import Path

import pytest

from common.media.track import INDEX_TRACK
from common.track.index import Opened
from common.track.limits import Limits
from common.track.record import Flag, Record
from common.track.store import StreamWriter
from origin.adoption import read_pages
from origin.follower import HOLD_US, Follower
from origin.heir import Heir
from origin.publisher import Publisher
from tests.unit.origin.stage import Encoder, RememberingBus, Stage, settings

EPOCH = 1000


class Twin:
    """One encoder that pushes to an owner and to a follower, at the same time."""

    def __init__(self, root: Path, ahead_ms: int = 0) -> None:
        self.stage = Stage(root)
        self.clock = self.stage.clock
        self.bus = RememberingBus()
        self.root = root / "owner"
        self.owner = self._heir(self.root, self.bus, term=1)
        self.follower = Follower("live", settings(), now=self.clock.now, mono=self.clock.mono)
        self.ahead_ms = ahead_ms
        self.encoders = [
            Encoder(self.stage, self._publisher(self.owner, 1)),
        ]
        self.seen: dict[int, int] = {}

    def _heir(self, root: Path, bus: RememberingBus, term: int) -> Heir:
        root.mkdir(parents=True, exist_ok=True)
        writer = StreamWriter.open(root, "live", EPOCH, Limits())
        clocks = {"now": self.clock.now, "mono": self.clock.mono}
        return Heir(settings(), writer, bus, term=term, first_segment=7, **clocks)

    def _publisher(self, host: Heir | Follower, number: int) -> Publisher:
        made = Publisher(host, "main", peer="", protocol="rtmp", number=number, key_id=b"")
        host.enter(made)
        return made

    def join(self) -> None:
        """Let the encoder push to the follower too, from now on."""
        first = self.encoders[0]
        second = Encoder(self.stage, self._publisher(self.follower, 2))
        second.sent, second.heard, second.ms = first.sent, first.heard, first.ms
        self.encoders.append(second)

    def send(self, frames: int, *, mirror: bool = True) -> None:
        for _ in range(frames):
            for encoder in self.encoders:
                then = self.clock.us
                encoder.send(0.04)
                self.clock.us = then
            self.clock.wait(0.04)
            if mirror:
                self.mirror()

    def mirror(self) -> None:
        """Let the follower see what the owner has published."""
        if not self.bus.catalogs:
            return
        self.follower.follow(self.bus.catalogs[-1])
        for track, records in self.bus.records.items():
            first = self.seen.get(track, 0)
            self.follower.records(track, records[first:])
            self.seen[track] = len(records)
        self.follower.align()

    def succeed(self) -> tuple[Heir, RememberingBus, bool]:
        """Let the owner die, and the follower go on with the pages."""
        self.owner.writer.close()
        self.encoders = self.encoders[1:]
        bus = RememberingBus()
        heir = self._heir(self.root, bus, term=2)
        adopted = read_pages(heir.writer)
        return heir, bus, heir.inherit(adopted, self.follower)


def identity(record: Record) -> Record:
    """Return what bytes depend on of a record."""
    return record._replace(capture_us=0, ingest_us=0, offset=0)


@pytest.mark.parametrize(("dies_at", "unseen"), [(113, 1), (150, 0), (149, 30), (151, 1)])
def test_what_the_owner_would_have_published_is_published(
    tmp_path: Path, dies_at: int, unseen: int
) -> None:
    whole = Twin(tmp_path / "whole")
    whole.send(220)
    twin = Twin(tmp_path / "twin")
    twin.send(20)
    twin.join()
    twin.send(dies_at - 20)
    assert twin.follower.aligned
    # The owner dies: the follower's frames wait until it has been found out.
    dead, twin.encoders = twin.encoders[0], twin.encoders[1:]
    twin.send(unseen, mirror=False)
    twin.encoders.insert(0, dead)
    _, bus, seamless = twin.succeed()
    assert seamless
    twin.send(220 - dies_at - unseen, mirror=False)
    for track in (1, 2):
        got = [identity(r) for r in twin.bus.records[track] + bus.records[track]]
        assert got == [identity(r) for r in whole.bus.records[track]]
        assert twin.bus.payloads[track] + bus.payloads[track] == whole.bus.payloads[track]
    rows = twin.bus.payloads[INDEX_TRACK] + bus.payloads[INDEX_TRACK]
    assert rows == whole.bus.payloads[INDEX_TRACK]
    assert bus.catalogs[0].term == 2
    assert bus.catalogs[0].epoch == EPOCH


def test_an_owner_that_was_ahead_is_not_repeated(tmp_path: Path) -> None:
    twin = Twin(tmp_path)
    twin.send(60)
    twin.join()
    twin.send(60)
    late = twin.encoders.pop()
    twin.send(5)  # the way to the follower is longer
    twin.encoders.append(late)
    _, bus, seamless = twin.succeed()
    assert seamless
    assert not bus.records[1]
    twin.send(25, mirror=False)
    got = twin.bus.payloads[1] + bus.payloads[1]
    assert got == [b"video %d" % n for n in range(145)]
    assert not any(r.flags & Flag.DISCONTINUITY for r in bus.records[1])


def test_frames_that_are_not_the_owners_go_on_after_a_discontinuity(tmp_path: Path) -> None:
    twin = Twin(tmp_path)
    twin.send(60)
    twin.join()
    twin.encoders[1].heard += 1000
    twin.encoders[1].sent += 1000
    twin.encoders[1].ms += 40_000
    twin.send(30)
    assert not twin.follower.aligned
    dead, twin.encoders = twin.encoders[0], twin.encoders[1:]
    twin.send(70, mirror=False)
    twin.encoders.insert(0, dead)
    _, bus, seamless = twin.succeed()
    assert not seamless
    twin.send(30, mirror=False)
    first = bus.records[1][0]
    assert first.flags & Flag.DISCONTINUITY
    assert first.flags & Flag.KEY
    assert first.seq == len(twin.bus.records[1])
    opened = [row for row in bus.rows if isinstance(row, Opened)]
    before = [row.segment for row in twin.bus.opened]
    assert opened[0].segment == before[-1] + 1
    assert bus.payloads[1][0] == b"video 1100"


def test_a_frozen_owner_publishes_nothing_before_it_has_asked(tmp_path: Path) -> None:
    twin = Twin(tmp_path)
    twin.owner.followed = True
    twin.owner.fence.pulse(twin.clock.mono(), armed=True)
    twin.send(10)
    count = len(twin.bus.records[1])
    twin.clock.wait(5)
    twin.send(10)
    assert len(twin.bus.records[1]) == count
    assert twin.owner.fence.pulse(twin.clock.mono(), armed=True)
    twin.owner.thaw()
    assert len(twin.bus.records[1]) == count + 10


def test_a_frozen_owner_gives_what_it_was_sent_to_a_follower(tmp_path: Path) -> None:
    twin = Twin(tmp_path)
    twin.owner.followed = True
    twin.owner.fence.pulse(twin.clock.mono(), armed=True)
    twin.send(10)
    twin.clock.wait(5)
    twin.send(10)
    twin.owner.hand_over(twin.follower)
    assert twin.bus.removed == [("live", EPOCH)]
    held = [one.frame.data for _, one in twin.follower.held()]
    assert [data for data in held if data.startswith(b"video")] == [
        b"video %d" % n for n in range(10, 20)
    ]
    twin.send(1, mirror=False)
    assert twin.follower.held()[-1][1].frame.data.split()[0] in (b"video", b"audio")


def test_what_an_owner_never_publishes_is_not_held_for_ever(tmp_path: Path) -> None:
    twin = Twin(tmp_path)
    twin.join()
    twin.encoders = twin.encoders[1:]
    twin.send(400, mirror=False)
    assert twin.follower.lag_us <= HOLD_US + 40_000
    assert len(twin.follower.held()) < 11 * (25 + 47)


def test_the_last_publisher_of_a_followed_stream_closes_nothing_at_once(tmp_path: Path) -> None:
    twin = Twin(tmp_path)
    twin.owner.followed = True
    twin.send(60)
    twin.owner.publishers[0].close("gone")
    assert not twin.bus.closed or len(twin.bus.closed) < len(twin.bus.opened)
    twin.clock.wait(4)
    twin.owner.tick()
    assert len(twin.bus.closed) == len(twin.bus.opened)
