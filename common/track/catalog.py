"""What is fixed about a stream: its numbering, its promises to players, its tracks."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import msgpack

from common.errors import FormatError
from common.media.codec import Codec
from common.media.track import Track

PACKAGING = 1
"""Version of the bytes we write into init segments, parts and segments. Golden hashes in the
tests force a bump; it stands in every media URL."""

MAX_TRACKS = 64
"""Tracks of a stream, those that ended included. One more is refused; a catalog with more is a
FormatError."""

MAX_INITS = 256
"""Codec setups of a track. One more is refused; a catalog with more is a FormatError."""

MAX_INIT_SIZE = 64 * 1024
"""Bytes of one codec setup. A longer one is refused; a catalog with one is a FormatError."""

MAX_CATALOG = 1024 * 1024
"""Bytes of a catalog. A longer one is a FormatError, and is never written."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A stream as every node sees it. A new version only appends tracks and inits, or ends them."""

    stream: str
    epoch: int
    """Names one numbering of seq, segments and parts: Unix microseconds when it began."""

    term: int
    """Names one ownership; the higher one is right."""

    version: int = 1
    packaging: int = PACKAGING
    target_duration: int = 0
    """Seconds, EXT-X-TARGETDURATION; 0 until the first GOP has been seen."""

    part_target_us: int = 0
    """Microseconds that no part exceeds; 0 until the first frames have been seen."""

    window_us: int = 60_000_000
    """How much of the past playlists show."""

    independent: bool = True
    """Whether every segment so far starts with a keyframe."""

    live: bool = True
    """False once the publisher has left for good: playlists end."""

    tracks: tuple[Track, ...] = ()

    def track(self, number: int) -> Track | None:
        """Return the track with this id."""
        return next((track for track in self.tracks if track.id == number), None)

    def evolve(self, **changes: Any) -> "Catalog":
        """Return the next version with these changes."""
        return replace(self, version=self.version + 1, **changes)

    def encode(self) -> bytes:
        """Return the bytes that stand in the page folder and on the bus."""
        packed: bytes = msgpack.packb(asdict(self))
        return packed

    @classmethod
    def decode(cls, data: bytes) -> "Catalog":
        """Read a catalog; unknown keys of a newer version are ignored.

        Raises:
            FormatError: If the bytes are not a catalog or exceed a limit.
        """
        tree = _unpack(data)
        try:
            tracks = tuple(_track(item) for item in _list(tree.get("tracks"), MAX_TRACKS))
            known = {key: tree[key] for key in _SCALARS if key in tree}
            for key, value in known.items():
                if type(value) is not _SCALARS[key]:
                    raise FormatError(f"catalog: {key} is a {type(value).__name__}")
            return cls(**known, tracks=tracks)
        except (TypeError, ValueError) as error:
            raise FormatError(f"catalog: {error}") from error


_SCALARS: dict[str, type] = {
    "stream": str,
    "epoch": int,
    "term": int,
    "version": int,
    "packaging": int,
    "target_duration": int,
    "part_target_us": int,
    "window_us": int,
    "independent": bool,
    "live": bool,
}
_TRACK_SCALARS: dict[str, type] = {
    "id": int,
    "timescale": int,
    "slot": str,
    "language": str,
    "name": str,
    "frame_duration": int,
    "ended": bool,
}


def _unpack(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_CATALOG:
        raise FormatError("catalog: too large")
    try:
        tree = msgpack.unpackb(
            data, max_array_len=MAX_INITS, max_map_len=64, max_str_len=4096, max_ext_len=0
        )
    except (ValueError, msgpack.UnpackException, OverflowError) as error:
        raise FormatError(f"catalog: not msgpack: {error}") from error
    if not isinstance(tree, dict):
        raise FormatError("catalog: not a map")
    return tree


def _list(value: Any, limit: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > limit:
        raise FormatError("catalog: a list is missing or too long")
    return value


def _track(item: Any) -> Track:
    if not isinstance(item, dict):
        raise FormatError("catalog: a track is not a map")
    inits = tuple(_list(item.get("inits"), MAX_INITS))
    if not all(isinstance(init, bytes) and len(init) <= MAX_INIT_SIZE for init in inits):
        raise FormatError("catalog: setup bytes are too large or not bytes")
    known = {key: item[key] for key in _TRACK_SCALARS if key in item}
    for key, value in known.items():
        if type(value) is not _TRACK_SCALARS[key]:
            raise FormatError(f"catalog: track {key} is a {type(value).__name__}")
    if not 0 < known.get("timescale", 0) <= 1_000_000_000:
        raise FormatError("catalog: timescale out of range")
    return Track(codec=Codec(str(item.get("codec"))), inits=inits, **known)
