"""Records, payloads and catalogs for tests of the track-record format."""

import zlib
from pathlib import Path

from common.media.codec import Codec
from common.media.track import Track
from common.track.catalog import Catalog
from common.track.record import Flag, Record

STREAM = "live+a"
EPOCH = 1_700_000_000_000_000
FRAME = 3600
"""Ticks of a video frame: 25 a second at 90 000."""

VIDEO = Track(1, Codec.H264, 90_000, frame_duration=FRAME)
AUDIO = Track(2, Codec.AAC, 48_000, frame_duration=1024)
META = Track(3, Codec.JSON, 1_000)


def catalog(*tracks: Track, version: int = 1) -> Catalog:
    return Catalog(STREAM, EPOCH, 1, version=version, tracks=tracks or (VIDEO, AUDIO))


def payload(seq: int, size: int = 100) -> bytes:
    """Bytes that differ from seq to seq."""
    return (seq.to_bytes(8, "little") * (size // 8 + 1))[:size]


def video(seq: int, *, size: int = 100, gop: int = 50, flags: int = 0) -> Record:
    """A frame of a 25 fps track with a segment a GOP and parts of 5 frames."""
    key = Flag.KEY if seq % gop == 0 else 0
    crc = zlib.crc32(payload(seq, size)) if size else 0
    return Record(
        seq, seq * FRAME, 0, 0, 0, FRAME, seq // gop, seq // 5, 0, size, crc, key | flags, 0
    )


def audio(seq: int) -> Record:
    """A frame of a 48 kHz AAC track whose segments last 2 s."""
    dts = seq * 1024
    return Record(seq, dts, 0, 0, 0, 1024, dts // 96_000, seq // 9, 0, 0, 0, Flag.KEY, 0)


def page_path(folder: Path, track: int, first: int) -> Path:
    """The file of a page."""
    (found,) = folder.glob(f"{track}-{first}-*.page")
    return found


def lost(seq: int, before: Record) -> Record:
    """A record that never came: segment and part are those of the one before."""
    return Record(seq, 0, 0, 0, 0, 0, before.segment, before.part, 0, 0, 0, Flag.LOST, 0)
