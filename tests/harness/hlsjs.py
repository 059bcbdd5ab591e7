"""Many players on one machine: a model of what hls.js 1.7 does on the network, without a picture.

Low-latency reloads that block, parts as they are listed, a buffer that a clock empties, Content
Steering, and what hls.js does when requests fail: an audio playlist that fails changes the pathway
at once, a video playlist after two more tries (1 s, 2 s). A player without steering takes redundant
variants, a plain one opens the multivariant playlist anew where it began.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

STEERED, REDUNDANT, PLAIN = "steered", "redundant", "plain"
TIMEOUT = 15.0
TICK = 0.02
RETRIES = (1.0, 2.0)
"""Seconds before a video playlist is asked for again (hls.js: playlistLoadPolicy)."""

MAX_REDIRECTS = 5


class Refused(Exception):
    """An answer that is none."""


@dataclass
class Answer:
    status: int
    body: bytes
    url: str

    @property
    def text(self) -> str:
        return self.body.decode()


class Lane:
    """One connection at a time to each host, kept alive, as a browser has them."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._open: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._turn = asyncio.Lock()

    async def get(self, url: str) -> Answer:
        """Fetch, following redirects.

        Raises:
            OSError, EOFError, TimeoutError: If the connection fails.
        """
        for _ in range(MAX_REDIRECTS):
            # Not wait_for, which may swallow a cancellation.
            async with self._turn, asyncio.timeout(TIMEOUT):
                answer, location = await self.once(url)
            if answer.status not in (302, 307, 308):
                return answer
            url = urljoin(url, location)
        raise Refused(f"too many redirects, the last to {url}")

    async def once(self, url: str) -> tuple[Answer, str]:
        """Fetch; return the answer, and where it redirects to."""
        host = urlsplit(url).netloc
        kept = host in self._open
        try:
            return await self._ask(host, url)
        except (OSError, EOFError):
            self._drop(host)
            if not kept:
                raise
        return await self._ask(host, url)  # the server had closed what was kept alive

    async def _ask(self, host: str, url: str) -> tuple[Answer, str]:
        if host not in self._open:
            name, _, port = host.rpartition(":")
            self._open[host] = await asyncio.open_connection(name, int(port), limit=2**20)
        reader, writer = self._open[host]
        path = url.split(host, 1)[1]
        agent = f"User-Agent: {self._agent}\r\n"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{agent}\r\n".encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"(?im)^content-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
        except BaseException:
            self._drop(host)
            raise
        found = re.search(r"(?im)^location: *(\S+)", head)
        if re.search(r"(?im)^connection: *close", head):
            self._drop(host)
        return Answer(int(head[9:12]), body, url), found[1] if found else ""

    def _drop(self, host: str) -> None:
        if host in self._open:
            self._open.pop(host)[1].close()

    def close(self) -> None:
        for host in [*self._open]:
            self._drop(host)


@dataclass
class Track:
    """What a player has of one media playlist."""

    next_part: int | None = None
    end: float = 0.0
    """Seconds of media fetched since its beginning."""


