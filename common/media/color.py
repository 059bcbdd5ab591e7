"""Names and sanity limits that the video codecs share: ranges, frame rates, colour codes."""

from fractions import Fraction

SDR = "SDR"
PQ = "PQ"
HLG = "HLG"

MAX_FRAME_RATE = 1000
"""Frames a second above which a stated rate is a mistake of the encoder."""

_TRANSFER_PQ = 16
_TRANSFER_HLG = 18


def video_range(transfer: int) -> str:
    """Return the VIDEO-RANGE of RFC 8216bis for a transfer function of ITU-T H.273 table 3."""
    return {_TRANSFER_PQ: PQ, _TRANSFER_HLG: HLG}.get(transfer, SDR)


def frame_rate(ticks: int, per_frame: int) -> Fraction | None:
    """Return ``ticks / per_frame`` frames a second, or None where that makes no sense."""
    if ticks <= 0 or per_frame <= 0:
        return None
    rate = Fraction(ticks, per_frame)
    return rate if rate <= MAX_FRAME_RATE else None
