"""Settings that change while nodes run and viewers watch."""

import contextlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.runtime import cli, ready, reload
from common.runtime.options import options
from tests.harness.nodes import Node, Site, site, start
from tests.unit.runtime.test_reload import changed

pytestmark = pytest.mark.e2e


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        origin = made.add("origin", "o1", stream={"source": '"videogen://"'})
        start(origin, made.add("edge", "e1", {"viewers": "1"}))
        yield made


def wait_until(check: Callable[[], bool], node: Node) -> None:
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline, node.log.read_text()[-3000:]
        time.sleep(0.02)


def generation(node: Node) -> int:
    found = ready.read(node.folder / "run", node.name)
    return found.generation if found is not None else -1


def running(node: Node, endpoint: str) -> dict[str, Any]:
    url = f"http://{node.endpoints[endpoint]}/api/v1/config"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)["settings"]
        return found


def headwater(node: Node, *words: str) -> int:
    return cli.main([*words, "--config", f"{node.folder}/{node.name}.toml"])


class Audience:
    """One progressive viewer, and a playlist again and again."""

    def __init__(self, edge: Node) -> None:
        self.bytes = 0
        self.answers = 0
        self.failures: list[str] = []
        self._edge = edge
        self._end = threading.Event()
        self._threads = [threading.Thread(target=job) for job in (self._watch, self._ask)]

    def __enter__(self) -> "Audience":
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.bytes > 0 and self.answers > 0, self._edge)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(20)

    def _watch(self) -> None:
        with urllib.request.urlopen(f"{self._edge.url}/live.mp4", timeout=10) as stream:
            while not self._end.is_set():
                piece = stream.read1(65536)
                self.bytes += len(piece)
                if not piece:
                    self.failures.append("the stream ended")
                    return

    def _ask(self) -> None:
        while not self._end.wait(0.02):
            try:
                with urllib.request.urlopen(
                    f"{self._edge.url}/cmaf/live/index.m3u8", timeout=10
                ) as answer:
                    answer.read()
                    self.answers += 1
            except (OSError, urllib.error.URLError) as error:
                self.failures.append(str(error))


def test_settings_change_at_once_or_in_place_or_not_at_all(
    cluster: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    origin, edge = cluster.nodes["o1"], cluster.nodes["e1"]
    files = {node.name: node.folder / f"{node.name}.toml" for node in (origin, edge)}
    with Audience(edge) as audience:
        text = files["o1"].read_text()
        files["o1"].write_text(text.replace("[streams.live]", '[streams.live]\nwindow = "90s"'))
        assert headwater(origin, "config", "diff", "o1") == 1
        assert 'streams.live.window = "60s" -> "90s" (at once)' in capsys.readouterr().out
        assert headwater(origin, "reload", "o1") == 0
        assert generation(origin) == 0
        assert running(origin, "http")["streams"]["live"]["window"] == "90s"
        assert running(origin, "http")["streams"]["live"]["key"] == "(hidden)"

        before = files["e1"].read_text()
        changed_both = before.replace('name = "e1"', 'name = "e2"').replace(
            "[edge]", "[edge]\nidle = 20"
        )
        files["e1"].write_text(changed_both)
        assert headwater(edge, "reload", "e1") == 1
        assert "that is another node" in capsys.readouterr().err
        assert running(edge, "admin")["edge"]["idle"] == "15s"

        files["e1"].write_text(before.replace("[edge]", "[edge]\nidle = 20"))
        assert headwater(edge, "reload", "e1") == 0
        assert "it is back" in capsys.readouterr().out
        assert generation(edge) == 1
        assert running(edge, "admin")["edge"]["idle"] == "20s"
        mark = audience.bytes
        wait_until(lambda: audience.bytes > mark, edge)
    assert audience.failures == []


def test_a_watched_file_is_taken_up_by_itself(tmp_path: Path) -> None:
    with site(tmp_path) as made:
        node = made.add("balancer", "b1")
        file = tmp_path / "b1.toml"
        file.write_text(file.read_text().replace("[node]", "[node]\nwatch = true"))
        node.start()
        new = tmp_path / "new.toml"
        new.write_text(file.read_text().replace("[balancer]", "[balancer]\nsessions = 77"))
        os.replace(new, file)
        wait_until(lambda: generation(node) == 1, node)
        assert running(node, "http")["balancer"]["sessions"] == 77


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_each_single_option_of_an_edge_is_taken_up_or_refused_and_no_viewer_is_cut(
    cluster: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    edge = cluster.nodes["e1"]
    file = edge.folder / "e1.toml"
    before = file.read_text()
    left = {"node.consul", "streams.NAME.nodes", "node.bus_security", "edge.outputs"}
    told: dict[str, str] = {}
    file.write_text(before.replace("[edge]", "[edge]\nretire = 1800"))
    assert headwater(edge, "reload", "e1") == 0
    before = file.read_text()
    with Audience(edge) as audience:
        for option in options("edge"):
            if any(option.key.startswith(one) for one in left):
                continue
            value = changed(option)
            if option.key in ("node.keys", "edge.hls_js"):
                value = f"{edge.folder}/{option.key}"
            if option.key == "edge.retire":  # with less, our viewer would rightly be cut
                value = 1900
            name = option.key.replace("NAME", "live")
            rows = [row for row in before.splitlines() if row.split(" ")[0] != name.split(".")[-1]]
            section = f"[{name.rpartition('.')[0]}]"
            kept = rows if section in rows else [*rows, section]
            place = kept.index(section) + 1
            row = f"{name.rpartition('.')[2]} = {json.dumps(value)}"
            file.write_text("\n".join([*kept[:place], row, *kept[place:]]) + "\n")
            code = headwater(edge, "reload", "e1", "--set", f"node.run={edge.folder}/run")
            said = capsys.readouterr()
            told[option.key] = "taken" if code == 0 else said.err.strip()
            if code:
                # HTTPS takes more than one option.
                known = option.key in reload.REFUSED or option.key.startswith("edge.tls.")
                assert known or "hls" in said.err, told[option.key]
                assert told[option.key], option.key
            file.write_text(before)
            with contextlib.suppress(SystemExit):
                assert headwater(edge, "reload", "e1") == 0
            capsys.readouterr()
            assert audience.failures == [], (option.key, audience.failures)
    assert audience.answers > 100
    print(json.dumps(told, indent=1))
