"""Children that run FFmpeg: what they say, and what happens when they misbehave."""

import asyncio
import os
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FormatError, StreamBusy, StreamError, TrackUnsupported
from common.media.codec import Codec
from common.media.frame import Frame
from common.runtime.logs import Log
from origin.child import (
    MAX_MESSAGE,
    ChildReader,
    ChildWriter,
    FailureNote,
    Note,
    TrackNote,
    WarningNote,
    publish_child,
)
from tests.unit.origin.feeds import RememberingSink

LOG = Log("test")
PLAYS = "tests.unit.origin.child_plays"

NOTES: list[Note] = [
    TrackNote(1, Codec.H264, b"\x01init", 90_000, "de", "720p", 3600),
    Frame(1, -7200, b"payload", 3600, True, 3600, 1_795_176_896_789_000),
    WarningNote("careful"),
    None,
    Frame(1, 2**40, b""),
    FailureNote("that was it"),
]


def written() -> bytes:
    """Return NOTES as a child writes them."""
    receiving, sending = os.pipe()
    writer = ChildWriter(sending)
    for note in NOTES:
        if isinstance(note, TrackNote):
            writer.track(note)
        elif isinstance(note, Frame):
            writer.frame(note)
        elif isinstance(note, WarningNote):
            writer.warning(note.text)
        elif isinstance(note, FailureNote):
            writer.failure(note.text)
        else:
            writer._send(5, b"")
    os.close(sending)
    with os.fdopen(receiving, "rb") as file:
        return file.read()


BYTES = written()


@given(st.lists(st.integers(0, len(BYTES)), max_size=10))
def test_how_the_bytes_are_chunked_does_not_matter(cuts: list[int]) -> None:
    reader = ChildReader()
    notes: list[Note] = []
    edges = [0, *sorted(cuts), len(BYTES)]
    for start, stop in pairwise(edges):
        notes += reader.feed(BYTES[start:stop])
    assert notes == NOTES


@given(st.binary(max_size=100), st.integers(1, 6))
def test_garbage_gives_format_errors_only(body: bytes, kind: int) -> None:
    reader = ChildReader()
    try:
        reader.feed(struct.pack(">IB", len(body) + 1, kind) + body)
        reader.feed(body)
    except FormatError:
        return


def test_a_message_beyond_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(FormatError, match="bytes"):
        ChildReader().feed((MAX_MESSAGE + 1).to_bytes(4, "big"))


async def test_tracks_and_frames_of_a_child_are_published_under_the_publishers_numbers() -> None:
    sink = RememberingSink(refuse=frozenset({Codec.MP3}))
    await publish_child(PLAYS, ["well"], sink.publisher, LOG)
    assert [wish.codec for wish in sink.tracks] == [Codec.JSON]
    assert sink.frames == [Frame(101, -5, b"{}", 7, True, 40, 12345)]
    assert sink.inits == [(101, b"")]


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("complaining", StreamError, "there is no such file"),
        ("crashing", StreamError, "SIGABRT"),
        ("garbage", FormatError, "message of"),
        ("unannounced", FormatError, "never announced"),
        ("greedy", StreamError, "no more memory"),
    ],
)
async def test_a_misbehaving_child_is_an_error_of_its_stream(
    how: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await publish_child(PLAYS, [how], RememberingSink().publisher, LOG)


async def test_a_child_that_cannot_start_is_an_error() -> None:
    with pytest.raises(StreamError, match="ended with code 1"):
        await publish_child("tests.no_such_module", [], RememberingSink().publisher, LOG)


async def test_a_silent_child_is_killed() -> None:
    with pytest.raises(StreamError, match="said nothing"):
        await publish_child(PLAYS, ["silent"], RememberingSink().publisher, LOG, silence=0.5)


async def test_a_child_none_of_whose_tracks_can_be_published_is_an_error() -> None:
    sink = RememberingSink(refuse=frozenset({Codec.MP3, Codec.JSON}))
    with pytest.raises(TrackUnsupported, match="json is refused"):
        await publish_child(PLAYS, ["well"], sink.publisher, LOG)


async def test_a_dismissed_publisher_ends_its_child() -> None:
    sink = RememberingSink()
    sink.enough = 30
    with pytest.raises(StreamBusy, match="enough"):
        await publish_child(
            "origin.videogen.child", ["videogen://?size=160x90"], sink.publisher, LOG
        )
    assert len(sink.frames) == 30


async def test_cancelling_ends_the_child_and_leaves_nothing_behind() -> None:
    sink = RememberingSink()
    task = asyncio.create_task(publish_child(PLAYS, ["silent"], sink.publisher, LOG))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.publisher.on_close is None
