"""What can be set: found, explained, published as a schema."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.runtime import cli
from common.runtime.options import find, json_schema, options, sources


def test_a_key_finds_its_option_also_in_a_stream_and_in_tables() -> None:
    assert find("edge.http").default == "[::]:8080"
    assert find("streams.live.window").key == "streams.NAME.window"
    assert find("streams.a.b.window").key == "streams.NAME.window"
    assert find("edge.outputs.flv.x").key == "edge.outputs"
    assert find("node.consul.token").secret


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("edge.htp", "did you mean 'edge.http'"),
        ("streams.live.windw", "did you mean 'streams.NAME.window'"),
        ("egde.http", "did you mean 'edge'"),
        ("nothing", "known here: node"),
    ],
)
def test_a_key_that_is_wrong_is_told_the_nearest(key: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(hint)):
        find(key)


def test_every_option_has_words_and_a_type() -> None:
    for option in options():
        assert option.doc, option.key
        assert not option.words.startswith("<"), option.key


def test_where_a_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[edge]\nhttp = ':1'\nadmin = ':2'\nwait = 3\n")
    environ = {"HEADWATER_EDGE__ADMIN": ":5", "HEADWATER_EDGE__WAIT": "4", "PATH": "/"}
    assert sources(file, {"edge.wait": "5"}, environ) == {
        "edge.http": f"file {file}",
        "edge.admin": "environment HEADWATER_EDGE__ADMIN",
        "edge.wait": "command line --set edge.wait",
    }


def test_explain_tells_meaning_value_and_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[streams.live]\nkey = 'abc-secret'\nwindow = '90s'\n[edge]\nwait = 3\n")
    words = ["config", "explain", "streams.live.window", "streams.live.key", "edge.wait"]
    assert cli.main([*words, "--config", str(file), "--set", "edge.wait=5"]) == 0
    told = capsys.readouterr().out
    assert f'value    "90s", from file {file}' in told
    assert 'value    "5s", from command line --set edge.wait' in told
    assert "origin, relay: at once" in told
    assert "abc-secret" not in told
    assert "How far back viewers can seek." in told


def test_explain_of_a_section_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "explain", "node.consul"]) == 0
    assert "node.consul.address" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", ["config explain", "config explain edge.htp", "config diff", "config show edgy"]
)
def test_what_cannot_be_answered_is_a_matter_of_configuration(line: str) -> None:
    assert cli.main(line.split()) == 2


def test_a_node_that_does_not_run_has_no_difference(tmp_path: Path) -> None:
    assert cli.main(["config", "diff", "nobody", "--set", f"node.run={tmp_path}"]) == 1
    assert cli.main(["reload", "nobody", "--set", f"node.run={tmp_path}"]) == 1


def test_the_schema_has_every_option_and_fits_the_readme(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json_schema()
    for option in options():
        where = schema
        for part in option.key.split("."):
            inner = where.get("properties", {})
            where = inner[part] if part in inner else where["additionalProperties"]
        assert where["description"] == option.doc
    readme = Path(__file__).parents[3] / "README.md"
    [block] = re.findall(r"```toml\n(.*?)```", readme.read_text(), re.DOTALL)
    for section, tree in tomllib.loads(block).items():
        assert section in schema["properties"]
        if section != "streams":
            assert set(tree) <= set(schema["properties"][section]["properties"])
