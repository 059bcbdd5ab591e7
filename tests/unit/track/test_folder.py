"""Folder names, the lock, the sweep."""

import os
from pathlib import Path

import pytest

from common.errors import StreamBusy, StreamNotFound
from common.track.folder import State, folder_name, parse_folder_name, streams_under, sweep
from common.track.store import Limits, StreamReader, StreamWriter
from tests.unit.track.build import EPOCH, STREAM, payload, video


@pytest.mark.parametrize("name", ["a", "live+a", "a.b-c_d+E=.F"])
def test_a_folder_name_is_read_back(name: str) -> None:
    assert parse_folder_name(folder_name(name, 17)) == (name, 17)


@pytest.mark.parametrize("name", ["board", "a", "a~", "a~x", "..~1", "%2e%2e~1", "a%2Fb~1", "a~01"])
def test_other_names_are_no_streams(name: str) -> None:
    assert parse_folder_name(name) is None


def test_the_streams_of_a_root_are_listed(tmp_path: Path) -> None:
    writers = [StreamWriter.open(tmp_path, name, 5, Limits()) for name in ("b", "a+x")]
    assert streams_under(tmp_path) == StreamWriter.existing(tmp_path) == [("a+x", 5), ("b", 5)]
    assert streams_under(tmp_path / "nowhere") == []
    for writer in writers:
        writer.close()


def test_a_folder_has_one_writer(tmp_path: Path, writer: StreamWriter) -> None:
    with pytest.raises(StreamBusy):
        StreamWriter.open(tmp_path, STREAM, EPOCH, Limits())
    writer.close()
    StreamWriter.open(tmp_path, STREAM, EPOCH, Limits()).close()


def test_a_reader_of_nothing_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(StreamNotFound):
        StreamReader.open(tmp_path, "a", 1)
    folder = tmp_path / folder_name("a", 1)
    folder.mkdir()
    (folder / "state").touch()
    with pytest.raises(StreamNotFound):
        StreamReader.open(tmp_path, "a", 1)


def test_the_sweep_takes_what_is_old_and_unowned(tmp_path: Path) -> None:
    for name in ("old", "young", "owned"):
        writer = StreamWriter.open(tmp_path, name, 1, Limits())
        writer.append(1, video(0), payload(0))
        writer.close()
    owner = StreamWriter.open(tmp_path, "owned", 1, Limits())
    for name in ("old", "owned"):
        for path in (tmp_path / folder_name(name, 1)).iterdir():
            os.utime(path, (1000, 1000))
    assert sweep(tmp_path, 2000) == [("old", 1)]
    assert streams_under(tmp_path) == [("owned", 1), ("young", 1)]
    owner.close()


def test_the_lock_is_not_won_on_a_file_that_was_unlinked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s~1"
    real = os.open
    replaced: list[int] = []

    def racing(path: Path, flags: int, mode: int = 0o777) -> int:
        fd = real(path, flags, mode)
        if not replaced:
            replaced.append(fd)
            os.unlink(path)  # its last owner removes it between our open and our lock
        return fd

    monkeypatch.setattr(os, "open", racing)
    state = State.lock(folder)
    assert (folder / "state").exists()
    state.close()