@dataclass
class Player:
    """One viewer."""

    url: str
    name: str
    kind: str = STEERED
    part_hold_back: float = 6.0
    pathway: str = ""
    failed: list[str] = field(default_factory=list)
    requests: int = 0
    moves: int = 0
    opened: int = 0
    stalled: float = 0.0
    longest: float = 0.0
    gaps: int = 0
    lost_at: float = 0.0
    """When its edge was lost, by the loop's clock; set by the test."""

    back: float | None = None
    """Seconds after that in which the first answer of another edge was there."""

    playhead: float | None = None

    def __post_init__(self) -> None:
        self.tracks = {"video": Track(), "audio": Track()}
        self.pathways: dict[str, dict[str, str]] = {}
        self.priority: list[str] = []
        self.penalised: set[str] = set()
        self.steering = ""
        self._stall = 0.0
        self._retries = 0
        self._reopening = asyncio.Lock()
        self._lanes = {name: Lane(self.name) for name in ("video", "audio", "other")}

    @property
    def edge(self) -> str:
        """Where the video comes from now."""
        return urlsplit(self.pathways.get(self.pathway, {}).get("video", "")).netloc

    async def run(self) -> None:
        """Play until cancelled."""
        try:
            await self._begin()
            async with asyncio.TaskGroup() as group:
                for kind in self.tracks:
                    group.create_task(self._follow(kind))
                if self.kind == STEERED:
                    group.create_task(self._steer())
        finally:
            for lane in self._lanes.values():
                lane.close()

    def tick(self, seconds: float) -> None:
        """Play for some time, as far as there is media."""
        if self.playhead is None:
            return
        ahead = min(track.end for track in self.tracks.values()) - self.playhead
        played = max(0.0, min(seconds, ahead))
        self.playhead += played
        if played < seconds:
            self.stalled += seconds - played
            self._stall += seconds - played
            self.longest = max(self.longest, self._stall)
        else:
            self._stall = 0.0

    async def _get(self, lane: str, url: str) -> Answer:
        self.requests += 1
        try:
            answer = await self._lanes[lane].get(url)
        except (OSError, EOFError, TimeoutError, Refused) as error:
            self.failed.append(f"{url}: {type(error).__name__}")
            raise Refused(url) from error
        if answer.status != 200:
            self.failed.append(f"{url}: {answer.status} {answer.text[:80]}")
            raise Refused(url)
        if self.lost_at and self.back is None and lane != "other":
            self.back = asyncio.get_running_loop().time() - self.lost_at
        return answer

    async def _begin(self) -> None:
        while True:
            with contextlib.suppress(Refused):
                self._read(await self._get("other", self.url))
                return
            await asyncio.sleep(0.25)

    def _read(self, master: Answer) -> None:
        self.opened += 1
        groups: dict[str, str] = {}
        self.pathways = {}
        for line in re.findall(r"^#EXT-X-MEDIA:(.*)$", master.text, re.M):
            groups[_attribute(line, "GROUP-ID")] = urljoin(master.url, _attribute(line, "URI"))
        for line, uri in re.findall(r"^#EXT-X-STREAM-INF:(.*)\n(\S+)$", master.text, re.M):
            pathway = _attribute(line, "PATHWAY-ID") or "."
            self.pathways[pathway] = {
                "video": urljoin(master.url, uri),
                "audio": groups[_attribute(line, "AUDIO")],
            }
        self.pathway = next(iter(self.pathways))
        steering = re.search(r"^#EXT-X-CONTENT-STEERING:(.*)$", master.text, re.M)
        if steering and self.kind == STEERED:
            self.steering = urljoin(master.url, _attribute(steering[1], "SERVER-URI"))
            self.pathway = _attribute(steering[1], "PATHWAY-ID")

    async def _follow(self, kind: str) -> None:
        track, query = self.tracks[kind], ""
        while True:
            pathway, uri = self.pathway, self.pathways[self.pathway][kind]
            try:
                listed = await self._get(kind, uri + query)
                if kind == "video":
                    self._retries = 0
                await self._parts(kind, track, listed)
                query = _next(listed.text)
            except Refused:
                query = ""
                if pathway == self.pathway:
                    await self._trouble(kind)
            if pathway != self.pathway:
                query = ""

    async def _parts(self, kind: str, track: Track, listed: Answer) -> None:
        parts = re.findall(r'#EXT-X-PART:DURATION=([\d.]+),URI="(\S+?p(\d+)\.m4s)"', listed.text)
        if track.next_part is None:
            closed = re.findall(r"^#EXTINF[^\n]*\n\S+$", listed.text, re.M)[-1]
            before = listed.text[: listed.text.rindex(closed)]
            # Parts of the newest whole segment come behind the one before, if there is one.
            start = max(0, before.rfind("#EXTINF"))
            first = re.search(r"p(\d+)\.m4s", listed.text[start:])
            track.next_part = int(first[1]) if first else int(parts[0][2])
        wanted = [part for part in parts if int(part[2]) >= track.next_part]
        if wanted and int(wanted[0][2]) > track.next_part:
            self.gaps += 1
        for duration, uri, number in wanted:
            await self._get(kind, urljoin(listed.url, uri))
            track.next_part, track.end = int(number) + 1, track.end + float(duration)
        if self.playhead is None and all(one.end for one in self.tracks.values()):
            end = min(one.end for one in self.tracks.values())
            self.playhead = max(0.0, end - self.part_hold_back)

    async def _trouble(self, kind: str) -> None:
        """Do what hls.js does when a playlist, or what it lists, cannot be had."""
        if self.kind == PLAIN:
            opened = self.opened
            async with self._reopening:
                if self.opened == opened:  # the other track may have done it
                    await self._begin()
                    self.moves += 1
            return
        if kind == "video" and self._retries < len(RETRIES):
            pathway = self.pathway
            self._retries += 1
            for _ in range(int(RETRIES[self._retries - 1] / TICK)):
                await asyncio.sleep(TICK)
                if self.pathway != pathway:
                    return
            return
        self.penalised.add(self.pathway)
        order = self.priority or list(self.pathways)
        there = [one for one in order if one in self.pathways and one not in self.penalised]
        if there:
            self._switch(there[0])
        else:
            self.penalised.clear()
            await self._begin()

    def _switch(self, pathway: str) -> None:
        if pathway != self.pathway:
            self.pathway = pathway
            self._retries = 0
            self.moves += 1

    async def _steer(self) -> None:
        while self.steering:
            pause = 300.0
            sign = "&" if "?" in self.steering else "?"
            said = f"{sign}_HLS_pathway={self.pathway}&_HLS_throughput=5000000"
            with contextlib.suppress(Refused):
                answer = await self._get("other", self.steering + said)
                tree = json.loads(answer.body)
                pause = tree["TTL"]
                self.steering = urljoin(answer.url, tree["RELOAD-URI"])
                self._steered(tree)
            await asyncio.sleep(pause)

    def _steered(self, tree: dict[str, object]) -> None:
        clones = tree.get("PATHWAY-CLONES", [])
        assert isinstance(clones, list)
        for clone in clones:
            base = self.pathways[clone["BASE-ID"]]
            places = clone["URI-REPLACEMENT"]
            self.pathways.setdefault(
                clone["ID"],
                {
                    "video": places["PER-VARIANT-URIS"][base["video"].rpartition("/")[2]],
                    "audio": places["PER-RENDITION-URIS"][base["audio"].rpartition("/")[2]],
                },
            )
        priority = tree["PATHWAY-PRIORITY"]
        assert isinstance(priority, list)
        self.priority = priority
        for pathway in priority:
            if pathway in self.pathways and pathway not in self.penalised:
                self._switch(pathway)
                return


def _attribute(line: str, name: str) -> str:
    found = re.search(rf'(?:^|,){name}="([^"]*)"', line)
    return found[1] if found else ""


def _next(text: str) -> str:
    """Return the query of the blocking reload that follows this playlist."""
    found = re.search(r"#EXT-X-MEDIA-SEQUENCE:(\d+)", text)
    closed = text.count("#EXTINF:")
    tail = text[text.rfind("#EXTINF:") :] if closed else text
    first = int(found[1]) if found else 0
    return f"?_HLS_msn={first + closed}&_HLS_part={tail.count('#EXT-X-PART:')}"


async def clock(players: Iterable[Player]) -> None:
    """Let the time pass for all players, until cancelled."""
    loop = asyncio.get_running_loop()
    last = loop.time()
    while True:
        await asyncio.sleep(TICK)
        now = loop.time()
        for player in players:
            player.tick(now - last)
        last = now
