"""An encoder that pushes numbered frames to an origin, or to the next one when it loses that."""

import asyncio
import random
from collections.abc import Sequence

from common.errors import HeadwaterError
from common.media.codec import Codec
from common.media.frame import Frame
from origin.publisher import Publisher
from tests.sim.network import Network
from tests.sim.nodes import STREAM, OriginHost
from tests.unit.media.samples import AVCC_BASELINE

ASC_8K = bytes.fromhex("1588")
FPS, GOP = 10, 10
RETRY = 0.5
NAL = {True: b"\x65", False: b"\x41"}


def frame_id(track: int, payload: bytes) -> int:
    """Return the number that a frame was pushed under."""
    return int.from_bytes(payload[5:13] if track == 1 else payload[:8], "big")


class Encoder:
    """Pushes video and sound, the same frames at the same times whoever else does."""

    def __init__(
        self, name: str, origins: Sequence[OriginHost], network: Network, seed: int
    ) -> None:
        self.name = name
        self.pushed: dict[int, set[int]] = {1: set(), 2: set()}
        """What was written to an origin, by track."""
        self._origins = list(origins)
        self._network = network
        self._seed = seed
        self._place = 0
        self._publisher: Publisher | None = None
        self._host: OriginHost | None = None
        self._life = 0
        self._tracks = (0, 0)
        self._keyed = False

    async def run(self, seconds: float) -> None:
        """Push for so long."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        retry_at = began
        for number in range(round(seconds * FPS)):
            await asyncio.sleep(began + number / FPS - loop.time())
            if not self._connected() and loop.time() >= retry_at:
                retry_at = loop.time() + RETRY
                await self._connect()
            if self._publisher is not None:
                self._push(number)
        if self._publisher is not None and self._connected():
            self._publisher.close("done")

    def _connected(self) -> bool:
        host = self._host
        there = host is not None and host.up and host.life == self._life
        alive = there and host is not None and not self._network.way(self.name, host.name).cut
        if self._publisher is not None and (not alive or self._publisher.closed):
            if there:
                self._publisher.close("connection lost")
            self._publisher = None
            self._place += 1
        return self._publisher is not None

    async def _connect(self) -> None:
        host = self._origins[self._place % len(self._origins)]
        if not host.up or self._network.way(self.name, host.name).cut:
            self._place += 1
            return
        try:
            publisher = await host.streams.publish(STREAM, "k", peer=self.name)
            self._tracks = (
                publisher.add_track(Codec.H264, AVCC_BASELINE, clock=90_000),
                publisher.add_track(Codec.AAC, ASC_8K, clock=8000),
            )
        except HeadwaterError as error:
            self._network.trace(f"{self.name} is refused by {host.name}: {error}")
            return
        if host.up:
            self._network.trace(f"{self.name} publishes on {host.name}")
            self._publisher, self._host, self._keyed = publisher, host, False
            self._life = host.life

    def _push(self, number: int) -> None:
        assert self._publisher is not None
        key = number % GOP == 0
        self._keyed = self._keyed or key
        if not self._keyed:
            return
        video, audio = self._tracks
        for sound in range(number * 8000 // FPS // 1024, (number + 1) * 8000 // FPS // 1024):
            body = sound.to_bytes(8, "big") + self._noise(2, sound, 40)
            self.pushed[2].add(sound)
            self._publisher.write(Frame(audio, sound * 1024, body, keyframe=True))
        body = NAL[key] + number.to_bytes(8, "big") + self._noise(1, number, 600 if key else 150)
        data = len(body).to_bytes(4, "big") + body
        self.pushed[1].add(number)
        self._publisher.write(Frame(video, number * 90_000 // FPS, data, keyframe=key))

    def _noise(self, track: int, number: int, most: int) -> bytes:
        rng = random.Random(self._seed * 1_000_003 + track * 500_009 + number)
        return rng.randbytes(rng.randint(1, most))
