"""The documentation as a site, and the commands in it."""

import importlib
import re
import shlex
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.runtime import cli
from docs import site
from tests.arch.sources import ROOT

DOCS = ROOT / "docs"
GUIDES = [p for p in sorted(DOCS.rglob("*.md")) if p.parent.name in ("tutorials", "how-to")]

SERVES = ("bench", "demo", "solo", "origin", "edge", "relay", "balancer", "videogen")
TELLS = ("config check", "config show", "config explain", "config schema", "size", "doctor")
"""Commands that need nothing running."""


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name == "id" and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    assert site.build(out) == len(list(DOCS.rglob("*.md")))
    return out


def test_every_link_and_anchor_of_the_site_leads_somewhere(built: Path) -> None:
    pages = {path: Page(path) for path in built.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            place, _, part = link.partition("#")
            if ":" in link or "../" * (len(path.relative_to(built).parts)) in link:
                continue  # elsewhere, or a file of the repository that is no page
            target = (path.parent / place).resolve() if place else path
            if not target.exists() or (part and part not in pages[target].anchors):
                dead.append(f"{path.name}: {link}")
    assert dead == []


def test_every_page_is_in_the_contents(built: Path) -> None:
    listed = {(built / link).resolve() for link in Page(built / "index.html").links}
    assert {path.resolve() for path in built.rglob("*.html")} <= listed


def test_text_never_becomes_markup() -> None:
    page = site.render("# A `b`\n\n<script>alert(1)</script> [x](y.md#z)\n", ["y.md"], "x.md")
    assert "<script>" not in page
    assert '<h1 id="a-b">' in page
    assert 'href="y.html#z"' in page


def commands(path: Path) -> list[list[str]]:
    return [
        shlex.split(line, comments=True)[1:]
        for block in re.findall(r"```(?:sh|text)?\n(.*?)```", path.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("headwater ")
    ]


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: p.stem)
def test_every_command_of_a_guide_exists(path: Path) -> None:
    for words in commands(path):
        if words[0] in cli.ELSEWHERE and words[0] != "videogen":
            importlib.import_module(cli.ELSEWHERE[words[0]][0]).parser().parse_args(words[1:])
        elif words[0] != "videogen":
            cli.parser().parse_args(words)


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: p.stem)
def test_commands_that_need_no_cluster_do_what_the_guide_says(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / name))
    blocks = re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL)
    (tmp_path / "node.toml").write_text(blocks[0] if blocks else "[streams.live]\nwindow = 60\n")
    for words in commands(path):
        if " ".join(words).startswith(TELLS):
            code = cli.main(words)
            told = capsys.readouterr()
            # A doctor may find that a port is taken here; all others have to succeed.
            assert code == 0 or (words[0] == "doctor" and code == 1), told.err
            assert told.out


@pytest.mark.parametrize("path", GUIDES, ids=lambda p: p.stem)
def test_the_settings_of_a_guide_are_good(
    path: Path, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL):
        file = tmp_path / "node.toml"
        file.write_text(re.sub(r'"/etc/[^"]+\.pem"', f'"{certificate}"', block))
        # Excerpts leave the encryption of the bus out, which some options need.
        words = ["config", "check", "--config", str(file), "--set", "node.bus_security=curve"]
        assert cli.main(words) == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for the certificates that guides name, with its key."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    out = ["-nodes", "-subj", "/CN=edge", "-keyout", "-", "-out", "-"]
    done = subprocess.run([*made, *out], check=True, capture_output=True)
    file.write_bytes(done.stdout)
    return file


def test_every_command_that_serves_is_known() -> None:
    assert set(SERVES) <= set(cli.ROLES) | set(cli.ELSEWHERE) | {"demo", "solo"}
