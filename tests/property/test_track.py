"""The pages of a stream against a plain list of records."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from common.errors import FormatError, PageGone, StoreFull
from common.track.catalog import Catalog
from common.track.index import decode_row
from common.track.page import HEADER_SIZE, decode_header
from common.track.record import Flag, Record
from common.track.store import Budget, Limits, StreamReader, StreamWriter
from tests.unit.track.build import EPOCH, FRAME, STREAM, VIDEO, catalog, page_path, payload

TRACK = VIDEO.id
LIMIT = 512 * 1024


def record(seq: int, flags: int) -> Record:
    """A record whose fields follow from its seq, so that a run inserted later fits."""
    return Record(seq, seq * FRAME, 0, 0, 0, FRAME, seq // 40, seq // 4, 0, 0, 0, flags, 0)


def flags_of(seq: int) -> int:
    return Flag.LOST if seq % 17 == 16 else Flag.KEY if seq % 40 == 0 else 0


def size_of(seq: int) -> int:
    return 0 if flags_of(seq) & Flag.LOST else (seq * 7919) % 3000


class PagesAgainstAList(RuleBasedStateMachine):
    """A writer that appends, skips, inserts, evicts and restarts, and readers that keep up."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="headwater-test-"))
        self.held: set[int] = set()
        self.head = 0
        self.version = 0
        self.limits = Limits(bytes_per_stream=LIMIT, budget=Budget(LIMIT))
        self.writer = StreamWriter.open(self.root, STREAM, EPOCH, self.limits)
        self.reader = StreamReader.open(self.root, STREAM, EPOCH)
        self.known: Catalog | None = None

    @initialize()
    def begin(self) -> None:
        self.set_catalog()

    def follow_evictions(self) -> None:
        """Take out of the model what the writer evicted by itself: whole prefixes only."""
        oldest = self.writer.oldest(TRACK)
        self.held = {seq for seq in self.held if seq >= oldest}

    @rule(count=st.integers(1, 60))
    def append(self, count: int) -> None:
        for _ in range(count):
            seq = self.head
            self.writer.append(TRACK, record(seq, flags_of(seq)), payload(seq, size_of(seq)))
            self.held.add(seq)
            self.head += 1
        self.follow_evictions()

    @rule(count=st.integers(0, 200))
    def skip(self, count: int) -> None:
        self.head += count
        self.writer.skip(TRACK, self.head)

    @rule(back=st.integers(0, 400), count=st.integers(0, 100))
    def insert(self, back: int, count: int) -> None:
        first = max(0, self.head - back)
        run = [
            (record(seq, flags_of(seq)), payload(seq, size_of(seq)))
            for seq in range(first, first + count)
        ]
        empty = not self.held and self.head == 0
        wanted = {seq for seq in range(first, first + count) if empty or seq < self.head}
        try:
            stored = self.writer.insert(TRACK, run)
        except StoreFull:
            runs = self.writer.reader().track(TRACK).runs()
            self.held |= {seq for seq in wanted for start, stop in runs if start <= seq < stop}
            return
        assert stored == len(wanted - self.held)
        self.held |= wanted
        self.head = max([self.head, *(seq + 1 for seq in wanted)])

    @rule(back=st.integers(0, 300))
    def evict(self, back: int) -> None:
        before = (self.head - back) * FRAME * 1_000_000 // 90_000
        newest = max(self.held, default=-1)
        self.writer.evict(before)
        self.follow_evictions()
        assert newest == -1 or newest in self.held

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        if clean:
            self.writer.close()
        else:
            self.writer._budget.leave(self.writer)
            self.writer._state.close()  # killed: nothing is sealed, the lock is gone
        self.writer = StreamWriter.open(self.root, STREAM, EPOCH, self.limits)
        assert self.writer.adoption.dropped == [] or not clean
        assert self.writer.catalog == self.known
        self.head = max(self.held, default=-1) + 1
        assert self.writer.head(TRACK) == self.head

    @rule()
    def set_catalog(self) -> None:
        self.version += 1
        self.known = catalog(VIDEO, version=self.version)
        self.writer.set_catalog(self.known)

    @rule()
    def read_catalog(self) -> None:
        self.reader.refresh()
        assert self.reader.catalog == self.known

    @rule(anew=st.booleans(), data=st.data())
    def read(self, anew: bool, data: st.DataObject) -> None:
        if anew:
            self.reader.close()
            self.reader = StreamReader.open(self.root, STREAM, EPOCH)
        track = self.reader.track(TRACK)
        first = data.draw(st.integers(0, self.head + 5))
        stop = data.draw(st.integers(first, first + 150))
        wanted = range(first, stop)
        if not set(wanted) <= self.held:
            with pytest.raises(PageGone):
                track.records(first, stop)
            return
        records = track.records(first, stop)
        payloads = track.payloads(first, stop, verify=True)
        assert payloads == [payload(seq, size_of(seq)) for seq in wanted]
        assert track.joined(first, stop, verify=True) == b"".join(payloads)
        assert [tuple(row) for row in track.array(first, stop).tolist()] == records
        for seq, found in zip(wanted, records, strict=True):
            expected = record(seq, flags_of(seq))
            assert found == expected._replace(
                offset=found.offset, size=size_of(seq), crc32=found.crc32
            )

    @rule(seq=st.integers(0, 800))
    def find(self, seq: int) -> None:
        track = self.reader.track(TRACK)
        keys = sorted(s for s in self.held if flags_of(s) & (Flag.KEY | Flag.LOST) == Flag.KEY)
        before = [key for key in keys if key <= seq]
        after = [key for key in keys if key >= seq]
        assert track.keyframe_at_or_before(seq) == (before[-1] if before else None)
        assert track.keyframe_at_or_after(seq) == (after[0] if after else None)
        segment = [s for s in self.held if s // 40 == seq // 40]
        assert track.first_of_segment(seq // 40) == min(segment, default=None)
        part = [s for s in self.held if s // 4 == seq // 4]
        assert track.first_of_part(seq // 4) == min(part, default=None)
        assert track.first_held(seq) == min((s for s in self.held if s >= seq), default=None)

    @invariant()
    def runs_are_what_is_held(self) -> None:
        runs: list[tuple[int, int]] = []
        for seq in sorted(self.held):
            if runs and runs[-1][1] == seq:
                runs[-1] = (runs[-1][0], seq + 1)
            else:
                runs.append((seq, seq + 1))
        track = self.reader.track(TRACK)
        assert track.runs() == runs
        assert track.oldest == (runs[0][0] if runs else 0)
        assert track.contiguous_from == (runs[-1][0] if runs else 0)
        assert self.writer.head(TRACK) == self.head

    @invariant()
    def bytes_are_counted(self) -> None:
        assert self.writer.bytes_held == self.limits.budget.used <= LIMIT
        names = [name for name in os.listdir(self.writer._folder) if name.endswith(".page")]
        on_disk = 0
        for name in names:
            data = (self.writer._folder / name).read_bytes()
            header = decode_header(data, len(data))
            rows = self.reader.track(TRACK)
            last = rows.record(header.first + header.committed - 1)
            on_disk += header.arena + last.offset + last.size
        retired = self.writer._folder.glob(".*.spare")
        assert self.writer.bytes_held == on_disk + sum(path.stat().st_size for path in retired)

    def teardown(self) -> None:
        self.writer.close()
        self.reader.close()
        shutil.rmtree(self.root)


PagesAgainstAList.TestCase.settings = settings(stateful_step_count=25)
test_pages_hold_what_a_list_would = PagesAgainstAList.TestCase


@given(st.binary(max_size=400), st.integers(0, 1 << 40))
def test_any_bytes_are_a_page_header_or_a_format_error(data: bytes, length: int) -> None:
    try:
        decode_header(data, length)
    except FormatError:
        return
    raise AssertionError("random bytes with a right checksum")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_row_a_catalog_or_a_format_error(data: bytes) -> None:
    for decode in (decode_row, Catalog.decode):
        try:
            decode(data)
        except FormatError:
            continue


@given(
    flips=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(1, 255)), max_size=8),
    cut=st.integers(0, 1 << 30),
    chop=st.booleans(),
)
def test_a_damaged_folder_is_adopted_with_what_is_sound(
    flips: list[tuple[int, int]], cut: int, chop: bool
) -> None:
    root = Path(tempfile.mkdtemp(prefix="headwater-test-"))
    try:
        writer = StreamWriter.open(root, STREAM, EPOCH, Limits())
        for seq in range(30):
            writer.append(TRACK, record(seq, flags_of(seq)), payload(seq, size_of(seq) % 90))
        writer.close()
        path = page_path(writer._folder, 1, 0)
        data = np.frombuffer(path.read_bytes(), np.uint8).copy()
        for place, value in flips:
            where = place % len(data)
            if not HEADER_SIZE - 64 <= where < HEADER_SIZE:
                data[where] ^= value
        path.write_bytes(data[: cut % len(data)].tobytes() if chop else data.tobytes())
        _read_all(root)
        again = StreamWriter.open(root, STREAM, EPOCH, Limits())
        head = again.head(TRACK)
        assert head <= 30
        track = again.reader().track(TRACK)
        for found, content in zip(
            track.records(0, head), track.payloads(0, head, verify=True), strict=True
        ):
            assert content == payload(found.seq, size_of(found.seq) % 90)[: found.size]
        again.append(TRACK, record(head, 0), b"on")
        again.close()
    finally:
        shutil.rmtree(root)


def _read_all(root: Path) -> None:
    """A reader of damaged pages gets data or PageGone, and survives."""
    track = StreamReader.open(root, STREAM, EPOCH).track(TRACK)
    for seq in range(30):
        try:
            track.payload(track.record(seq), verify=True)
        except PageGone:
            continue
