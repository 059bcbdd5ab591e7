"""A rate in bytes a second, for repair and backfill on either side."""


class TokenBucket:
    """Bytes that may be moved now; refills with time, never beyond ``burst``.

    What is moved is charged afterwards, when its size is known, so the balance may be negative.
    """

    __slots__ = ("_balance", "_burst", "_rate", "_then_us")

    def __init__(self, rate: int, burst: int, now_us: int) -> None:
        self._rate = rate
        self._burst = burst
        self._balance = float(burst)
        self._then_us = now_us

    def open(self, now_us: int, ahead: int = 0) -> bool:
        """Return whether something may be moved now; ``ahead`` bytes may be owed already."""
        if now_us > self._then_us:
            gained = (now_us - self._then_us) * self._rate / 1_000_000
            self._balance = min(self._burst, self._balance + gained)
            self._then_us = now_us
        return self._balance > -ahead

    def charge(self, size: int) -> None:
        """Take ``size`` bytes out."""
        self._balance -= size

    def wait_us(self, now_us: int) -> int:
        """Return how many microseconds until something may be moved."""
        if self.open(now_us):
            return 0
        return int(-self._balance * 1_000_000 / self._rate) + 1
