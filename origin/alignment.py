"""Find out which of our frames are which records of another origin that takes in the same stream.

A frame is known by its size and the CRC of its bytes, and all frames of a track are the same
distance away from their records. Pure: marks go in, pairs and a shift come out.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

MIN_PAIRS = 3
"""So many frames in a row must fit before a shift is believed."""

MAX_TRIES = 4
MAX_SHIFTS = 16
"""Records that are tried, and frames for each of them."""

NEAR_US = 20_000
"""How far apart the same frame may come at both origins to be told from equal ones."""

MAX_THEIRS = 1024
"""Records remembered that no frame of ours fits; older ones are forgotten."""

MAX_STRIKES = 8
"""Frames or records in a row that have no counterpart, after which the shift is given up."""


class Mark(NamedTuple):
    """What a frame is known by."""

    dts: int
    size: int
    crc32: int
    arrival_us: int
    """Unix microseconds."""

    @property
    def identity(self) -> tuple[int, int]:
        """What is equal for the same frame on both sides."""
        return self.size, self.crc32


def find_shift(
    ours: Sequence[Mark], theirs: Sequence[Mark], tolerance: int, near: tuple[int, int] | None
) -> int | None:
    """Return by how much the dts of ``theirs`` exceed those of ``ours``; None if nothing fits.

    Where several shifts fit (silence, a loop), the frames that came at the same time are paired.
    ``near`` bounds the shift: (about, at most so far from it).
    """
    counts = Counter(mark.identity for mark in ours)
    known = [mark for mark in reversed(theirs) if counts[mark.identity]]
    if not known:
        return None
    first_us, last_us = ours[0].arrival_us + NEAR_US, ours[-1].arrival_us - NEAR_US
    # The rarest say most; of equal ones those whose counterpart must have come here as well.
    known.sort(key=lambda mark: (counts[mark.identity], not first_us <= mark.arrival_us <= last_us))
    for anchor in known[:MAX_TRIES]:
        shifts = sorted(
            (abs(anchor.arrival_us - mark.arrival_us), anchor.dts - mark.dts)
            for mark in ours
            if mark.identity == anchor.identity
            and (near is None or abs(anchor.dts - mark.dts - near[0]) <= near[1])
        )
        for _, shift in shifts[:MAX_SHIFTS]:
            if fits(ours, theirs, shift, tolerance):
                return shift
    return None


def fits(ours: Sequence[Mark], theirs: Sequence[Mark], shift: int, tolerance: int) -> bool:
    """Whether all frames of the time that both sides know are the same."""
    first = max(ours[0].dts + shift, theirs[0].dts) - tolerance
    last = min(ours[-1].dts + shift, theirs[-1].dts) + tolerance
    mine = [mark for mark in ours if first <= mark.dts + shift <= last]
    others = [mark for mark in theirs if first <= mark.dts <= last]
    return (
        len(mine) == len(others) >= MIN_PAIRS
        and all(a.identity == b.identity for a, b in zip(mine, others, strict=True))
        and all(abs(b.dts - a.dts - shift) <= tolerance for a, b in zip(mine, others, strict=True))
    )


class Alignment:
    """One track of ours beside the same track of the other origin."""

    def __init__(self) -> None:
        self.shift: int | None = None
        """What their dts are more than ours, in the track's timescale; None while unknown."""
        self.matched = 0
        self.unmatched = 0
        """Frames or records without a counterpart while aligned."""
        self.ours: deque[Mark] = deque()
        """Frames that are not among the records yet."""
        self.theirs: deque[Mark] = deque(maxlen=MAX_THEIRS)
        """Records that are not among the frames yet."""
        self._strikes = 0
        self._met = False
        self._stale = True

    def add(self, mark: Mark) -> None:
        """Take in a frame of ours; call :meth:`settle` after."""
        self.ours.append(mark)
        self._stale = True

    def record(self, mark: Mark) -> None:
        """Take in a record of theirs; call :meth:`settle` after."""
        self.theirs.append(mark)
        self._stale = True

    def align(self, tolerance: int, near: tuple[int, int] | None = None) -> bool:
        """Look for the shift if something new has come; return whether it is known."""
        if self.shift is None and self._stale and self.ours and self.theirs:
            self._stale = False
            self.shift = find_shift(tuple(self.ours), tuple(self.theirs), tolerance, near)
            self._met = False
        return self.shift is not None

    def settle(self, tolerance: int) -> int:
        """Take away what is on both sides; return how many of our oldest frames are gone."""
        ours, theirs, gone = self.ours, self.theirs, 0
        while self.shift is not None and ours and theirs:
            mine, other = ours[0], theirs[0]
            off = other.dts - mine.dts - self.shift
            if mine.identity == other.identity and abs(off) <= tolerance:
                self.shift += off
                self.matched += 1
                self._strikes, self._met = 0, True
                ours.popleft()
                theirs.popleft()
                gone += 1
                continue
            # What is older than everything on the other side says nothing.
            self.unmatched += self._met
            self._strikes += self._met
            if off > 0:
                ours.popleft()
                gone += 1
            else:
                theirs.popleft()
            if self._strikes > MAX_STRIKES:
                self.lose()
        return gone

    def forget_oldest(self) -> None:
        """Drop our oldest frame: there is no room for it."""
        self.ours.popleft()
        self.lose()

    def lose(self) -> None:
        """Give the shift up."""
        self.shift = None
        self._stale = True
