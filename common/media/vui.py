"""How a picture is to be shown: the part of the VUI that H.264 and HEVC have in common.

ITU-T H.264 (08/2021) E.1.1 and E.2.1, H.265 (08/2021) E.2.1 and E.3.1.
"""

from common.media.bits import BitReader
from common.media.color import UNSPECIFIED, Display

_ASPECTS = (
    *((1, 1), (12, 11), (10, 11), (16, 11), (40, 33), (24, 11), (20, 11), (32, 11)),
    *((80, 33), (18, 11), (15, 11), (64, 33), (160, 99), (4, 3), (3, 2), (2, 1)),
)
"""aspect_ratio_idc 1 and on (tables E-1)."""

_EXTENDED_SAR = 255


def read_display(bits: BitReader) -> Display:
    """Read vui_parameters() up to the matrix coefficients.

    Raises:
        FormatError: If the bits run out.
    """
    aspect = _aspect(bits) if bits.flag() else None
    if bits.flag():
        bits.skip(1)  # overscan_appropriate_flag
    color, full_range = UNSPECIFIED, False
    if bits.flag():
        bits.skip(3)  # video_format
        full_range = bits.flag()
        if bits.flag():
            color = (bits.u(8), bits.u(8), bits.u(8))
    return Display(aspect, color, full_range)


def skip_chroma_location(bits: BitReader) -> None:
    """Read over where the chroma samples are.

    Raises:
        FormatError: If the bits run out.
    """
    if bits.flag():
        bits.ue()
        bits.ue()


def _aspect(bits: BitReader) -> tuple[int, int] | None:
    number = bits.u(8)
    if number == _EXTENDED_SAR:
        width, height = bits.u(16), bits.u(16)
        return (width, height) if width and height else None
    return _ASPECTS[number - 1] if 1 <= number <= len(_ASPECTS) else None
