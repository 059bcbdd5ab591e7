"""Documents that stay in step with the code."""

import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest

from common.runtime import cli, limits, manual
from common.runtime.config import LogSettings, NodeSettings, StreamSettings
from common.runtime.loader import ROLES
from tests.arch.sources import ROOT, defined

PLACE = re.compile(r"`([a-z0-9_/]+\.py):([A-Za-z_.]+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_every_hop_of_a_frame_exists() -> None:
    hops = PLACE.findall(text("ARCHITECTURE.md"))
    assert len(hops) >= 10
    missing = [f"{file}:{what}" for file, what in hops if what not in defined(ROOT / file)]
    assert missing == []


def test_a_frame_travels_at_most_seven_hops() -> None:
    rows = re.findall(r"^\| (\d) \|", text("ARCHITECTURE.md"), re.MULTILINE)
    assert rows == [str(number) for number in range(1, len(rows) + 1)]
    assert len(rows) <= 7


def test_the_architecture_stays_readable() -> None:
    assert len(text("ARCHITECTURE.md").splitlines()) <= 250


def test_every_link_between_documents_leads_somewhere() -> None:
    dead = [
        f"{path.name}: {target}"
        for path in DOCUMENTS
        for target in LINK.findall(path.read_text())
        if not (path.parent / target).exists()
    ]
    assert dead == []


def test_every_make_target_that_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", text("Makefile"), re.MULTILINE))
    named = {t for path in DOCUMENTS for t in re.findall(r"`?make ([a-z0-9]+)", path.read_text())}
    code = set(re.findall(r"^make ([a-z0-9]+)", text("README.md"), re.MULTILINE))
    assert {"demo", "test"} <= code
    known_words = {"the", "an", "these", "it"}
    assert named - targets - known_words - {"and"} == set()


def packages() -> set[str]:
    found = set()
    project = tomllib.loads(text("pyproject.toml"))["project"]
    lines = list(project["dependencies"])
    for name in ("bootstrap", "dev", "node"):
        lines += text(f"requirements/{name}.in").splitlines()
    for line in lines:
        if not line.startswith("-"):
            found.add(re.split(r"[=<>]", line)[0].strip())
    tree = json.loads(text("package.json"))
    return found | set(tree["dependencies"]) | set(tree["devDependencies"])


def test_every_dependency_has_a_reason_and_no_other_has() -> None:
    listed = set(
        re.findall(r"^\| ([A-Za-z0-9._-]+) \|", text("docs/dependencies.md"), re.MULTILINE)
    )
    programs = set(re.findall(r"=([a-z][a-z0-9.-]+)", text("deploy/peers.sh"))) - {"no", "yes"}
    programs = {p for p in programs if p in listed or "gstreamer" in p}
    assert listed - {"Package"} - programs == packages()


@pytest.mark.parametrize("path", sorted((ROOT / "docs/adr").glob("*.md")), ids=lambda p: p.stem)
def test_a_decision_is_one_page_with_its_four_parts(path: Path) -> None:
    words = path.read_text()
    for part in ("**Status**:", "## Context", "## Decision", "## Consequences"):
        assert part in words
    assert words.startswith(f"# {int(path.stem[:4])}. ")
    assert len(words.splitlines()) <= 60


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [int(path.name[:4]) for path in (ROOT / "docs/adr").glob("*.md")]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("configuration", manual.configuration),
        ("metrics", manual.measurements),
        ("limits", limits.document),
    ],
    ids=["configuration", "metrics", "limits"],
)
def test_the_manual_is_up_to_date(name: str, made: object) -> None:
    assert callable(made)
    assert text(f"docs/{name}.md") == made(), "run `make docs`"


def test_the_published_schema_is_up_to_date() -> None:
    assert text("docs/configuration.schema.json") == manual.schema(), "run `make docs`"


def test_every_setting_has_its_word_in_the_manual() -> None:
    schemas = [NodeSettings, LogSettings, StreamSettings]
    for role in ROLES:
        config = importlib.import_module(f"{role}.config").Config
        schemas.append(config.__annotations__[role])
    silent = [f"{s.__name__}.{field}" for s in schemas for field in manual.undocumented(s)]
    assert silent == []


def test_the_settings_of_the_readme_are_good(tmp_path: Path) -> None:
    [block] = re.findall(r"```toml\n(.*?)```", text("README.md"), re.DOTALL)
    file = tmp_path / "node.toml"
    file.write_text(block)
    assert cli.main(["config", "check", "--config", str(file)]) == 0
    for option in re.findall(r"`--set ([a-z_.]+=\S+)`", text("README.md")):
        assert cli.main(["config", "check", "--set", option]) == 0


def test_the_commands_of_the_readme_exist() -> None:
    words = re.findall(r"`headwater ([a-z][^`]*)`", text("README.md"))
    options = re.findall(r'`(--[a-z][^`]*)`|ARGS="([^"]*)"', text("README.md"))
    demos = [f"demo {first or second}" for first, second in options if "--set" not in first]
    assert len(words) >= 5
    assert len(demos) >= 4
    for line in words + [one for one in demos if "--config" not in one]:
        cli.parser().parse_args(line.split())


def test_the_changelog_has_a_section_for_what_is_new() -> None:
    assert "\n## Unreleased\n" in text("CHANGELOG.md")


def test_the_licence_is_there_in_full() -> None:
    assert "Apache License" in text("LICENSE")
    assert len(text("LICENSE").splitlines()) > 190
    assert "GPL" in text("README.md")
