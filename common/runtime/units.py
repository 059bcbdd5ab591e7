"""Values with units in settings: durations and sizes."""

import re
from typing import Any

_TIME = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}


class Duration(float):
    """Seconds, written as ``2``, ``"500ms"``, ``"2s"``, ``"5m"`` or ``"1h"``."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> "Duration":
        """Read a duration.

        Raises:
            ValueError: If it is none, negative or not finite.
        """
        if isinstance(value, str):
            match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)?", value.strip())
            if match is None:
                raise ValueError(f"{value!r} is not a duration such as '2s' or '500ms'")
            return cls(float(match[1]) * _TIME[match[2] or "s"])
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is not a duration such as '2s' or '500ms'")
        if not 0 <= value < 1e10:
            raise ValueError(f"{value!r} is not a duration of zero or more seconds")
        return cls(value)

    @property
    def us(self) -> int:
        """The duration in whole microseconds."""
        return round(self * 1_000_000)

    @property
    def ms(self) -> int:
        """The duration in whole milliseconds."""
        return round(self * 1000)

    def __str__(self) -> str:
        return f"{self.ms}ms" if self < 1 and self.ms / 1000 == float(self) else f"{self:g}s"


class Size(int):
    """Bytes, written as ``65536``, ``"64KiB"``, ``"64MiB"`` or ``"2GB"``."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> "Size":
        """Read a size.

        Raises:
            ValueError: If it is none or negative.
        """
        if isinstance(value, str):
            match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip())
            if match is None or match[2] not in _SIZE:
                raise ValueError(f"{value!r} is not a size such as '64MiB' or '2GB'")
            return cls(round(float(match[1]) * _SIZE[match[2]]))
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{value!r} is not a size such as '64MiB' or '2GB'")
        return cls(value)

    def __str__(self) -> str:
        for unit in ("GiB", "MiB", "KiB"):
            if self and self % _SIZE[unit] == 0:
                return f"{self // _SIZE[unit]}{unit}"
        return int.__repr__(self)
