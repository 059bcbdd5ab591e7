"""CMAF: init segments, parts (chunks), and events, as every fMP4 player reads them.

ISO/IEC 23000-19 (CMAF) and 14496-12. Four rules hold for every byte written here:

* It is a function of the track, its setup bytes and the records alone: no clock, no locale, no
  measured bitrate. What an edge writes, every other edge writes too. A change of one byte needs
  another ``PACKAGING``; golden hashes in the tests see to that.
* A part is ``[prft] moof mdat`` with exactly one run of samples.
* A segment is the bytes of its parts in order, so there is no ``styp``: in front of every part it
  would be noise, and in front of the first only, a segment's first part would differ in kind.
* Timestamps are the track's own ticks: ``tfdt`` has 64 bits, composition offsets are signed.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

from common.errors import FormatError, TrackUnsupported
from common.formats.mp4 import MATRIX, box, full_box
from common.formats.mp4_entries import MAX_SIDE, sample_entry
from common.media.codec import Kind
from common.media.describe import describe
from common.media.track import Track

SYNC = 0x02000000
"""sample_depends_on = 2: an independent picture, and a sync sample."""

NON_SYNC = 0x01010000
"""sample_depends_on = 1, sample_is_non_sync_sample."""

NTP_EPOCH = 2_208_988_800
"""Seconds from 1900, where NTP counts from, to 1970."""

_BRANDS_TRACK = (b"iso6", b"cmfc", b"dash", b"mp41")
_BRANDS_FILE = (b"iso6", b"mp41")

_DEFAULT_BASE_IS_MOOF = 0x020000
_TRUN_FLAGS = 0x000F01
"""Data offset; duration, size, flags and composition offset of every sample."""

_PRFT_CAPTURED = 24
"""The time is the one at which the media was captured (14496-12 section 8.16.5)."""

_PRFT = struct.Struct(">I4sIIQQ")
_MAX_TICKS = 0xFFFFFFFF
"""Ticks from one frame of a part to the next: 32 bits. A part with more is not made."""

MAX_PART = 0xFFFFFFFF - 8
"""Bytes of samples in one part: the size field of ``mdat``. A part with more is not made."""

PRFT_SIZE = _PRFT.size
FRAGMENT_SIZE = 8 + 16 + 8 + 16 + 20 + 20 + 8
"""Bytes of ``moof`` and ``mdat`` around the samples of one track, without the table."""

SAMPLE_SIZE = 16
"""Bytes of one sample in the table of a part."""


class Sample(Protocol):
    """What is read of a track record; ``common.track.record.Record`` is one."""

    @property
    def seq(self) -> int:
        """Position in the track."""

    @property
    def dts(self) -> int:
        """Decode time in the track's timescale."""

    @property
    def cts(self) -> int:
        """Presentation time minus decode time."""

    @property
    def duration(self) -> int:
        """Nominal ticks to the next sample."""

    @property
    def part(self) -> int:
        """Number of its part through the epoch."""

    @property
    def size(self) -> int:
        """Bytes of the payload."""

    @property
    def key(self) -> bool:
        """Whether decoding can start here."""


def overhead(parts: int, samples: int) -> int:
    """Return how many bytes :func:`part` adds to the samples of ``parts`` parts, ``prft`` too."""
    return parts * (PRFT_SIZE + FRAGMENT_SIZE) + samples * SAMPLE_SIZE


def init_segment(tracks: Sequence[tuple[Track, int]]) -> bytes:
    """Write the init segment of tracks, each with the position of its setup bytes.

    One track for HLS and DASH, several for a progressive file; ``track_ID`` is ``Track.id``.

    Raises:
        TrackUnsupported: If MP4 cannot carry a track, or it has no such setup bytes.
        FormatError: If setup bytes are malformed.
    """
    brands = _BRANDS_TRACK if len(tracks) == 1 else _BRANDS_FILE
    ftyp = box(b"ftyp", brands[0], bytes(4), *brands)
    highest = max(track.id for track, _ in tracks)
    mvhd = full_box(
        b"mvhd",
        0,
        0,
        struct.pack(">IIIIIH10x", 0, 0, 1000, 0, 0x10000, 0x100),
        MATRIX,
        bytes(24),
        struct.pack(">I", highest + 1),
    )
    traks = [_trak(track, setup_bytes(track, init)) for track, init in tracks]
    mvex = box(b"mvex", *(_trex(track) for track, _ in tracks))
    return ftyp + box(b"moov", mvhd, *traks, mvex)


