"""The key file of a node."""

import os
import stat
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.runtime.config import NodeSettings
from common.runtime.keys import Keys, is_key
from common.runtime.registries import node_entry


def test_a_key_is_made_once_and_kept_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "edge.key"
    keys = Keys.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert Keys.load(path) == keys
    assert is_key(keys.public)
    assert os.listdir(path.parent) == ["edge.key"]


def test_the_secret_is_in_no_text_about_the_pair(tmp_path: Path) -> None:
    keys = Keys.load(tmp_path / "key")
    assert keys.secret not in f"{keys} {keys!r}"
    assert keys.secret != keys.public


def test_a_new_pair_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    old = Keys.load(path)
    fresh = Keys.new()
    fresh.save(path)
    assert Keys.load(path) == fresh != old
    with pytest.raises(FileExistsError):
        Keys.new().save(path, replace=False)
    assert Keys.load(path) == fresh


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Keys.load(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Keys.load(path)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, b"~" * 40, b"x" * 41])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"node\.keys"):
        Keys.load(path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot use"):
        Keys.load(tmp_path / "file" / "key")


def test_the_entry_of_a_node_has_its_public_key(tmp_path: Path) -> None:
    node = NodeSettings(name="edge", keys=str(tmp_path / "key"))
    assert node_entry(node, "edge", {}).key == Keys.load(tmp_path / "key").public
