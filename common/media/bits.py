"""Reading of bit fields, as the video and audio specifications write them down."""

from common.errors import FormatError

MAX_HEADER = 16 * 1024
"""Bytes of one parameter set or setup record; the largest legal ones are a tenth of this. A longer
one is a FormatError: the track is refused."""

MAX_GOLOMB_ZEROS = 32
"""Leading zero bits of an Exp-Golomb code; ITU-T H.264 9.1 allows values below 2**32. More are a
FormatError."""


class BitReader:
    """Read bits, most significant first, from a header of at most ``MAX_HEADER`` bytes.

    Raises:
        FormatError: From any method, when the bits run out; from the constructor, when too long.
    """

    __slots__ = ("_bits", "_left")

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_HEADER:
            raise FormatError(f"a header of {len(data)} bytes is too long")
        self._bits = int.from_bytes(data, "big")
        self._left = len(data) * 8

    @property
    def left(self) -> int:
        """Return how many bits are unread."""
        return self._left

    def u(self, count: int) -> int:
        """Read ``count`` bits as an unsigned number: u(n)."""
        left = self._left - count
        if left < 0:
            raise FormatError("a header ends too early")
        self._left = left
        return (self._bits >> left) & ((1 << count) - 1)

    def flag(self) -> bool:
        """Read one bit: u(1)."""
        return self.u(1) == 1

    def skip(self, count: int) -> None:
        """Leave ``count`` bits out."""
        self.u(count)

    def ue(self) -> int:
        """Read an unsigned Exp-Golomb code: ue(v), ITU-T H.264 9.1."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > MAX_GOLOMB_ZEROS:
                raise FormatError("an Exp-Golomb code is too long")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """Read a signed Exp-Golomb code: se(v), ITU-T H.264 9.1.1."""
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)

    def ue_max(self, limit: int, what: str) -> int:
        """Read ue(v) that must not exceed ``limit``."""
        value = self.ue()
        if value > limit:
            raise FormatError(f"{what} is {value}, more than {limit}")
        return value
