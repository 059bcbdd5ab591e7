"""Many short requests at a steady rate, as players make them, and what went wrong with any."""

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urljoin

from tests.harness.caller import Caller

TIMEOUT = 15.0
"""Seconds after which a request has failed."""

TRACK = 1
MAX_REDIRECTS = 4
_LOCATION = re.compile(rb"\r\nlocation: *(\S+)", re.I)
WHOLE = ("playlist", "reload")


@dataclass
class Load:
    """Requests to some edges, and through a balancer, until it is stopped."""

    edges: Sequence[str]
    balancer: str = ""
    rate: float = 1000.0
    """Requests a second."""

    follow: bool = False
    """Whether redirects by edges are followed, as players do: those that drain send them."""

    clients: int = 40
    seed: int = 1
    asked: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)
    again: int = 0
    """Requests that were sent a second time: a kept connection was closed before their answer."""

    began: float = 0.0
    took: float = 0.0

    @property
    def reached(self) -> float:
        """Requests a second that were answered."""
        return self.asked.total() / self.took

    async def client(self, number: int) -> None:
        """Ask one thing after the other; every other client opens a connection for each."""
        chance = random.Random(self.seed * 1000 + number)
        edge = self.edges[number % len(self.edges)]
        pause = self.clients / self.rate
        with Caller(f"client-{number}", keep=number % 2 == 0) as caller:  # a viewer of its own
            due = time.monotonic() + chance.random() * pause
            while True:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due = max(due + pause, time.monotonic() - 1)
                media = f"{edge}/cmaf/live/{TRACK}.m3u8"
                for kind, url in _next(*await self.find(caller, "playlist", media), chance):
                    due += pause
                    await self.find(caller, kind, url)
                if self.balancer:
                    due += pause
                    url = f"{self.balancer}/cmaf/live/index.m3u8"
                    await self.get(caller, "redirect", url, (307,))

    async def parked(self, number: int) -> None:
        """Follow the playlist by blocking reloads, as an LL-HLS player does."""
        edge = self.edges[number % len(self.edges)]
        base = f"{edge}/cmaf/live/{TRACK}.m3u8"
        with Caller(f"parked-{number}") as caller:
            query = ""
            while True:
                kind = "reload" if query else "playlist"
                query = _reload((await self.find(caller, kind, base + query))[1])

    async def find(self, caller: Caller, kind: str, url: str) -> tuple[str, str]:
        """Ask for something of an edge; return where it was found, and its text."""
        for _ in range(MAX_REDIRECTS if self.follow else 0):
            text = await self.get(caller, kind, url, (200, 307))
            location = _LOCATION.search(caller.head)
            if location is None:
                return url, text
            url = urljoin(url, location[1].decode())
        return url, await self.get(caller, kind, url)

    async def get(self, caller: Caller, kind: str, url: str, want: Sequence[int] = (200,)) -> str:
        """Ask for something and note how that went; return its text."""
        caller.head = b""
        began = time.monotonic()
        self.asked[kind] += 1
        try:
            async with asyncio.timeout(TIMEOUT):
                status, body = await caller.get(url, whole=kind in WHOLE)
        except (OSError, EOFError, TimeoutError) as error:
            since = time.monotonic() - self.began
            self.failures.append(f"{kind} after {since:.2f} s: {error!r} {url}")
            return ""
        finally:
            self.again += caller.again
            caller.again = 0
        if status not in want:
            since = time.monotonic() - self.began
            self.failures.append(f"{kind} after {since:.2f} s: {status} {url} {body[:200]!r}")
        took = time.monotonic() - began
        self.slowest[kind] = max(self.slowest.get(kind, 0.0), took)
        return body.decode(errors="replace")


def _next(base: str, playlist: str, chance: random.Random) -> list[tuple[str, str]]:
    """Return what to fetch next: the newest parts, and a segment."""
    parts = re.findall(r'#EXT-X-PART:[^\n]*URI="([^"]+)"', playlist)
    segments = re.findall(r"^[^#\s]\S*", playlist, re.M)
    wanted = [("part", urljoin(base, name)) for name in parts[-3:]]
    if segments:
        wanted.append(("segment", urljoin(base, chance.choice(segments))))
    return wanted


def _reload(text: str) -> str:
    """Return the query of the blocking reload that follows this playlist."""
    found = re.search(r"#EXT-X-MEDIA-SEQUENCE:(\d+)", text)
    if found is None:
        return ""
    closed = text.count("#EXTINF:")
    tail = text[text.rfind("#EXTINF:") :] if closed else text
    return f"?_HLS_msn={int(found[1]) + closed}&_HLS_part={tail.count('#EXT-X-PART:')}"


@contextlib.asynccontextmanager
async def under(load: Load) -> AsyncIterator[Load]:
    """Ask for the time of a block."""
    load.began = time.monotonic()
    tasks = [asyncio.create_task(load.client(number)) for number in range(load.clients)]
    tasks += [asyncio.create_task(load.parked(number)) for number in range(2 * len(load.edges))]
    try:
        yield load
    finally:
        load.took = time.monotonic() - load.began
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                load.failures.append(repr(result))
