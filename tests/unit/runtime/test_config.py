"""Settings from file, environment and command line."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.errors import ConfigError
from common.runtime import config
from common.runtime.config import Duration, Settings, Size
from common.runtime.loader import as_toml


class Kitchen(Settings, frozen=True):
    """A section with every type of setting."""

    http: str = "[::]:8080"
    workers: int = 2
    ratio: float = 0.5
    strict: bool = False
    linger: Duration = Duration(30)
    cache: Size = Size(1024)
    tags: list[str] = msgspec.field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    limit: int | None = None


class Config(Settings, frozen=True):
    """What a role reads."""

    node: config.NodeSettings = config.NodeSettings()
    edge: Kitchen = Kitchen()
    streams: dict[str, config.StreamSettings] = msgspec.field(default_factory=dict)


def write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[edge]\nworkers = 1\nratio = 0.1\nhttp = ':1'\n")
    environ = {"HEADWATER_EDGE__WORKERS": "3", "HEADWATER_EDGE__RATIO": "0.3", "PATH": "/bin"}
    loaded = config.load(Config, path, {"edge.workers": "4"}, environ)
    assert (loaded.edge.http, loaded.edge.ratio, loaded.edge.workers) == (":1", 0.3, 4)


def test_text_is_converted_by_the_type_of_the_setting() -> None:
    pairs = {
        "edge.strict": "true",
        "edge.linger": "500ms",
        "edge.cache": "64MiB",
        "edge.tags": "eu, hd",
        "edge.limit": "7",
        "edge.http": "8080",
        "edge.outputs.flv.depth": "3",
    }
    edge = config.load(Config, None, pairs).edge
    assert (edge.strict, edge.linger, edge.cache, edge.limit) == (True, 0.5, 64 * 2**20, 7)
    assert (edge.tags, edge.http, edge.outputs) == (["eu", "hd"], "8080", {"flv": {"depth": "3"}})


def test_stream_names_may_hold_dots(tmp_path: Path) -> None:
    path = write(tmp_path, '[streams."my.show"]\nkey = "secret"\n')
    streams = config.load(Config, path, {"streams.my.show.window": "2m"}).streams
    assert streams["my.show"].key == "secret"
    assert streams["my.show"].window == Duration(120)


def test_sections_of_other_roles_are_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, "[origin]\nanything = 1\n[balancer]\n[edge]\nworkers = 9\n")
    loaded = config.load(Config, path, {"log.level": "debug"}, {"HEADWATER_ORIGIN__X": "1"})
    assert loaded.edge.workers == 9


def test_variables_of_other_programs_are_ignored() -> None:
    environ = {"HEADWATER_HOME": "/x", "HEADWATER_KITCHEN__SINK": "1", "EDGE__WORKERS": "5"}
    assert config.load(Config, None, {}, environ) == config.load(Config, None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[edge]\nworker = 1", "edge.worker: unknown setting; did you mean 'workers'?"),
        ("[egde]\nworkers = 1", "egde: unknown section; did you mean 'edge'?"),
        ("[edge]\nzzz = 1", "edge.zzz: unknown setting; known here: http, workers"),
        ("[edge]\nworkers = '1'", "edge.workers: expected a whole number, got text"),
        ("[edge]\nworkers = true", "edge.workers: expected a whole number, got true or false"),
        ("[edge]\nlinger = 'soon'", "edge.linger: 'soon' is not a duration"),
        ("[edge]\ncache = -1", "edge.cache: -1 is not a size"),
        ("[streams.a.b]\nkey = 1", "streams.a.b: unknown setting"),
        ("[streams.a]\nkey = 1", "streams.a.key: expected text, got a whole number"),
        ("[streams.a]\non_conflict = 'fight'", "streams.a.on_conflict: Invalid enum value 'fight'"),
        ("edge = 1", "edge: expected a section, got a whole number"),
        ("[edge", "node.toml: Expected"),
        ("[edge]\ntags = [1]", "edge.tags"),
    ],
)
def test_a_wrong_file_is_refused_with_the_path_of_the_setting(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load(Config, write(tmp_path, text))
    assert complaint in str(raised.value)


@pytest.mark.parametrize(
    ("pair", "complaint"),
    [
        (("edge.worker", "1"), "edge.worker: unknown setting; did you mean 'workers'?"),
        (("edge.workers", "many"), "edge.workers: expected a whole number, got text ('many')"),
        (("egde.workers", "1"), "egde.workers: unknown section"),
        (("edge.http.port", "1"), "edge.http"),
        (("edge.linger", "fast"), "'fast' is not a duration"),
        (("streams.a.windo", "1"), "did you mean 'window'?"),
    ],
)
def test_a_wrong_override_is_refused(pair: tuple[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load(Config, None, dict([pair]))
    assert complaint in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        config.load(Config, tmp_path / "none.toml")


def test_a_missing_setting_is_named() -> None:
    class Strict(Settings, frozen=True):
        key: str

    with pytest.raises(ConfigError, match=r"^inputs\.x\.key: has to be set$"):
        config.build(Strict, {}, "inputs.x")


def test_a_node_is_called_after_its_role_and_keeps_its_files_apart() -> None:
    node = config.load(Config, None).node
    assert (node.name, node.pages) == ("edge", "/dev/shm/headwater-edge")
    node = config.load(Config, None, {"node.name": "edge7"}).node
    assert node.pages == "/dev/shm/headwater-edge7"


def test_folders_of_the_service_manager_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/hw")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/hw:/other")
    node = config.NodeSettings()
    assert (node.run, node.registry) == ("/run/hw", "/var/lib/hw/registry")


def test_settings_that_are_shown_can_be_loaded_again(tmp_path: Path) -> None:
    pairs = {"streams.live.key": 'a"b', "streams.my.show.window": "1500ms", "edge.cache": "3MiB"}
    loaded = config.load(Config, None, pairs)
    path = write(tmp_path, as_toml(config.dump(loaded)))
    assert config.load(Config, path) == loaded


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2), ("2s", 2), ("500ms", 0.5), ("1.5m", 90), (3, 3), (0.25, 0.25)]
)
def test_durations_are_seconds_or_carry_a_unit(text: object, seconds: float) -> None:
    assert Duration.parse(text) == seconds
    assert Duration.parse(str(Duration.parse(text))) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1w", "nan", "1 2", -1, True, None, float("nan")])
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "size"), [("64KiB", 65536), ("2GB", 2 * 10**9), ("1.5MiB", 1572864), (7, 7), ("0", 0)]
)
def test_sizes_are_bytes_or_carry_a_unit(text: object, size: int) -> None:
    assert Size.parse(text) == size
    assert Size.parse(str(Size.parse(text))) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 mib", "1e3", -1, False, 1.5, None])
def test_other_sizes_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        Size.parse(text)
