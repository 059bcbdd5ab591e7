"""A receiver with several sources: who is asked for what, and what is believed of whom."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.bus.answers import answer_pull, positions
from common.track.catalog import Catalog
from common.track.record import Flag
from common.wire.control import Absent, Control, Gone, Join, Joined, Position, Pull, Records
from common.wire.media import Item
from common.wire.messages import CatalogChange, Media
from tests.harness.bus import VIDEO, Asked, Source
from tests.unit.bus.test_receiver import Rig

SKEW = 25_000


class Street:
    """One receiver, and nodes around it that keep what they are asked."""

    def __init__(self, folder: Path, *kinds: str) -> None:
        self.rig = Rig(folder)
        self.asked: dict[str, list[Control]] = {}
        made = [self.node(kind, f"{kind}{number}") for number, kind in enumerate(kinds)]
        paths = [one for one in made if one.kind != "edge"]
        siblings = [one for one in made if one.kind == "edge"]
        self.names = [one.node for one in made]
        self.receiver = self.rig.receiver
        self.receiver.sources.use(paths, siblings)
        self.receiver.connected(self.rig.now)
        self.answer(self.names[0])

    def node(self, kind: str, name: str) -> Asked:
        self.asked[name] = []

        def ask(message: Control) -> bool:
            self.asked[name].append(message)
            return True

        return Asked(ask, kind, name)

    def answer(self, name: str, known: Catalog | None = None) -> None:
        """Let a node answer from the origin's pages, what it is asked meanwhile too."""
        rig = self.rig
        while self.asked[name]:
            question = self.asked[name].pop(0)
            found: Joined | Records | Gone | None = None
            if isinstance(question, Join):
                places = positions(rig.pages, known or rig.known)
                found = Joined(question.id, "live", known or rig.known, places)
            elif isinstance(question, Pull):
                found = answer_pull(rig.pages, question, (known or rig.known).term)
            if found is not None:
                self.receiver.deliver(found, rig.now)

    def has_not(self, name: str) -> None:
        """Let a node say that it has nothing of what it is asked."""
        questions, self.asked[name][:] = list(self.asked[name]), []
        for pull in [one for one in questions if isinstance(one, Pull)]:
            gone = Gone(pull.id, "live", pull.epoch, pull.track, pull.stop)
            self.receiver.deliver(gone, self.rig.now)

    def lose(self, frames: int = 1) -> None:
        """Publish frames that no path brings, then some that come."""
        for _ in range(frames):
            self.rig.source.next(self.rig.now)
            self.rig.now += 40_000
        self.bring()

    def bring(self) -> list[Item]:
        rig = self.rig
        items = rig.source.next(rig.now)
        self.receiver.deliver(Media("live", 1000, 2000, items), rig.now)
        rig.now += SKEW
        self.receiver.tick(rig.now)
        return items

    def pulls(self, name: str) -> list[Pull]:
        return [one for one in self.asked[name] if isinstance(one, Pull) and one.track == VIDEO]


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    made = Street(tmp_path, "relay", "relay", "edge")
    yield made
    close(made)


def close(made: Street) -> None:
    made.receiver.close()
    made.rig.pages.close()
    made.rig.source.writer.close()


def test_a_record_that_one_relay_has_not_is_asked_of_the_next_and_then_of_a_sibling(
    street: Street,
) -> None:
    first, second, sibling = street.names
    street.bring()
    street.lose()
    assert street.pulls(first)
    street.has_not(first)
    assert street.pulls(second)
    assert not street.pulls(sibling)
    street.has_not(second)
    assert street.pulls(sibling)
    street.answer(sibling)
    assert street.receiver.tally.repaired["edge"] >= 1
    assert street.receiver.tally.lost.total() == 0


def test_when_all_have_said_that_it_is_gone_it_is_lost_at_once(street: Street) -> None:
    street.bring()
    street.lose()
    for name in street.names:
        street.has_not(name)
    assert street.receiver.tally.lost["gone"] >= 1


def test_a_sibling_is_asked_when_half_of_the_time_is_over(street: Street) -> None:
    sibling = street.names[2]
    street.bring()
    street.lose()
    for _ in range(30):
        street.rig.now += 50_000
        street.receiver.tick(street.rig.now)
    assert not street.pulls(sibling)
    for _ in range(60):
        street.rig.now += 50_000
        street.receiver.tick(street.rig.now)
        street.answer(sibling)
    assert street.receiver.tally.lost.total() == 0
    assert street.receiver.tally.repaired["edge"] >= 1