def setup_bytes(track: Track, init: int) -> bytes:
    """Return the setup bytes at a position; a track without any has one that is empty.

    Raises:
        TrackUnsupported: If the track does not have them.
    """
    if not track.inits and init == 0:
        return b""
    if not 0 <= init < len(track.inits):
        raise TrackUnsupported(f"track {track.id} has no setup bytes {init}")
    return track.inits[init]


def _trex(track: Track) -> bytes:
    return full_box(b"trex", 0, 0, struct.pack(">IIIII", track.id, 1, 0, 0, 0))


def _trak(track: Track, setup: bytes) -> bytes:
    video = track.codec.kind is Kind.VIDEO
    size = describe(track.codec, setup)
    tkhd = full_box(
        b"tkhd",
        0,
        7,  # enabled, in movie, in preview
        struct.pack(">IIIII8xHHHH", 0, 0, track.id, 0, 0, 0, 0, 0 if video else 0x100, 0),
        MATRIX,
        struct.pack(">HxxHxx", min(size.shown_width, MAX_SIDE), min(size.height, MAX_SIDE)),
    )
    handler = b"vide" if video else b"soun"
    header = full_box(b"vmhd", 0, 1, bytes(8)) if video else full_box(b"smhd", 0, 0, bytes(4))
    dinf = box(b"dinf", full_box(b"dref", 0, 0, struct.pack(">I", 1), full_box(b"url ", 0, 1)))
    stbl = box(
        b"stbl",
        full_box(
            b"stsd", 0, 0, struct.pack(">I", 1), sample_entry(track.codec, setup, track.timescale)
        ),
        full_box(b"stts", 0, 0, bytes(4)),
        full_box(b"stsc", 0, 0, bytes(4)),
        full_box(b"stsz", 0, 0, bytes(8)),
        full_box(b"stco", 0, 0, bytes(4)),
    )
    mdia = box(
        b"mdia",
        full_box(
            b"mdhd", 0, 0, struct.pack(">IIIIHH", 0, 0, track.timescale, 0, _language(track), 0)
        ),
        full_box(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, handler), _text(track.name)),
        full_box(b"elng", 0, 0, _text(track.language)),
        box(b"minf", header, dinf, stbl),
    )
    return box(b"trak", tkhd, mdia)


def _text(text: str) -> bytes:
    return text.replace("\0", "").encode() + b"\0"


def _language(track: Track) -> int:
    """Pack an ISO 639-2 code; ``elng`` has the language in full where it is not one."""
    code = track.language.partition("-")[0].lower()
    if len(code) != 3 or not (code.isascii() and code.isalpha()):
        code = "und"
    first, second, third = (ord(letter) - 0x60 for letter in code)
    return first << 10 | second << 5 | third


_TRAF = "I4sI4sIII4sIQI4sIIi"


@lru_cache(maxsize=1024)
def _traf(samples: int) -> struct.Struct:
    """Return ``traf`` with one run of so many samples."""
    return struct.Struct(">" + _TRAF + "IIIi" * samples)


@lru_cache(maxsize=1024)
def _chunk(samples: int) -> struct.Struct:
    """Return ``moof`` with one run of so many samples, and the header of ``mdat``."""
    return struct.Struct(">I4sI4sII" + _TRAF + "IIIi" * samples + "I4s")


def part(
    track: Track,
    records: Sequence[Sample],
    payloads: Sequence[bytes],
    next_dts: int | None = None,
    wall: tuple[int, int] | None = None,
) -> bytes:
    """Write one part: ``[prft] moof mdat``. Its sequence number is its part number plus one.

    Args:
        track: What the records belong to.
        records: A run without lost ones, of one part.
        payloads: What the records stand for; ``[joined]`` does as well.
        next_dts: Where the next record begins. Leave it out where the bytes must be the same
            everywhere: the last sample then lasts ``Record.duration``.
        wall: A dts and the Unix microseconds it stands for: makes the part begin with ``prft``.

    Raises:
        FormatError: If the records are no such run.
    """
    table, size = _table(records, next_dts)
    count = len(records)
    layout = _chunk(count)
    moof = layout.size - 8
    head = layout.pack(
        *(moof, b"moof"),
        *(16, b"mfhd", 0, records[0].part + 1 & 0xFFFFFFFF),
        *(moof - 24, b"traf"),
        *(16, b"tfhd", _DEFAULT_BASE_IS_MOOF, track.id),
        *(20, b"tfdt", 1 << 24, records[0].dts),
        *(20 + SAMPLE_SIZE * count, b"trun", 1 << 24 | _TRUN_FLAGS, count, layout.size),
        *table,
        *(8 + size, b"mdat"),
    )
    stamp = prft(track.id, *wall) if wall else b""
    return b"".join((stamp, head, *payloads))


