"""The inputs that fetch: the test stream and files, with their real child processes."""

import time
from pathlib import Path
from typing import Any, cast

import pytest

from common.errors import ConfigError, StreamBusy, StreamError
from common.media.codec import Codec
from origin.input import InputContext, NoSettings
from origin.inputs.file import FileInput
from origin.inputs.videogen import VideogenInput
from origin.publisher import Publisher
from origin.streams import Streams
from origin.videogen_cli import main as videogen
from tests.unit.origin.feeds import RememberingSink

CONTEXT = InputContext("node", lambda name, url: None)


class OneStream:
    """Gives out the publisher of a remembering sink."""

    def __init__(self) -> None:
        self.sink = RememberingSink()
        self.asked: list[tuple[str, str | None]] = []

    async def publish(self, name: str, key: str | None, **rest: Any) -> Publisher:
        """Remember who asked."""
        self.asked.append((name, key))
        return self.sink.publisher


async def test_the_test_stream_is_published_in_real_time() -> None:
    streams = OneStream()
    streams.sink.enough = 60
    source = "videogen://?size=160x90&languages=en,de"
    began = time.time_ns() // 1000
    with pytest.raises(StreamBusy):
        await VideogenInput(cast(Streams, streams), NoSettings(), CONTEXT).pull("test", source)
    assert streams.asked == [("test", None)]
    assert [wish.codec for wish in streams.sink.tracks] == [
        Codec.H264,
        Codec.AAC,
        Codec.AAC,
        Codec.JSON,
    ]
    pictures = [frame for frame in streams.sink.frames if frame.track == 101]
    assert pictures[0].keyframe
    assert [frame.dts for frame in pictures] == [3600 * n for n in range(len(pictures))]
    assert began <= pictures[0].capture_us
    span = pictures[-1].capture_us - pictures[0].capture_us
    assert span >= (len(pictures) - 1) * 40_000 - 20_000
    assert streams.sink.left == [("enough", False)]


async def test_a_file_is_published_at_its_own_speed_and_ends_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "a b.mp4"
    assert videogen([str(path), "--fast", "--duration", "1s", "--size", "160x90"]) == 0
    streams = OneStream()
    began = time.monotonic()
    source = f"file://{tmp_path}/a%20b.mp4?loop=0"
    await FileInput(cast(Streams, streams), NoSettings(), CONTEXT).pull("film", source)
    assert time.monotonic() - began > 0.9
    assert sum(frame.track == 101 for frame in streams.sink.frames) == 25
    assert streams.sink.left == [("the file is over", True)]


async def test_a_file_that_is_not_there_is_an_error_of_its_stream(tmp_path: Path) -> None:
    streams = OneStream()
    with pytest.raises(StreamError, match="not a file"):
        await FileInput(cast(Streams, streams), NoSettings(), CONTEXT).pull(
            "film", str(tmp_path / "none.mp4")
        )
    assert streams.sink.left[0][1] is False


async def test_a_wrong_source_is_refused_before_anything_is_published() -> None:
    streams = OneStream()
    with pytest.raises(ConfigError):
        await VideogenInput(cast(Streams, streams), NoSettings(), CONTEXT).pull(
            "test", "videogen://?video=mpeg2"
        )
    with pytest.raises(ConfigError):
        await FileInput(cast(Streams, streams), NoSettings(), CONTEXT).pull("film", "file://x/y")
    assert streams.asked == []
