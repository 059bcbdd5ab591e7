"""Protocols found in a folder."""

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from common.runtime.plugins import discover


class Base(ABC):
    """What the protocols of this test are."""

    @abstractmethod
    def name(self) -> str:
        """Say something."""


GOOD = f"""
from {__name__} import Base

class Half(Base):
    pass

class Whole(Half):
    def name(self):
        return "good"
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / "pluggable"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "good.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("pluggable")
    for name in [name for name in sys.modules if name.startswith("pluggable")]:
        del sys.modules[name]


def test_a_file_is_a_protocol_under_its_name(package: ModuleType) -> None:
    found = discover(package, Base)
    assert [(name, cls.__name__) for name, cls in found.items()] == [("good", "Whole")]


def test_a_class_imported_from_elsewhere_is_not_found_twice(
    package: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "pluggable" / "user.py").write_text("from pluggable.good import Whole\n")
    assert list(discover(package, Base)) == ["good"]


def test_a_missing_library_leaves_out_that_protocol_alone(
    package: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "pluggable" / "bad.py").write_text("import no_such_library\n")
    assert list(discover(package, Base)) == ["good"]
    assert caplog.messages == ["protocol left out"]


def test_a_missing_module_of_our_own_is_an_error(package: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pluggable" / "bad.py").write_text("import common.no_such_module\n")
    with pytest.raises(ModuleNotFoundError):
        discover(package, Base)
