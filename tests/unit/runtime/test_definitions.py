"""Streams that the registry defines, beside those of the file."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.runtime.config import Duration, StreamSettings, stream_settings
from common.runtime.definitions import Definitions, parse
from common.runtime.embedded import EmbeddedRegistry


def test_the_file_holds_where_both_define_a_stream() -> None:
    found = Definitions({"live": StreamSettings(key="file")})
    assert found.take({"live": {"key": "registry", "window": "5s"}, "more": {"open": True}})
    assert (found["live"].key, found["live"].window) == ("file", Duration(60))
    assert found["more"].open
    assert stream_settings(found, "more+x") is found["more"]
    assert sorted(found) == ["live", "more"]
    assert not found.take({"live": {"key": "registry", "window": "5s"}, "more": {"open": True}})
    assert not found.take({"live": {}, "more": {"open": True}}), "the file still holds"
    assert found.take({})
    assert list(found) == ["live"]


def test_a_definition_that_is_no_good_leaves_the_others_alone() -> None:
    found = Definitions({})
    written: dict[str, dict[str, object]] = {
        "a": {"window": "soon"},
        "b": {"no": 1},
        "c": {"source": "/etc/passwd"},
        "d": {"window": 7},
    }
    assert found.take(written)
    assert list(found) == ["d"]


def test_words_of_the_command_line_make_a_definition() -> None:
    words = ["key=a=b", "window=90s", "open=true", "bytes_max=1MiB"]
    tree = parse("show.hd", words)
    assert tree == {"key": "a=b", "window": "90s", "open": True, "bytes_max": tree["bytes_max"]}
    found = Definitions({})
    found.take({"show.hd": tree})
    assert (found["show.hd"].window, found["show.hd"].bytes_max) == (Duration(90), 2**20)
    assert parse("show", []) == {}


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("windw=3", "did you mean"),
        ("window", "of the form"),
        ("window=x", "window"),
        ("source=videogen://", "file of the origin"),
    ],
)
def test_words_that_are_no_good_are_refused(word: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse("show", [word])


async def test_what_is_defined_is_followed(tmp_path: Path) -> None:
    registry = EmbeddedRegistry(tmp_path)
    found = Definitions({})
    changed = asyncio.Event()
    following = asyncio.create_task(found.follow(registry, changed.set))
    async with asyncio.timeout(5):
        await registry.define("live", {"window": "5s"})
        await changed.wait()
    assert found["live"].window == Duration(5)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
