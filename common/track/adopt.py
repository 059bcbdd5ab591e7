"""Take over the pages that a dead writer left behind."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import FormatError
from common.track import checksum
from common.track.chain import Held
from common.track.page import (
    HEADER_SIZE,
    Header,
    PageName,
    decode_header,
    parse_page_name,
    seal_file,
)
from common.track.record import RECORD_DTYPE, RECORD_SIZE, Flag


@dataclass(slots=True)
class Adoption:
    """What was found in a folder when it was opened for writing."""

    pages: int = 0
    records: int = 0
    dropped: list[str] = field(default_factory=list)
    """What could not be kept: a file name and the reason, or how many records of a page."""


def adopt(folder: Path) -> tuple[dict[int, list[Held]], Adoption]:
    """Seal every page in ``folder``, remove what is not one, and list the pages of each track.

    A page keeps the records that were committed, as far as they are sound; of the newest page of
    a track the payloads are checked as well. Only call this with the folder's lock held.
    """
    report = Adoption()
    tracks: dict[int, list[Held]] = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith("."):
            (folder / name).unlink(missing_ok=True)  # a page or catalog in the making
            continue
        identity = parse_page_name(name)
        if identity is None:
            continue
        held = _adopt_page(folder / name, identity, report)
        if held is not None:
            tracks.setdefault(identity.track, []).append(held)
    for track, pages in tracks.items():
        pages.sort(key=lambda page: page.first)
        tracks[track] = _without_overlaps(pages, report)
    for track in [track for track, pages in tracks.items() if not pages]:
        del tracks[track]
    report.pages = sum(len(pages) for pages in tracks.values())
    report.records = sum(page.count for pages in tracks.values() for page in pages)
    return tracks, report


def _without_overlaps(pages: list[Held], report: Adoption) -> list[Held]:
    kept: list[Held] = []
    for page in pages:
        if kept and page.first < kept[-1].stop:
            report.dropped.append(f"{page.path.name}: overlaps the page before it")
            page.path.unlink(missing_ok=True)
        else:
            kept.append(page)
    return kept


def _adopt_page(path: Path, name: PageName, report: Adoption) -> Held | None:
    try:
        data = path.read_bytes()
        header = decode_header(data, len(data))
        if (header.track, header.first) != name[:2]:
            raise FormatError("page: its name is not that of its header")
        count, used, end = _sound(data, header)
        if not count:
            raise FormatError("page: no sound record in it")
    except FormatError as error:
        report.dropped.append(f"{path.name}: {error}")
        path.unlink(missing_ok=True)
        return None
    if count < header.committed:
        report.dropped.append(f"{path.name}: {header.committed - count} damaged records")
    size = header.arena + used
    if header.sealed != size or len(data) != size or count != header.committed:
        seal_file(path, count, size)
    return Held(path, header.first, count, size, end)


def _sound(data: bytes, header: Header) -> tuple[int, int, int]:
    """Return how many leading records are sound, the arena bytes they use and where they end."""
    table = data[HEADER_SIZE : HEADER_SIZE + header.committed * RECORD_SIZE]
    rows = np.frombuffer(table, RECORD_DTYPE)
    sizes = rows["size"].astype(np.uint64)
    stops = np.cumsum(sizes)
    good = rows["seq"] == np.uint64(header.first) + np.arange(len(rows), dtype=np.uint64)
    good &= rows["offset"] == stops - sizes
    good &= stops <= np.uint64(min(header.arena_size, len(data) - header.arena))
    good &= np.logical_or(sizes == 0, (rows["flags"] & Flag.LOST) == 0)
    count = len(rows) if good.all() else int(np.argmin(good))
    view = memoryview(data)[header.arena :]
    for index in range(count):
        stop, size = int(stops[index]), int(sizes[index])
        if checksum.crc32(view[stop - size : stop]) != rows["crc32"][index] and size:
            count = index
            break
    used = int(stops[count - 1]) if count else 0
    kept = rows[:count]
    real = kept[(kept["flags"] & Flag.LOST) == 0]
    last = real[-1] if len(real) else (kept[-1] if count else None)
    end = int(last["dts"]) + int(last["duration"]) if last is not None else 0
    return count, used, end
