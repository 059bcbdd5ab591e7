"""What an origin tells the balancers of its load, so that they can choose one for a publisher."""

import time
from collections.abc import Callable

from common.bus.gossip import Load
from common.runtime.memory import memory_used
from origin.live import LiveStream
from origin.streams import Streams


class LoadMeter:
    """Measures one origin between two reports."""

    def __init__(
        self,
        streams: Streams,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
        memory: Callable[[], float] = memory_used,
    ) -> None:
        self._streams = streams
        self._clock = clock
        self._cpu = cpu
        self._memory = memory
        self._at, self._used = clock(), cpu()
        self._bytes: dict[str, int] = {}

    def __call__(self) -> Load:
        """Return the load since the last call."""
        now, used = self._clock(), self._cpu()
        took = max(now - self._at, 1e-3)
        share, self._at, self._used = (used - self._used) / took, now, used
        lives = self._streams.live()
        before = self._bytes
        self._bytes = {live.name: _taken(live) for live in lives}
        bits = [
            max(0, size - before.get(name, size)) * 8 / took for name, size in self._bytes.items()
        ]
        return Load(
            bandwidth=sum(bits),
            sessions=sum(len(live.publishers) for live in lives),
            cpu=share,
            memory=self._memory(),
            streams=[live.name for live in lives],
            viewers=[0 for _ in lives],
            bits=bits,
        )


def _taken(live: LiveStream) -> int:
    """Return the bytes that its publishers have sent; less than before once one begins anew."""
    return sum(feed.bytes for slot in live.slots.values() for feed in slot.feeds.values())