def test_what_one_path_has_lost_the_other_one_may_bring(street: Street) -> None:
    street.bring()
    items = street.rig.source.next(street.rig.now)
    lost = [
        item._replace(
            record=item.record._replace(size=0, crc32=0, flags=Flag.LOST, offset=0), payload=b""
        )
        for item in items
    ]
    assert street.receiver.deliver(Media("live", 1000, 2000, lost), street.rig.now) is False
    assert street.receiver.deliver(Media("live", 1000, 2000, items), street.rig.now) is True
    assert street.receiver.tally.lost.total() == 0
    street.rig.assert_equal()


def test_a_single_path_s_loss_is_believed(tmp_path: Path) -> None:
    made = Street(tmp_path, "relay")
    made.bring()
    (item,) = [one for one in made.rig.source.next(made.rig.now) if one.track == VIDEO]
    lost = item.record._replace(size=0, crc32=0, flags=Flag.LOST, offset=0)
    media = Media("live", 1000, 2000, [Item(VIDEO, lost, b"")])
    assert made.receiver.deliver(media, made.rig.now) is True
    assert made.receiver.tally.lost["upstream"] == 1
    close(made)


def test_paths_of_different_terms_do_not_flap(street: Street) -> None:
    street.bring()
    newer = replace(street.rig.known, term=3000)
    street.receiver.deliver(CatalogChange("live", newer), street.rig.now)
    for _ in range(20):
        items = street.rig.source.next(street.rig.now)
        assert street.receiver.deliver(Media("live", 1000, 3000, items), street.rig.now)
        assert not street.receiver.deliver(Media("live", 1000, 2000, items), street.rig.now)
        street.rig.now += 40_000
    assert street.receiver.term == 3000
    assert street.receiver.tally.dropped["restart"] == 0
    street.rig.assert_equal()


def test_a_catalog_is_passed_on_once(street: Street) -> None:
    newer = CatalogChange("live", street.rig.known.evolve(target_duration=2))
    assert street.receiver.deliver(newer, street.rig.now) is True
    assert street.receiver.deliver(newer, street.rig.now) is False
    old = CatalogChange("live", street.rig.known)
    assert street.receiver.deliver(old, street.rig.now) is False


def test_a_relay_that_lags_takes_nothing_away(street: Street) -> None:
    for _ in range(30):
        street.bring()
    held = street.rig.held(VIDEO)
    street.receiver.connected(street.rig.now)
    join = next(one for one in reversed(street.asked[street.names[0]]) if isinstance(one, Join))
    behind = {
        track: Position(place.oldest, place.gop, max(place.gop, place.head - 3))
        for track, place in positions(street.rig.pages, street.rig.known).items()
    }
    street.receiver.deliver(Joined(join.id, "live", street.rig.known, behind), street.rig.now)
    assert street.rig.held(VIDEO) == held
    assert street.receiver.tally.dropped["restart"] == 0


def test_numbers_that_are_used_again_after_a_takeover_are_seen_by_their_content(
    street: Street, tmp_path: Path
) -> None:
    for _ in range(30):
        street.bring()
    newer = replace(street.rig.known, term=3000)
    other = Source(tmp_path / "other", newer, seed=2)  # the same numbers, other frames
    same = street.rig.source
    street.receiver.deliver(CatalogChange("live", newer), street.rig.now)
    reader = same.writer.reader()
    track = reader.track(VIDEO)
    again = Item(VIDEO, track.record(20), track.payload(track.record(20), verify=True))
    street.receiver.deliver(Media("live", 1000, 3000, [again]), street.rig.now)
    assert street.receiver.tally.dropped["restart"] == 0, "the same frame under the same number"
    for _ in range(25):
        items = other.next(street.rig.now)
    street.receiver.deliver(Media("live", 1000, 3000, items), street.rig.now)
    assert street.receiver.tally.dropped["restart"] == 1
    reader.close()
    other.writer.close()


def test_without_a_path_all_siblings_are_asked_before_it_is_given_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.source.next(rig.now)
    asked: list[tuple[str, Control]] = []
    siblings = []
    for name in ("a", "b", "c"):

        def ask(message: Control, name: str = name) -> bool:
            asked.append((name, message))
            return True

        siblings.append(Asked(ask, "edge", name))
    rig.receiver.sources.use([], siblings)
    for _ in range(2):
        rig.receiver.tick(rig.now)
        _, join = asked[-1]
        assert isinstance(join, Join)
        rig.receiver.deliver(Absent(join.id, "live"), rig.now)
        assert rig.receiver.state == "joining"
    rig.receiver.tick(rig.now)
    assert [name for name, _ in asked] == ["a", "b", "c"]
    _, join = asked[-1]
    assert isinstance(join, Join)
    places = positions(rig.pages, rig.known)
    rig.receiver.deliver(Joined(join.id, "live", rig.known, places), rig.now)
    pulls = [message for _, message in asked if isinstance(message, Pull)]
    assert pulls
    rig.receiver.close()
    rig.pages.close()
    rig.source.writer.close()
