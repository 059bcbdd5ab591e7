"""Children that run FFmpeg for the origin: how they are started, limited, and heard.

Whatever FFmpeg does with bytes from outside happens in a process with limited memory and time,
which hands tracks and frames over on its standard output. A message is a length (u32, big endian,
of what follows), one byte of kind, and the body; the parent trusts none of it.
"""

import asyncio
import os
import resource
import signal
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgpack

from common.errors import FormatError, StreamBusy, StreamError, TrackUnsupported
from common.media.codec import Codec
from common.media.frame import Frame
from common.runtime.logs import Log
from common.runtime.tasks import spawn_child, stop_child
from origin.publisher import Publisher

MAX_MESSAGE = 32 * 1024 * 1024
"""Bytes of one message of a child: a key frame of 8K video stays well below. A longer one ends the
child."""

MAX_CHILD_TRACKS = 64
"""Tracks that a child may announce. One more ends the child."""

MEMORY_LIMIT = 2 * 1024**3
"""Bytes of address space of a child that runs FFmpeg; encoding HEVC of 3840x2160 takes 0.9 GB. With
more it gets no memory, and ends."""

SILENCE_LIMIT = 10.0
"""Seconds without a message from a child; it beats every second. After that it is taken for stuck,
and ended."""

CPU_ALLOWANCE = 20
"""Seconds of CPU time that a child may use between two beats."""

_READ_SIZE = 256 * 1024
_FRAME = struct.Struct(">BBqiIq")
_KEY = 1

_TRACK, _SAMPLE, _WARNING, _FAILURE, _BEAT = 1, 2, 3, 4, 5


@dataclass(frozen=True, slots=True)
class TrackNote:
    """A child announces a track; its frames carry the same number."""

    number: int
    codec: Codec
    init: bytes
    clock: int
    """Ticks a second of the frames' dts."""

    language: str = "und"
    name: str = ""
    frame_duration: int = 0


@dataclass(frozen=True, slots=True)
class WarningNote:
    """A child says something that the operator should know."""

    text: str


@dataclass(frozen=True, slots=True)
class FailureNote:
    """A child says why it ends."""

    text: str


Note = TrackNote | WarningNote | FailureNote | Frame | None
"""What a child says; None is a beat: nothing new, but alive."""


class ChildWriter:
    """The child's side: write messages, waiting while the parent is slow."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def track(self, note: TrackNote) -> None:
        """Announce a track before its first frame."""
        self._send(_TRACK, msgpack.packb(asdict(note)))

    def frame(self, frame: Frame) -> None:
        """Hand over a frame; ``frame.track`` is the number that was announced."""
        flags = _KEY if frame.keyframe else 0
        head = _FRAME.pack(
            frame.track, flags, frame.dts, frame.cts, frame.duration, frame.capture_us
        )
        self._send(_SAMPLE, head + frame.data)

    def warning(self, text: str) -> None:
        """Tell the operator something."""
        self._send(_WARNING, text.encode())

    def failure(self, text: str) -> None:
        """Say why this child ends."""
        self._send(_FAILURE, text.encode())

    def beat(self) -> None:
        """Say that this child is alive, and take the CPU time for the next second."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(usage.ru_utime + usage.ru_stime)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (spent + CPU_ALLOWANCE, hard))
        self._send(_BEAT, b"")

    def _send(self, kind: int, body: bytes) -> None:
        message = memoryview(struct.pack(">IB", len(body) + 1, kind) + body)
        while message:
            message = message[os.write(self._descriptor, message) :]


class ChildReader:
    """The parent's side: turn bytes into notes, however they are chunked."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Note]:
        """Return the notes that are complete.

        Raises:
            FormatError: If the child does not keep to the format.
        """
        self._buffer += data
        notes: list[Note] = []
        position = 0
        while len(self._buffer) - position >= 4:
            size = int.from_bytes(self._buffer[position : position + 4], "big")
            if not 1 <= size <= MAX_MESSAGE:
                raise FormatError(f"a child sent a message of {size} bytes")
            if len(self._buffer) - position < 4 + size:
                break
            start = position + 5
            position += 4 + size
            notes.append(_read(self._buffer[start - 1], bytes(self._buffer[start:position])))
        del self._buffer[:position]
        return notes


def _read(kind: int, body: bytes) -> Note:
    if kind == _SAMPLE:
        if len(body) < _FRAME.size:
            raise FormatError("a child sent a frame without its header")
        track, flags, dts, cts, duration, capture = _FRAME.unpack_from(body)
        payload = body[_FRAME.size :]
        return Frame(track, dts, payload, cts, bool(flags & _KEY), duration, capture)
    if kind == _TRACK:
        return _track(body)
    if kind == _WARNING:
        return WarningNote(body[:1000].decode(errors="replace"))
    if kind == _FAILURE:
        return FailureNote(body[:1000].decode(errors="replace"))
    if kind == _BEAT:
        return None
    raise FormatError(f"a child sent a message of kind {kind}")


def _track(body: bytes) -> TrackNote:
    try:
        tree: dict[str, Any] = msgpack.unpackb(body, max_map_len=16, max_ext_len=0)
        note = TrackNote(**{**tree, "codec": Codec(tree["codec"])})
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise FormatError(f"a child sent a broken track: {error}") from error
    numbers = (note.number, note.clock, note.frame_duration)
    texts = (note.language, note.name)
    if not all(type(number) is int for number in numbers) or not isinstance(note.init, bytes):
        raise FormatError("a child sent a broken track")
    if not all(isinstance(text, str) for text in texts) or not 0 < note.clock <= 10**9:
        raise FormatError("a child sent a broken track")
    return note


def _confine() -> None:
    """Limit this process, between fork and exec."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_ALLOWANCE, hard))


