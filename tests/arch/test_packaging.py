"""What is installed and locked; our top-level names are common words that we have to own."""

import importlib.metadata
import json
import re
import tomllib

import pytest

import common
from tests.arch.sources import PACKAGES, ROOT

LOCKS = ("bootstrap", "runtime", "dev", "node")


@pytest.mark.parametrize("package", PACKAGES)
def test_we_own_our_names(package: str) -> None:
    owners = importlib.metadata.packages_distributions()
    assert set(owners.get(package, ["headwater"])) == {"headwater"}


def test_what_we_import_is_this_checkout() -> None:
    assert common.__file__ == str(ROOT / "common" / "__init__.py")
    assert re.fullmatch(r"\d+\.\d+\.\d+", common.__version__)


def test_the_wheel_holds_our_packages_alone() -> None:
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = tree["tool"]["setuptools"]["packages"]["find"]
    assert found["include"] == [f"{package}*" for package in PACKAGES]
    assert tree["project"]["scripts"] == {"headwater": "common.runtime.cli:main"}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text
    assert "--index-url" not in text
    entries = re.split(r"\n(?=[a-z])", text)[1:]
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = (ROOT / "requirements/runtime.txt").read_text()
    for requirement in project["dependencies"]:
        word = re.split(r"[=<>]", requirement)[0].replace("_", "-")
        assert re.search(rf"^{word}==", runtime, re.MULTILINE), word


def test_the_npm_lock_has_integrity_and_no_address() -> None:
    text = (ROOT / "package-lock.json").read_text()
    assert "resolved" not in text
    packages = json.loads(text)["packages"]
    assert [name for name, entry in packages.items() if name and "integrity" not in entry] == []
    assert "omit-lockfile-registry-resolved=true" in (ROOT / ".npmrc").read_text()
