"""The seeds of the fuzzer, and what it ever found, go through their targets."""

import pytest

from tests.fuzz.targets import CORPORA, TARGETS, cut

SEEDS = sorted(path for path in CORPORA.glob("*/*") if path.is_file())


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_seeds_and_survives_them_cut_short(target: str) -> None:
    seeds = [path.read_bytes() for path in SEEDS if path.parent.name == target]
    assert seeds
    for seed in seeds:
        for stop in range(0, len(seed) + 1, max(1, len(seed) // 40)):
            TARGETS[target](seed[:stop])
        TARGETS[target](seed)


def test_no_seed_is_without_a_target() -> None:
    assert {path.parent.name for path in SEEDS} <= TARGETS.keys()


def test_pieces_are_all_that_follows_the_first_byte() -> None:
    data = bytes(range(1, 200))
    assert b"".join(cut(data)) == data[1:]
    assert cut(b"") == []
