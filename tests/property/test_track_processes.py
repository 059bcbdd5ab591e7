"""Pages between processes: a writer killed at any moment, readers that verify every byte."""

import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import PageGone, StreamBusy, StreamNotFound
from common.track.board import Board
from common.track.record import Record
from common.track.store import Limits, StreamReader, StreamWriter
from common.track.view import PageView
from tests.unit.track.build import AUDIO, EPOCH, STREAM, VIDEO

DEADLINE_S = 30

_WRITER = """
import sys
from pathlib import Path
from common.track.store import Limits, StreamWriter
from tests.unit.track.build import EPOCH, STREAM, audio, catalog, payload, video
window = int(sys.argv[2]) if len(sys.argv) > 2 else 0
limits = Limits(bytes_per_stream=8 << 20, window_us=window)
writer = StreamWriter.open(Path(sys.argv[1]), STREAM, EPOCH, limits)
if writer.catalog is None:
    writer.set_catalog(catalog())
print(writer.head(1), writer.head(2), len(writer.adoption.dropped), flush=True)
seq = writer.head(1)
while True:
    size = (seq * 7919) % 20_000
    writer.append(1, video(seq, size=size), payload(seq, size))
    sound = writer.head(2)
    writer.append(2, audio(sound), payload(sound, sound % 500))
    if sound % 1000 == 0:
        writer.set_catalog(catalog(version=sound + 1))
    seq += 1
"""

_READER = """
import sys
from pathlib import Path
from common.track.store import StreamReader
from tests.unit.track.build import EPOCH, STREAM
from tests.property.test_track_processes import Checker
checker = Checker(StreamReader.open(Path(sys.argv[1]), STREAM, EPOCH))
print("ready", flush=True)
while True:
    checker.step()
"""


_PAGE_WRITER = """
import sys
from pathlib import Path
from common.track.page import Disk, PageName, PageWriter
from tests.unit.track.build import video
page = PageWriter(Path(sys.argv[1]), PageName(1, 0, 0), 60_000, 0, Disk())
record = video(0, size=0)
print(page.path, flush=True)
sys.stdin.readline()
while page.count < page.capacity:
    page.append(record, b"", 0)
"""


class Checker:
    """Reads everything that is committed on both tracks and compares it."""

    def __init__(self, reader: StreamReader) -> None:
        self.reader = reader
        self.next = {VIDEO.id: 0, AUDIO.id: 0}
        self.verified = 0
        self.overtaken = 0

    def step(self) -> None:
        for number in self.next:
            track = self.reader.track(number)
            first, head = self.next[number], track.head
            assert head >= first, "a head that went back"
            stop = min(head, first + 50)
            try:
                records = track.records(first, stop)
                payloads = track.payloads(first, stop, verify=True)
            except PageGone:
                self.next[number] = max(first, track.contiguous_from)
                self.overtaken += 1
                continue
            for seq, record, data in zip(range(first, stop), records, payloads, strict=True):
                self.compare(number, seq, record, data)
            self.next[number] = stop
            self.verified += stop - first

    def compare(self, number: int, seq: int, record: Record, data: bytes) -> None:
        size = (seq * 7919) % 20_000 if number == VIDEO.id else seq % 500
        assert (record.seq, record.size, len(data)) == (seq, size, size)
        assert data == (seq.to_bytes(8, "little") * (size // 8 + 1))[:size]


def spawn(code: str, root: Path, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, str(root), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def kill(child: "subprocess.Popen[str]") -> None:
    child.send_signal(signal.SIGKILL)
    child.wait(DEADLINE_S)
    assert child.stdout is not None
    assert child.stdin is not None
    child.stdout.close()
    child.stdin.close()


def line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline()


@pytest.fixture
def root() -> Iterator[Path]:
    """A page folder in memory, as on a node."""
    with tempfile.TemporaryDirectory(prefix="headwater-test-", dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_writer_killed_at_any_moment_leaves_only_whole_records(root: Path) -> None:
    chance = random.Random(20)
    checker: Checker | None = None
    for _ in range(4):
        writer = spawn(_WRITER, root)
        try:
            video, _, dropped = map(int, line(writer).split())
            assert dropped <= 2  # at most a page without a record on each track
            if checker is None:
                checker = Checker(StreamReader.open(root, STREAM, EPOCH))
            assert video >= checker.next[VIDEO.id]
            deadline = time.monotonic() + DEADLINE_S
            target = checker.verified + chance.randrange(1, 4000)
            while checker.verified < target:
                checker.step()
                assert time.monotonic() < deadline
        finally:
            kill(writer)
        head = checker.reader.track(VIDEO.id).head
        checker.step()
        assert checker.reader.track(VIDEO.id).head == head
    assert checker is not None
    after = StreamWriter.open(root, STREAM, EPOCH, Limits())
    assert after.head(VIDEO.id) == checker.reader.track(VIDEO.id).head
    assert after.catalog is not None
    first = checker.reader.track(VIDEO.id).contiguous_from
    assert first == after.oldest(VIDEO.id)
    after.remove()
    assert checker.verified > 0


def test_readers_see_what_was_written_while_files_are_used_again(root: Path) -> None:
    writer = spawn(_WRITER, root, 8_000_000)
    try:
        line(writer)
        checker = Checker(StreamReader.open(root, STREAM, EPOCH))
        seen: dict[str, int] = {}
        deadline = time.monotonic() + DEADLINE_S
        while checker.verified < 3000 or len(set(seen.values())) >= len(seen):
            for _ in range(20):
                checker.step()
            for path in root.glob("*/*.page"):
                with contextlib.suppress(FileNotFoundError):
                    seen[path.name] = path.stat().st_ino
            assert time.monotonic() < deadline
    finally:
        kill(writer)


def test_a_commit_counter_is_never_seen_half_written(root: Path) -> None:
    writer = spawn(_PAGE_WRITER, root)
    try:
        view = PageView(Path(line(writer).strip()))
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
        deadline = time.monotonic() + DEADLINE_S
        seen = 0
        while seen < 60_000 and time.monotonic() < deadline:
            for _ in range(1000):
                count = view.refresh()
                assert count >= seen
                seen = count
        assert seen >= 60_000
    finally:
        kill(writer)


def test_a_reader_that_is_killed_disturbs_nobody(root: Path) -> None:
    writer = spawn(_WRITER, root)
    try:
        line(writer)
        victims = [spawn(_READER, root) for _ in range(2)]
        checker = Checker(StreamReader.open(root, STREAM, EPOCH))
        for victim in victims:
            assert line(victim) == "ready\n"
            checker.step()
            kill(victim)
        goal = checker.verified + 500
        deadline = time.monotonic() + DEADLINE_S
        while checker.verified < goal:
            checker.step()
            assert time.monotonic() < deadline
        with pytest.raises(StreamBusy):
            StreamWriter.open(root, STREAM, EPOCH, Limits())
    finally:
        kill(writer)


def test_the_board_tells_of_a_writer_in_another_process(root: Path) -> None:
    board = Board.open(root)
    before = board.snapshot()
    writer = spawn(_WRITER, root)
    try:
        line(writer)
        deadline = time.monotonic() + DEADLINE_S
        slot = None
        while slot is None or board.snapshot().moved(before) != [slot]:
            slot = board.slot_of(STREAM, EPOCH)
            assert time.monotonic() < deadline
        assert board.snapshot().generation != before.generation
        assert board.snapshot().catalogs_moved(before) == [slot]
    finally:
        kill(writer)
    with pytest.raises(StreamNotFound):
        StreamReader.open(root, STREAM, EPOCH + 1)
