"""Find out which of our frames are which records of another origin that takes in the same stream.

A frame is known by its size and the CRC of its bytes, and all frames of a track are the same
distance away from their records. Either side may lack frames that the other one has; two different
frames at one time are another matter. Pure: marks go in, pairs and a shift come out.
"""

from collections import Counter, deque
from collections.abc import Sequence
from statistics import median_low
from typing import NamedTuple

MIN_PAIRS = 3
"""So many frames must be the same before a shift is believed."""

MAX_ALONE = 1 / 2
"""Frames that only one side has, for each that both have. With more the two are taken for different
streams."""

MAX_TRIES = 8
"""Frames with which an alignment is tried. After them it is tried again with later ones."""

MAX_SHIFTS = 8
"""Shifts that are tried for each of those frames. Those after them are not."""

MAX_THEIRS = 1024
"""Records of another origin's track that have no frame here. The oldest are forgotten."""

MAX_STRIKES = 8
"""Frames or records in a row that have no counterpart. With one more the alignment is given up."""


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
    # The rarest say most; of equal ones those whose counterpart must have come here as well.
    first_us, last_us = ours[0].arrival_us, ours[-1].arrival_us
    known.sort(key=lambda mark: (counts[mark.identity], not first_us < mark.arrival_us < last_us))
    shifts: list[int] = []
    for anchor in known[:MAX_TRIES]:
        found = sorted(
            (abs(anchor.arrival_us - mark.arrival_us), anchor.dts - mark.dts)
            for mark in ours
            if mark.identity == anchor.identity
            and (near is None or abs(anchor.dts - mark.dts - near[0]) <= near[1])
        )
        for _, shift in found[:MAX_SHIFTS]:
            if all(abs(shift - other) > tolerance for other in shifts):
                shifts.append(shift)
    fitting = [
        (apart_us, shift)
        for shift in shifts
        if (apart_us := fits(ours, theirs, shift, tolerance)) is not None
    ]
    return min(fitting)[1] if fitting else None


def fits(ours: Sequence[Mark], theirs: Sequence[Mark], shift: int, tolerance: int) -> int | None:
    """Return how far apart the same frames came at both sides, in microseconds (the median).

    None if the shift cannot be right: of the time that both sides know they have too little in
    common, or each has its own frame at the same time.
    """
    first = max(ours[0].dts + shift, theirs[0].dts) - tolerance
    last = min(ours[-1].dts + shift, theirs[-1].dts) + tolerance
    mine = [mark for mark in ours if first <= mark.dts + shift <= last]
    others = [mark for mark in theirs if first <= mark.dts <= last]
    apart_us: list[int] = []
    alone: tuple[list[int], list[int]] = ([], [])
    one = other = 0
    while one < len(mine) and other < len(others):
        off = others[other].dts - mine[one].dts - shift
        if mine[one].identity == others[other].identity and abs(off) <= tolerance:
            apart_us.append(abs(others[other].arrival_us - mine[one].arrival_us))
            one, other = one + 1, other + 1
        elif off > 0:
            alone[0].append(mine[one].dts + shift)
            one += 1
        else:
            alone[1].append(others[other].dts)
            other += 1
    alone[0].extend(mark.dts + shift for mark in mine[one:])
    alone[1].extend(mark.dts for mark in others[other:])
    few = len(apart_us) < max(MIN_PAIRS, (len(alone[0]) + len(alone[1])) / MAX_ALONE)
    return None if few or _meet(*alone, tolerance) else median_low(apart_us)


def _meet(one: Sequence[int], other: Sequence[int], tolerance: int) -> bool:
    """Whether a time of one side is also one of the other; both rise."""
    here = there = 0
    while here < len(one) and there < len(other):
        off = other[there] - one[here]
        if abs(off) <= tolerance:
            return True
        here, there = (here + 1, there) if off > 0 else (here, there + 1)
    return False


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
