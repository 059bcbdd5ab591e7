"""Names and sanity limits that the video codecs share: ranges, frame rates, colour codes."""

from dataclasses import dataclass
from fractions import Fraction

SDR = "SDR"
PQ = "PQ"
HLG = "HLG"

MAX_FRAME_RATE = 1000
"""Frames a second that a track may state. A higher rate is a mistake of the encoder, and
ignored."""

UNSPECIFIED = (2, 2, 2)
"""Colour primaries, transfer and matrix that say nothing (ITU-T H.273)."""

_TRANSFER_PQ = 16
_TRANSFER_HLG = 18


def video_range(transfer: int) -> str:
    """Return the VIDEO-RANGE of RFC 8216bis for a transfer function of ITU-T H.273 table 3."""
    return {_TRANSFER_PQ: PQ, _TRANSFER_HLG: HLG}.get(transfer, SDR)


@dataclass(frozen=True, slots=True)
class Display:
    """How a picture is to be shown, as far as the bitstream says it."""

    aspect: tuple[int, int] | None = None
    """Width to height of one sample (pixel); None where it is not said."""

    color: tuple[int, int, int] = UNSPECIFIED
    """Colour primaries, transfer characteristics, matrix coefficients (ITU-T H.273)."""

    full_range: bool = False

    @property
    def video_range(self) -> str:
        """Return the VIDEO-RANGE of RFC 8216bis."""
        return video_range(self.color[1])


UNSAID = Display()


def frame_rate(ticks: int, per_frame: int) -> Fraction | None:
    """Return ``ticks / per_frame`` frames a second, or None where that makes no sense."""
    if ticks <= 0 or per_frame <= 0:
        return None
    rate = Fraction(ticks, per_frame)
    return rate if rate <= MAX_FRAME_RATE else None
