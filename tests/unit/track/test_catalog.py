"""The catalog as bytes."""

from typing import Any

import msgpack
import pytest

from common.errors import FormatError
from common.media.codec import Codec
from common.media.track import Track
from common.track.catalog import MAX_CATALOG, MAX_INIT_SIZE, MAX_TRACKS, Catalog

FULL = Catalog(
    "live+a",
    7,
    9,
    version=3,
    target_duration=4,
    part_target_us=220_000,
    independent=False,
    live=False,
    tracks=(
        Track(1, Codec.H264, 90_000, (b"avcC", b"other"), "cam", "en", "Main", 3600, True),
        Track(4, Codec.JSON, 1_000),
    ),
)


def changed(**changes: Any) -> bytes:
    tree = msgpack.unpackb(FULL.encode())
    tree.update(changes)
    packed: bytes = msgpack.packb(tree)
    return packed


def track_changed(**changes: Any) -> bytes:
    tree = msgpack.unpackb(FULL.encode())
    tree["tracks"][0].update(changes)
    packed: bytes = msgpack.packb(tree)
    return packed


def test_a_catalog_is_read_back() -> None:
    assert Catalog.decode(FULL.encode()) == FULL


def test_the_next_version_has_the_changes() -> None:
    after = FULL.evolve(live=True, term=10)
    assert (after.version, after.live, after.term, after.tracks) == (4, True, 10, FULL.tracks)


def test_a_track_is_found_by_its_id() -> None:
    assert FULL.track(4) is FULL.tracks[1]
    assert FULL.track(2) is None


def test_what_a_newer_version_added_is_ignored() -> None:
    assert Catalog.decode(changed(colour="blue")) == FULL
    assert Catalog.decode(track_changed(colour="blue")) == FULL


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x00",
        bytes(MAX_CATALOG + 1),
        changed(stream=5),
        changed(live=1),
        changed(epoch=True),
        changed(tracks=None),
        changed(tracks=[1]),
        changed(tracks=[{}] * (MAX_TRACKS + 1)),
        track_changed(codec="h263"),
        track_changed(codec=None),
        track_changed(timescale=0),
        track_changed(timescale=10**9 + 1),
        track_changed(inits=["text"]),
        track_changed(inits=[bytes(MAX_INIT_SIZE + 1)]),
        track_changed(name=7),
        msgpack.packb({"tracks": []}),
    ],
)
def test_anything_else_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        Catalog.decode(data)