def standard_output() -> ChildWriter:
    """Take standard output for messages; what libraries print there goes to standard error."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return ChildWriter(descriptor)


async def publish_child(
    module: str,
    arguments: Sequence[str],
    publisher: Publisher,
    log: Log,
    *,
    environment: Mapping[str, str] | None = None,
    silence: float = SILENCE_LIMIT,
) -> None:
    """Run ``python -m module arguments`` and publish what it hands over, until it ends.

    Returns when the child has ended by itself without a complaint. It is killed when this task is
    cancelled, and when it is silent for ``silence`` seconds.

    Raises:
        TrackUnsupported: If no track of the child can be published.
        StreamBusy: If the publisher was dismissed.
        StreamError: If the child failed, got stuck, or broke the format; the text says how.
    """
    dismissed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def dismiss(reason: str) -> None:
        if not dismissed.done():
            dismissed.set_result(reason)

    publisher.on_close = dismiss
    try:
        child = await spawn_child(
            [sys.executable, "-m", module, *arguments],
            stdout=PIPE,
            environment=environment,
            limit=_READ_SIZE,
            prepare=_confine,
        )
        listening = asyncio.ensure_future(_Listener(child, publisher, log, silence).run())
        try:
            waited: set[asyncio.Future[Any]] = {listening, dismissed}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if dismissed.done():
                raise StreamBusy(f"{publisher.stream}: {dismissed.result()}")
            await listening
        finally:
            listening.cancel()
            await asyncio.wait({listening})
            await stop_child(child, grace=0.5)
    finally:
        publisher.on_close = None


class _Listener:
    """Hears one child out."""

    def __init__(self, child: Process, publisher: Publisher, log: Log, silence: float) -> None:
        self._child = child
        self._publisher = publisher
        self._log = log
        self._silence = silence
        self._reader = ChildReader()
        self._tracks: dict[int, int] = {}
        self._refused: dict[int, str] = {}
        self._failure = ""

    async def run(self) -> None:
        output = self._child.stdout
        assert output is not None
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    data = await output.read(_READ_SIZE)
            except TimeoutError:
                name = self._publisher.stream
                raise StreamError(f"{name}: its process said nothing for long") from None
            if not data:
                break
            for note in self._reader.feed(data):
                self._take(note)
        await self._bury()

    def _take(self, note: Note) -> None:
        if isinstance(note, Frame):
            self._write(note)
        elif isinstance(note, TrackNote):
            self._open(note)
        elif isinstance(note, WarningNote):
            self._log.warning("source warned", extra={"warning": note.text})
        elif isinstance(note, FailureNote):
            self._failure = note.text

    def _write(self, frame: Frame) -> None:
        track = self._tracks.get(frame.track)
        if track is not None:
            frame.track = track
            self._publisher.write(frame)
        elif frame.track not in self._refused:
            raise FormatError(f"a child sent a frame of track {frame.track}, never announced")

    def _open(self, note: TrackNote) -> None:
        if note.number in self._tracks:
            self._publisher.set_init(self._tracks[note.number], note.init)
            return
        if len(self._tracks) + len(self._refused) >= MAX_CHILD_TRACKS:
            raise FormatError("a child announced too many tracks")
        try:
            self._tracks[note.number] = self._publisher.add_track(
                note.codec,
                note.init,
                clock=note.clock,
                language=note.language,
                name=note.name,
                frame_duration=note.frame_duration,
            )
        except TrackUnsupported as error:
            self._refused[note.number] = str(error)
            self._log.warning("track left out", extra={"codec": note.codec, "error": str(error)})

    async def _bury(self) -> None:
        code = await self._child.wait()
        name = self._publisher.stream
        if self._failure:
            raise StreamError(f"{name}: {self._failure}")
        if code < 0:
            what = signal.Signals(-code).name
            raise StreamError(f"{name}: its process was ended by {what}")
        if code > 0:
            raise StreamError(f"{name}: its process ended with code {code}")
        if self._refused and not self._tracks:
            raise TrackUnsupported(f"{name}: " + "; ".join(self._refused.values()))
