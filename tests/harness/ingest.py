"""The RTMP input on a real socket with a fake origin behind it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec

from common.errors import HeadwaterError
from common.media.frame import Frame
from common.runtime.registry import Owner
from origin.input import InputContext
from origin.inputs.rtmp import RtmpInput, RtmpSettings
from origin.publisher import Publisher, TrackWish
from origin.streams import Streams

SOON = 5.0


class Stream:
    """Stands for an origin's stream: notes everything a publisher does."""

    name = "live"

    def __init__(self) -> None:
        self.tracks: list[TrackWish] = []
        self.inits: list[tuple[int, bytes]] = []
        self.frames: list[Frame] = []
        self.left: list[tuple[str, bool]] = []
        self.fail: HeadwaterError | None = None
        self.changed = asyncio.Condition()

    def add_track(self, publisher: Publisher, wish: TrackWish) -> int:
        self.tracks.append(wish)
        return len(self.tracks)

    def set_init(self, publisher: Publisher, track: int, init: bytes) -> None:
        self.inits.append((track, init))

    def write(self, publisher: Publisher, frame: Frame) -> None:
        if self.fail is not None:
            raise self.fail
        self.frames.append(frame)
        self._tell()

    def leave(self, publisher: Publisher, reason: str, ended: bool) -> None:
        self.left.append((reason, ended))
        self._tell()

    def _tell(self) -> None:
        async def tell() -> None:
            async with self.changed:
                self.changed.notify_all()

        self._task = asyncio.ensure_future(tell())

    async def until_left(self) -> tuple[str, bool]:
        async with self.changed, asyncio.timeout(SOON):
            await self.changed.wait_for(lambda: bool(self.left))
        return self.left[-1]

    async def until_frames(self, count: int) -> list[Frame]:
        async with self.changed, asyncio.timeout(SOON):
            await self.changed.wait_for(lambda: len(self.frames) >= count)
        return self.frames


class Origin(Streams):
    """Stands for the streams of an origin: one stream, and a door that can be kept shut."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.asked: list[tuple[str, str | None, str, str]] = []
        self.refusal: Exception | None = None
        self.door = asyncio.Event()
        self.door.set()
        self.knocked = asyncio.Event()
        self.publisher: Publisher | None = None
        self.owner: Owner | None = None

    async def publish(
        self,
        name: str,
        key: str | None,
        *,
        slot: str = "main",
        peer: str = "",
        protocol: str = "rtmp",
        forwarded: bool = False,
    ) -> Publisher:
        self.asked.append((name, key, slot, protocol))
        self.knocked.set()
        await self.door.wait()
        if self.refusal is not None:
            raise self.refusal
        self.publisher = Publisher(
            self.stream, slot, peer=peer, protocol=protocol, number=1, key_id=b""
        )
        return self.publisher

    async def elsewhere(self, name: str, key: str | None) -> Owner | None:
        return self.owner


class Site:
    """A running input."""

    def __init__(self, origin: Origin, source: RtmpInput, address: str) -> None:
        self.origin = origin
        self.stream = origin.stream
        self.input = source
        self.address = address

    @property
    def target(self) -> tuple[str, int]:
        """Host and port, as sockets take them."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.ensure_future(self.input.run())
        return self._task

    async def stop(self) -> None:
        """Stop the node."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def running(
    origin: Origin | None = None, settings: RtmpSettings | None = None
) -> AsyncIterator[Site]:
    """Run the input on a free port of this machine."""
    origin = origin or Origin()
    found: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
    context = InputContext("node", lambda name, url: found.set_result((name, url)))
    local = msgspec.structs.replace(settings or RtmpSettings(), listen="127.0.0.1:0")
    site = Site(origin, RtmpInput(origin, local, context), "")
    task = site.start()
    await asyncio.wait((task, found), timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    name, url = found.result()
    assert name == RtmpInput.endpoint == "rtmp"
    site.address = url.removeprefix("rtmp://")
    try:
        yield site
    finally:
        await site.stop()
