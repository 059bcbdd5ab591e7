"""The middle and end of an HEVC sequence parameter set, read for the sake of what follows.

ITU-T H.265 (08/2021) 7.3.4 (scaling lists), 7.3.7 (reference picture sets), E.2.1 (VUI).
"""

from fractions import Fraction

from common.errors import FormatError
from common.media.bits import BitReader
from common.media.color import frame_rate
from common.media.vui import skip_chroma_location

MAX_REFERENCE_SETS = 64
"""Short-term reference picture sets (7.4.3.2). More are a FormatError."""

MAX_REFERENCE_PICTURES = 16
"""Pictures before, or after, in one such set. More are a FormatError."""


def skip_scaling_list(bits: BitReader) -> None:
    """Read over scaling_list_data().

    Raises:
        FormatError: If the bits run out.
    """
    for size in range(4):
        for _ in range(2 if size == 3 else 6):
            if not bits.flag():
                bits.ue()
                continue
            if size > 1:
                bits.se()
            for _ in range(min(64, 1 << (4 + 2 * size))):
                bits.se()


def skip_reference_sets(bits: BitReader) -> None:
    """Read over all st_ref_pic_set() of a sequence parameter set.

    Raises:
        FormatError: If the bits run out or a count is out of range.
    """
    pictures = 0
    for index in range(bits.ue_max(MAX_REFERENCE_SETS, "num_short_term_ref_pic_sets")):
        if index and bits.flag():
            pictures = _predicted_set(bits, pictures)
            continue
        before = bits.ue_max(MAX_REFERENCE_PICTURES, "num_negative_pics")
        after = bits.ue_max(MAX_REFERENCE_PICTURES, "num_positive_pics")
        pictures = before + after
        for _ in range(pictures):
            bits.ue()
            bits.skip(1)


def _predicted_set(bits: BitReader, pictures: int) -> int:
    bits.skip(1)  # delta_rps_sign
    bits.ue()  # abs_delta_rps_minus1
    kept = 0
    for _ in range(pictures + 1):
        # used_by_curr_pic_flag, and where it is 0 use_delta_flag
        kept += bits.flag() or bits.flag()
    if kept > 2 * MAX_REFERENCE_PICTURES:
        raise FormatError("too many reference pictures")
    return kept


def timing(bits: BitReader) -> Fraction | None:
    """Read the frame rate from vui_parameters(), behind the matrix coefficients.

    Raises:
        FormatError: If the bits run out.
    """
    skip_chroma_location(bits)
    bits.skip(3)  # neutral_chroma_indication, field_seq, frame_field_info_present
    if bits.flag():
        for _ in range(4):  # default display window
            bits.ue()
    if not bits.flag():
        return None
    units, scale = bits.u(32), bits.u(32)
    return frame_rate(scale, units)