def _table(records: Sequence[Sample], next_dts: int | None) -> tuple[list[int], int]:
    """Return the sample table of a run, four numbers a sample, and the bytes it stands for."""
    if not records:
        raise FormatError("a part of no records")
    durations = [later.dts - record.dts for record, later in pairwise(records)]
    last = records[-1]
    durations.append(last.duration if next_dts is None else next_dts - last.dts)
    table: list[int] = []
    size = 0
    for record, duration in zip(records, durations, strict=True):
        flags = SYNC if record.key else NON_SYNC
        table += (duration, record.size, flags, record.cts)
        size += record.size
    if records[0].dts < 0 or min(durations) < 0 or max(durations) > _MAX_TICKS or size > MAX_PART:
        raise FormatError("records that are no run: time goes backwards or far ahead")
    return table, size


def fragment(
    tracks: Sequence[Track],
    runs: Sequence[tuple[Sequence[Sample], Sequence[bytes]]],
    sequence: int = 0,
) -> bytes:
    """Write a run of every track into one ``moof`` and ``mdat``, for files and WebSockets.

    Args:
        tracks: The tracks, one for each run.
        runs: Records with their payloads.
        sequence: Number of the fragment; the first record's seq plus one where it is 0.

    Raises:
        FormatError: If a run is empty or its time goes backwards.
    """
    tables = [_table(records, None) for records, _ in runs]
    trafs = [24 + 20 + 20 + SAMPLE_SIZE * len(records) for records, _ in runs]
    moof = 24 + sum(trafs)
    offset = moof + 8
    number = sequence or runs[0][0][0].seq + 1
    out = [struct.pack(">I4sI4sII", moof, b"moof", 16, b"mfhd", 0, number & 0xFFFFFFFF)]
    for track, (records, _), (table, size), traf in zip(tracks, runs, tables, trafs, strict=True):
        count = len(records)
        out.append(
            _traf(count).pack(
                *(traf, b"traf"),
                *(16, b"tfhd", _DEFAULT_BASE_IS_MOOF, track.id),
                *(20, b"tfdt", 1 << 24, records[0].dts),
                *(20 + SAMPLE_SIZE * count, b"trun", 1 << 24 | _TRUN_FLAGS, count, offset),
                *table,
            )
        )
        offset += size
    out.append(struct.pack(">I4s", offset - moof, b"mdat"))
    for _, payloads in runs:
        out += payloads
    return b"".join(out)


def prft(track: int, media_time: int, unix_us: int) -> bytes:
    """Write a producer reference time: what the origin's clock said at ``media_time``."""
    seconds, micros = divmod(unix_us, 1_000_000)
    ntp = (seconds + NTP_EPOCH & 0xFFFFFFFF) << 32 | (micros << 32) // 1_000_000
    flags = 1 << 24 | _PRFT_CAPTURED
    return _PRFT.pack(PRFT_SIZE, b"prft", flags, track, ntp, media_time)


def emsg(
    scheme: str,
    value: str,
    *,
    timescale: int,
    time: int,
    duration: int,
    number: int,
    data: bytes,
) -> bytes:
    """Write an event message, version 1: ``time`` is on the track's own timeline.

    CMAF section 7.4.5, DASH (ISO/IEC 23009-1) section 5.10.3.3. It stands in front of ``moof``.

    Raises:
        TrackUnsupported: If a number does not fit.
    """
    try:
        fields = struct.pack(">IQII", timescale, time, duration, number)
    except struct.error as error:
        raise TrackUnsupported(f"an event that does not fit: {error}") from error
    return full_box(b"emsg", 1, 0, fields, _text(scheme), _text(value), data)
