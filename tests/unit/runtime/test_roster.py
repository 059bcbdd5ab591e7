"""Whose keys are good: what the registry lists, or listed last."""

import asyncio

from common.errors import NodeUnavailable
from common.runtime.keys import Keys
from common.runtime.registry import NodeEntry
from common.runtime.roster import FRESH, REMOVED_AFTER, Roster


class Listing:
    """Stands for the registry."""

    def __init__(self, *names: str) -> None:
        self.keys = {name: Keys.new().public for name in names}
        self.broken = False
        self.asked = 0
        self.now = 0.0
        self.gone: list[str] = []
        self.roster = Roster(self.members, "me", lambda: self.now)
        self.roster.watch(self.gone.append)

    async def members(self) -> list[NodeEntry]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.broken:
            raise NodeUnavailable("away")
        return [NodeEntry(name, "edge", {}, key=key) for name, key in self.keys.items()]

    async def look(self, after: float = 1.0) -> None:
        self.now += after
        await self.roster.look()


async def test_a_listed_key_is_good_and_others_are_not() -> None:
    listing = Listing("me", "edge")
    await listing.look()
    entry = listing.roster.by_key(listing.keys["edge"])
    assert entry is not None
    assert entry is listing.roster.node("edge")
    assert entry.name == "edge"
    assert listing.roster.by_key(Keys.new().public) is None


async def test_a_removed_node_is_forgotten_within_seconds_and_told_of() -> None:
    listing = Listing("me", "edge")
    await listing.look()
    key = listing.keys.pop("edge")
    await listing.look()
    assert listing.roster.by_key(key)
    assert listing.gone == []
    await listing.look(REMOVED_AFTER)
    assert listing.roster.by_key(key) is None
    assert listing.gone == ["edge"]


async def test_a_node_that_is_missing_for_a_moment_stays() -> None:
    listing = Listing("me", "edge")
    await listing.look()
    key = listing.keys.pop("edge")
    for _ in range(3):
        await listing.look(REMOVED_AFTER - 1)
        listing.keys["edge"] = key
        await listing.look()
        del listing.keys["edge"]
        await listing.look()
    assert listing.roster.by_key(key)
    assert listing.gone == []


async def test_the_last_known_keys_hold_while_the_registry_is_away_or_has_lost_all() -> None:
    listing = Listing("me", "edge")
    await listing.look()
    keys, listing.broken = listing.keys.copy(), True
    await listing.look(1000)
    listing.broken, listing.keys = False, {}  # it was built anew: we are not in it either
    for _ in range(5):
        await listing.look(REMOVED_AFTER)
    assert all(map(listing.roster.by_key, keys.values()))
    assert listing.gone == []


async def test_a_new_key_of_a_node_ends_the_old_one_at_once() -> None:
    listing = Listing("me", "edge")
    await listing.look()
    old = listing.keys["edge"]
    listing.keys["edge"] = Keys.new().public
    await listing.look()
    assert listing.roster.by_key(old) is None
    assert listing.roster.by_key(listing.keys["edge"])
    assert listing.gone == ["edge"]


async def test_many_who_ask_at_once_cost_one_question() -> None:
    listing = Listing("me")
    await asyncio.gather(*(listing.roster.look() for _ in range(100)))
    assert listing.asked == 1
    await listing.look(FRESH / 2)
    assert listing.asked == 1
    await listing.look(FRESH)
    assert listing.asked == 2


async def test_an_entry_without_a_key_admits_nobody() -> None:
    listing = Listing("me")
    listing.keys["edge"] = ""
    await listing.look()
    assert listing.roster.by_key("") is None
    assert listing.roster.node("edge") is None
