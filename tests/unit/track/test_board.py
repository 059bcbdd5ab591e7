"""The counter board."""

from pathlib import Path

import pytest

from common.errors import StoreFull
from common.track import board as module
from common.track.board import Board
from common.track.store import Limits, StreamWriter
from tests.unit.track.build import EPOCH, STREAM, catalog, payload, video


def test_a_reader_sees_which_streams_moved(tmp_path: Path) -> None:
    writer = Board.create(tmp_path)
    slots = [writer.claim(name, 1) for name in ("a", "b", "c")]
    reader = Board.open(tmp_path)
    before = reader.snapshot()
    writer.bump(slots[1])
    writer.bump(slots[1])
    writer.bump_catalog(slots[2])
    after = reader.snapshot()
    assert after.moved(before) == [slots[1]]
    assert after.catalogs_moved(before) == [slots[2]]
    assert after.generation == before.generation


def test_a_stream_that_is_added_changes_the_generation_and_counts_as_moved(tmp_path: Path) -> None:
    board = Board.create(tmp_path)
    board.claim("a", 1)
    before = board.snapshot()
    slot = board.claim("b", 1)
    board.bump(slot)
    after = board.snapshot()
    assert after.generation != before.generation
    assert after.moved(before) == [slot]


def test_a_slot_stays_with_its_stream_over_a_restart(tmp_path: Path) -> None:
    first = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    slot = first.slot
    first.close()
    board = Board.create(tmp_path)
    assert board.slot_of(STREAM, EPOCH) == slot
    again = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits(), board=board)
    assert again.slot == slot
    again.close()


def test_the_slots_of_folders_that_are_gone_are_freed(tmp_path: Path) -> None:
    board = Board.create(tmp_path)
    board.claim("gone", 1)
    board.close()
    again = Board.create(tmp_path)
    assert again.slot_of("gone", 1) is None
    assert again.claim("new", 1) == 0


def test_a_removed_stream_frees_its_slot_and_is_seen_to_move(tmp_path: Path) -> None:
    writer = StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    board = Board.open(tmp_path)
    before = board.snapshot()
    slot = writer.slot
    writer.remove()
    after = board.snapshot()
    assert after.moved(before) == [slot]
    assert after.generation != before.generation
    assert board.slot_of(STREAM, EPOCH) is None


def test_appends_and_catalogs_move_their_counters(writer: StreamWriter, tmp_path: Path) -> None:
    board = Board.open(tmp_path)
    before = board.snapshot()
    writer.append(1, video(0), payload(0))
    assert board.snapshot().moved(before) == [writer.slot]
    assert board.snapshot().catalogs_moved(before) == []
    writer.set_catalog(catalog(version=2))
    assert board.snapshot().catalogs_moved(before) == [writer.slot]


def test_a_full_board_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board.create(tmp_path)
    board._columns[2] = 1
    with pytest.raises(StoreFull, match=str(module.SLOTS)):
        board.claim("a", 1)
    with pytest.raises(StoreFull):
        StreamWriter.open(tmp_path, STREAM, EPOCH, Limits(), board=board)


def test_a_damaged_board_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "board").write_bytes(b"\xff" * 5000)
    board = Board.create(tmp_path)
    assert board.claim("a", 1) == 0
    assert board.snapshot().data.tolist() == [0]
