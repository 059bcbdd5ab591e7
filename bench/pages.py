"""Measure what a record costs on its way into and out of pages.

Run ``.venv/bin/python -m bench.pages``. Figures are CPU microseconds a record, the best of several
rounds, in a folder on tmpfs, with one stream of 30 frames a second.
"""

import itertools
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from common.media.codec import Codec
from common.media.track import Track
from common.track.board import Board
from common.track.catalog import Catalog
from common.track.cursor import Cursor
from common.track.record import Flag, Record
from common.track.store import Limits, StreamReader, StreamWriter

FRAME = 3000
GOP = 60
COUNT = 3600
ROUNDS = 7
SIZES = (16_700, 400)
EPOCH = 1
VIDEO = Track(1, Codec.H264, 90_000, frame_duration=FRAME)


def record_of(seq: int, crc32: int) -> Record:
    flags = int(Flag.KEY) if seq % GOP == 0 else 0
    segment, part = seq // GOP, seq // 6
    return Record(seq, seq * FRAME, 0, 0, 0, FRAME, segment, part, 0, 0, crc32, flags, 0)


def _measure(name: str, units: int, action: Callable[[], object]) -> None:
    """Print the least CPU microseconds a unit that ``action`` took."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time_ns()
        action()
        best = min(best, (time.process_time_ns() - start) / units / 1000)
    print(f"{name:<64} {best:8.2f} us", flush=True)


def _each(call: Callable[..., object], *arguments: Iterable[object]) -> Callable[[], object]:
    """Return what calls ``call`` with each of these arguments and keeps no result."""
    return lambda: deque(map(call, *arguments), maxlen=0)


def write_all(root: Path, records: list[Record], payload: bytes, window_us: int) -> StreamWriter:
    writer = StreamWriter.open(root, "bench", EPOCH, Limits(window_us=window_us))
    writer.set_catalog(Catalog("bench", EPOCH, 1, tracks=(VIDEO,)))
    for record in records:
        writer.append(1, record, payload)
    return writer


def _writing(root: Path, size: int) -> None:
    payload = os.urandom(size)
    for name, crc32 in (("crc32 given", 1), ("crc32 computed", 0)):
        writer = write_all(
            root, [record_of(seq, crc32) for seq in range(COUNT)], payload, 20_000_000
        )
        first = itertools.count(COUNT, COUNT)

        def go_on(
            writer: StreamWriter = writer, first: Iterator[int] = first, crc32: int = crc32
        ) -> None:
            start = next(first)
            for seq in range(start, start + COUNT):
                writer.append(1, record_of(seq, crc32), payload)

        made = partial(_each(record_of, range(COUNT), itertools.repeat(crc32)))
        _measure(f"append {size} B, {name}, in a window that is full", COUNT, go_on)
        _measure("  of which the benchmark itself, to make the records", COUNT, made)
        writer.remove()


def _reading(reader: StreamReader, size: int) -> None:
    track = reader.track(1)
    half = COUNT // 2
    seqs = range(half)
    starts = range(0, half, GOP)
    stops = range(GOP, half + GOP, GOP)
    verified = partial(track.payload, verify=True)
    _measure("head", half, _each(lambda _: track.head, seqs))
    _measure("record(seq)", half, _each(track.record, seqs))
    _measure(f"payload(seq), {size} B", half, _each(track.payload, seqs))
    _measure(f"payload(seq, verify=True), {size} B", half, _each(verified, seqs))
    _measure("records(), 60 at a time", half, _each(track.records, starts, stops))
    _measure("array(), 60 at a time", half, _each(track.array, starts, stops))
    _measure("payloads(), 60 at a time", half, _each(track.payloads, starts, stops))
    _measure("joined(), 60 at a time", half, _each(track.joined, starts, stops))
    _measure("first_of_segment(), a search", 30, _each(track.first_of_segment, range(30)))
    _measure("Cursor.next(), 60 at a time", half, lambda: _follow(reader, half))


def _follow(reader: StreamReader, count: int) -> None:
    cursor = Cursor(reader, (VIDEO,))
    cursor.start(0)
    while count > 0:
        count -= len(cursor.next(GOP))


def _board(root: Path) -> None:
    board = Board.open(root)
    before = board.snapshot()
    _measure("board: bump", COUNT, _each(board.bump, [0] * COUNT))
    look = _each(lambda _: board.snapshot().moved(before), range(COUNT))
    _measure("board: snapshot and compare", COUNT, look)


def main() -> None:
    """Print all figures."""
    root = Path(tempfile.mkdtemp(prefix="headwater-bench-", dir="/dev/shm"))
    try:
        for size in SIZES:
            _writing(root, size)
        records = [record_of(seq, 0) for seq in range(COUNT)]
        writer = write_all(root, records, os.urandom(SIZES[0]), 0)
        _reading(writer.reader(), SIZES[0])
        _board(root)
        writer.remove()
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
