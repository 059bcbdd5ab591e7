"""Exact arithmetic on timestamps: change of timescale, and counters that wrap around."""


def rescale(ticks: int, from_scale: int, to_scale: int) -> int:
    """Return ``ticks`` of ``from_scale`` a second in ticks of ``to_scale``, halves rounded up.

    Exact whatever the size: integers only.
    """
    return (2 * ticks * to_scale + from_scale) // (2 * from_scale)


class Unwrapper:
    """Turn a counter of ``bits`` bits that wraps around into one that does not.

    A value is taken as the one nearest to the value before it, forwards or backwards, so that
    frames out of order around a wrap come out right. The first value stays as it is.
    """

    __slots__ = ("_half", "_last", "_span")

    def __init__(self, bits: int) -> None:
        self._span = 1 << bits
        self._half = self._span >> 1
        self._last: int | None = None

    def unwrap(self, value: int) -> int:
        """Return ``value`` plus the whole turns that have gone by."""
        if self._last is None:
            self._last = value
            return value
        ahead = (value - self._last) % self._span
        if ahead >= self._half:
            ahead -= self._span
        self._last += ahead
        return self._last
