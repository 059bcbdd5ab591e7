"""Find out when the way to a silent node is open again.

A TCP connection that was cut off tries again at ever longer intervals, so it stays dead for about
as long again as the way was. Therefore the port of a silent node is knocked at with plain
connections, a new one every 100 ms whatever became of those before; the first one that is accepted
tells that the way is open, and how long a round trip takes.
"""

import asyncio
from collections.abc import Callable

KNOCK_US = 100_000
"""A new try goes out this often: on average, half of it passes before an open way is found."""

PATIENCE = 3.0
"""Seconds that one try may take: no way on Earth is longer."""

AT_ONCE_US = 900_000
"""A try that takes longer may have been repeated by the kernel: that says nothing of the way."""

REST_US = 1_500_000
"""After the way was open nobody knocks for this long, or for ``ROUND_TRIPS``."""

ROUND_TRIPS = 12
"""What a connection of the bus takes from its first packet to its first message, and a margin."""


class Knocker:
    """Knocks at one node, in the running event loop."""

    def __init__(self, opened: Callable[[int], None], now_us: Callable[[], int]) -> None:
        """``opened`` is called when somebody has answered.

        It is told how long a round trip takes, in microseconds, or 0 if that is not known.
        """
        self._opened = opened
        self._now = now_us
        self._due_us = 0
        self._tries: set[asyncio.Task[None]] = set()

    def tick(self, endpoint: str, now: int) -> None:
        """Knock at ``tcp://HOST:PORT`` if it is time: call it for as long as a node is silent."""
        if now >= self._due_us:
            self._due_us = now + KNOCK_US
            task = asyncio.get_running_loop().create_task(self._knock(endpoint))
            self._tries.add(task)
            task.add_done_callback(self._tries.discard)

    async def _knock(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        began = self._now()
        try:
            async with asyncio.timeout(PATIENCE):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            return
        writer.transport.abort()
        now = self._now()
        round_trip_us = now - began if now - began < AT_ONCE_US else 0
        self.close()
        self._due_us = now + max(REST_US, ROUND_TRIPS * round_trip_us)
        self._opened(round_trip_us)

    def close(self) -> None:
        """Give up all tries under way."""
        current = asyncio.current_task()
        for task in self._tries:
            if task is not current:
                task.cancel()
