"""Sets of seqs that come in long runs."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """A set of integers, kept as sorted runs ``[first, stop)`` that neither touch nor overlap."""

    __slots__ = ("_firsts", "_stops")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._stops: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._firsts, self._stops, strict=True))

    def __len__(self) -> int:
        return len(self._firsts)

    def __contains__(self, value: int) -> bool:
        at = bisect_right(self._firsts, value) - 1
        return at >= 0 and value < self._stops[at]

    def add(self, first: int, stop: int) -> None:
        """Add the run; what it touches melts into it."""
        if first >= stop:
            return
        low = bisect_left(self._stops, first)
        high = bisect_right(self._firsts, stop)
        if low < high:
            first = min(first, self._firsts[low])
            stop = max(stop, self._stops[high - 1])
        self._firsts[low:high] = [first]
        self._stops[low:high] = [stop]

    def missing(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return the runs of ``[first, stop)`` that are not in the set, lowest first."""
        holes = []
        for low, high in self:
            if high <= first:
                continue
            if low >= stop:
                break
            if low > first:
                holes.append((first, low))
            first = max(first, high)
        if first < stop:
            holes.append((first, stop))
        return holes

    def drop_below(self, value: int) -> None:
        """Forget everything lower than ``value``."""
        at = bisect_right(self._stops, value)
        del self._firsts[:at], self._stops[:at]
        if self._firsts and self._firsts[0] < value:
            self._firsts[0] = value
