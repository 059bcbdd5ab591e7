"""Read init segments and fragments back: what tests, file inputs and CMAF ingest need of MP4.

ISO/IEC 14496-12 sections 8.8 (fragments) and 12 (sample entries). Movie boxes with sample tables
of their own (plain MP4 files) are not read here.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import FormatError
from common.formats.mp4 import Box, find, iter_boxes

MAX_SAMPLES = 65_536
"""Samples of one run. More are a FormatError."""

MAX_TRACKS = 64
"""Tracks of a file. More are a FormatError."""

_TFHD_BASE = 0x1
_TFHD_DESCRIPTION = 0x2
_TFHD_DURATION = 0x8
_TFHD_SIZE = 0x10
_TFHD_FLAGS = 0x20
_TRUN_OFFSET = 0x1
_TRUN_FIRST_FLAGS = 0x4
_TRUN_DURATION = 0x100
_TRUN_SIZE = 0x200
_TRUN_FLAGS = 0x400
_TRUN_CTS = 0x800
_NON_SYNC = 0x10000

_VISUAL_ENTRY = 78
_AUDIO_ENTRY = 28
_SETUP = {
    b"avc1": b"avcC",
    b"avc3": b"avcC",
    b"hvc1": b"hvcC",
    b"hev1": b"hvcC",
    b"av01": b"av1C",
    b"vp09": b"vpcC",
    b"mp4a": b"esds",
    b"Opus": b"dOps",
}


@dataclass(frozen=True, slots=True)
class MovieTrack:
    """A track as an init segment describes it."""

    id: int
    timescale: int
    handler: bytes
    entry: bytes
    """Kind of its sample entry."""

    setup: bytes
    """Contents of the box with the codec setup (avcC, esds, ...); empty where it has none."""

    width: int
    height: int
    channels: int
    sample_rate: int
    language: str


@dataclass(frozen=True, slots=True)
class TrackDefaults:
    """What the samples of a track are if a fragment does not say (``trex``)."""

    duration: int = 0
    size: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Movie:
    """An init segment."""

    tracks: tuple[MovieTrack, ...]
    defaults: dict[int, TrackDefaults]


@dataclass(slots=True)
class ReadSample:
    """One sample of a fragment."""

    dts: int
    cts: int
    duration: int
    key: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """The samples of one track in one fragment."""

    track: int
    sequence: int
    """Number of the fragment."""

    dts: int
    samples: tuple[ReadSample, ...]


def read_init(data: bytes) -> Movie:
    """Read an init segment.

    Raises:
        FormatError: If it is not one.
    """
    moov = find(data, b"moov")
    if moov is None:
        raise FormatError("mp4: no moov")
    try:
        traks = [b for b in iter_boxes(data, moov.body, moov.stop) if b.kind == b"trak"]
        if len(traks) > MAX_TRACKS:
            raise FormatError("mp4: too many tracks")
        return Movie(tuple(_trak(data, trak) for trak in traks), _defaults(data, moov))
    except (struct.error, UnicodeDecodeError) as error:
        raise FormatError(f"mp4: a box of moov is cut short: {error}") from error


def _defaults(data: bytes, moov: Box) -> dict[int, TrackDefaults]:
    mvex = find(data, b"mvex", within=moov)
    if mvex is None:
        return {}
    defaults = {}
    for found in iter_boxes(data, mvex.body, mvex.stop):
        if found.kind == b"trex":
            track, _, duration, size, flags = _fields(data, found, ">4xIIIII")
            defaults[track] = TrackDefaults(duration, size, flags)
    return defaults


def _fields(data: bytes, found: Box, layout: str, skip: int = 0) -> tuple[int, ...]:
    if found.body + skip + struct.calcsize(layout) > found.stop:
        raise FormatError(f"mp4: {found.kind!r} is cut short")
    return struct.unpack_from(layout, data, found.body + skip)


def _need(data: bytes, within: Box, *path: bytes) -> Box:
    found = find(data, *path, within=within)
    if found is None:
        raise FormatError(f"mp4: no {path[-1]!r} in {within.kind!r}")
    return found


def _trak(data: bytes, trak: Box) -> MovieTrack:
    tkhd = _need(data, trak, b"tkhd")
    mdhd = _need(data, trak, b"mdia", b"mdhd")
    wide = data[tkhd.body : tkhd.body + 1] == b"\x01"
    (number,) = _fields(data, tkhd, ">I", 20 if wide else 12)
    wide = data[mdhd.body : mdhd.body + 1] == b"\x01"
    (timescale,) = _fields(data, mdhd, ">I", 20 if wide else 12)
    handler = _need(data, trak, b"mdia", b"hdlr")
    stsd = _need(data, trak, b"mdia", b"minf", b"stbl", b"stsd")
    entry = next(iter_boxes(data, stsd.body + 8, stsd.stop), None)
    if entry is None:
        raise FormatError("mp4: no sample entry")
    elng = find(data, b"mdia", b"elng", within=trak)
    video = len(data[entry.body : entry.stop]) >= _VISUAL_ENTRY and entry.kind not in (
        b"mp4a",
        b"Opus",
    )
    width, height = _fields(data, entry, ">HH", 24) if video else (0, 0)
    channels, rate = (0, 0) if video else _fields(data, entry, ">H6xI", 16)
    return MovieTrack(
        id=number,
        timescale=timescale,
        handler=data[handler.body + 8 : handler.body + 12],
        entry=entry.kind,
        setup=_setup(data, entry, _VISUAL_ENTRY if video else _AUDIO_ENTRY),
        width=width,
        height=height,
        channels=channels,
        sample_rate=rate >> 16,
        language=data[elng.body + 4 : elng.stop].rstrip(b"\0").decode() if elng else "und",
    )


def _setup(data: bytes, entry: Box, fields: int) -> bytes:
    wanted = _SETUP.get(entry.kind)
    if entry.body + fields > entry.stop:
        raise FormatError(f"mp4: {entry.kind!r} is cut short")
    for found in iter_boxes(data, entry.body + fields, entry.stop):
        if found.kind == wanted:
            return data[found.body : found.stop]
    return b""


def read_fragments(data: bytes, movie: Movie) -> list[Run]:
    """Read every fragment in some bytes: parts, segments, or what follows the init segment.

    Raises:
        FormatError: If a fragment is malformed, or of a track that ``movie`` does not have.
    """
    runs: list[Run] = []
    try:
        for found in iter_boxes(data):
            if found.kind == b"moof":
                runs += _moof(data, found, movie)
    except struct.error as error:
        raise FormatError(f"mp4: a box of moof is cut short: {error}") from error
    return runs


def _moof(data: bytes, moof: Box, movie: Movie) -> Iterator[Run]:
    (sequence,) = _fields(data, _need(data, moof, b"mfhd"), ">4xI")
    for traf in iter_boxes(data, moof.body, moof.stop):
        if traf.kind == b"traf":
            yield _traf(data, moof, traf, movie, sequence)


def _traf(data: bytes, moof: Box, traf: Box, movie: Movie, sequence: int) -> Run:
    track, base, defaults = _tfhd(data, moof, _need(data, traf, b"tfhd"), movie)
    tfdt = _need(data, traf, b"tfdt")
    wide = data[tfdt.body : tfdt.body + 1] == b"\x01"
    (dts,) = _fields(data, tfdt, ">Q" if wide else ">I", 4)
    samples: list[ReadSample] = []
    time, position = dts, base
    for trun in iter_boxes(data, traf.body, traf.stop):
        if trun.kind == b"trun":
            time, position = _trun(data, trun, base, position, time, defaults, samples)
    return Run(track, sequence, dts, tuple(samples))


def _tfhd(data: bytes, moof: Box, tfhd: Box, movie: Movie) -> tuple[int, int, TrackDefaults]:
    flags, track = _fields(data, tfhd, ">II")
    defaults = movie.defaults.get(track)
    if defaults is None:
        raise FormatError(f"mp4: a fragment of track {track}, which the file does not have")
    skip = 8
    base = moof.start
    if flags & _TFHD_BASE:
        (base,) = _fields(data, tfhd, ">Q", skip)
        skip += 8
    if flags & _TFHD_DESCRIPTION:
        skip += 4
    values = [defaults.duration, defaults.size, defaults.flags]
    for index, flag in enumerate((_TFHD_DURATION, _TFHD_SIZE, _TFHD_FLAGS)):
        if flags & flag:
            (values[index],) = _fields(data, tfhd, ">I", skip)
            skip += 4
    return track, base, TrackDefaults(*values)


def _trun(
    data: bytes,
    trun: Box,
    base: int,
    position: int,
    time: int,
    defaults: TrackDefaults,
    samples: list[ReadSample],
) -> tuple[int, int]:
    """Append the samples of a run; return the time and the position after it."""
    flags, count = _fields(data, trun, ">II")
    skip = 8
    if flags & _TRUN_OFFSET:
        (offset,) = _fields(data, trun, ">i", skip)
        position = base + offset
        skip += 4
    first_flags = defaults.flags
    if flags & _TRUN_FIRST_FLAGS:
        (first_flags,) = _fields(data, trun, ">I", skip)
        skip += 4
    row = _row(flags)
    if count > MAX_SAMPLES or trun.body + skip + row.size * count > trun.stop:
        raise FormatError("mp4: a run of samples is cut short or too long")
    for index in range(count):
        values = iter(row.unpack_from(data, trun.body + skip + index * row.size))
        duration = next(values) if flags & _TRUN_DURATION else defaults.duration
        size = next(values) if flags & _TRUN_SIZE else defaults.size
        own = first_flags if index == 0 else defaults.flags
        own = next(values) if flags & _TRUN_FLAGS else own
        cts = next(values) if flags & _TRUN_CTS else 0
        if not 0 <= position <= position + size <= len(data):
            raise FormatError("mp4: a sample outside of the data")
        payload = data[position : position + size]
        samples.append(ReadSample(time, cts, duration, not own & _NON_SYNC, payload))
        time += duration
        position += size
    return time, position


def _row(flags: int) -> struct.Struct:
    """Return the layout of one row of the table; a composition offset is signed in version 1."""
    columns = "".join("I" for flag in (_TRUN_DURATION, _TRUN_SIZE, _TRUN_FLAGS) if flags & flag)
    if flags & _TRUN_CTS:
        columns += "i" if flags >> 24 else "I"
    return struct.Struct(">" + columns)
