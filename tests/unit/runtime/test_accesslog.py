"""The access log: its format, rotation, limits."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.runtime import accesslog
from common.runtime.accesslog import AccessLog


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(path: Path, clock: Clock) -> AccessLog:
    return AccessLog(str(path), "edge-1", clock, lambda: 1_764_309_600.5)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_when_where_and_what(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "access.log"
    made(path, clock).write({"session": 12, "agent": "a\nb", "bytes": 5})
    assert lines(path) == [
        {
            "time": "2025-11-28T06:00:00.500Z",
            "node": "edge-1",
            "session": 12,
            "agent": "a\nb",
            "bytes": 5,
        }
    ]
    assert path.stat().st_mode & 0o007 == 0


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path, clock: Clock) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    log = made(path, clock)
    log.write({"n": 1})
    path.rename(old)
    log.write({"n": 2})
    clock.now += accesslog.LOOK
    log.write({"n": 3})
    path.unlink()
    clock.now += accesslog.LOOK
    log.write({"n": 4})
    assert [one["n"] for one in lines(old)] == [1, 2]
    assert [one["n"] for one in lines(path)] == [4]
    log.close()


def test_several_processes_share_a_file(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "access.log"
    one, two = made(path, clock), made(path, clock)
    for n in range(4):
        (one if n % 2 else two).write({"n": n})
    assert [entry["n"] for entry in lines(path)] == [0, 1, 2, 3]


def test_a_flood_is_cut_and_counted(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "access.log"
    log = made(path, clock)
    for n in range(accesslog.MOST + 7):
        log.write({"n": n})
    assert len(lines(path)) == accesslog.MOST
    clock.now += 1
    log.write({"n": -1})
    assert lines(path)[-1]["left_out"] == 7
    log.write({"n": -2})
    assert "left_out" not in lines(path)[-1]


def test_a_file_that_cannot_be_written_harms_nobody(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "no" / "access.log"
    log = made(path, clock)
    log.write({"n": 1})
    path.parent.mkdir()
    clock.now += accesslog.LOOK
    log.write({"n": 2})
    assert [(one["n"], one["left_out"]) for one in lines(path)] == [(2, 1)]


def test_what_looks_like_a_token_is_hidden(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "access.log"
    made(path, clock).write({"agent": "player token=CANARY /~CANARY/live.mp4"})
    assert "CANARY" not in path.read_text()
