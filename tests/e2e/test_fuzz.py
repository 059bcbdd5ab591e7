"""A short run of every fuzzer; ``make fuzz`` is the long one."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.e2e

SECONDS = 2
PLANTED = """
import atheris
from tests.fuzz import targets
from tests.fuzz.__main__ import main

@atheris.instrument_func
def planted(data):
    if data[:2] == b"HW":
        raise IndexError(data)

targets.TARGETS["amf0"] = planted
main("amf0", "60")
"""


def fuzz(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def finds_nothing(folder: Path) -> None:
    folder.mkdir()
    done = fuzz(folder, "-m", "tests.fuzz", folder.name, str(SECONDS))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert (done.returncode, found) == (0, {}), done.stderr[-4000:]
    assert "DONE" in done.stderr


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(finds_nothing, [tmp_path / target for target in TARGETS]))


def test_the_fuzzer_finds_an_error_that_was_planted(tmp_path: Path) -> None:
    done = fuzz(tmp_path, "-c", PLANTED)
    assert done.returncode == 77, done.stderr[-2000:]
    assert [path.read_bytes()[:2] for path in tmp_path.glob("crash-*")] == [b"HW"]
