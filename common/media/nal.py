"""NAL unit streams of H.264 and HEVC: Annex B byte streams and length-prefixed samples.

ITU-T H.264 Annex B and 7.3.1, ITU-T H.265 Annex B, ISO/IEC 14496-15 5.2.3.
"""

from collections.abc import Iterable, Iterator

from common.errors import FormatError

MAX_NALS = 4096
"""NAL units of one access unit; a picture of 8192 lines has at most 600 slices. More are a
FormatError: the frame is dropped."""

START_CODE = b"\x00\x00\x00\x01"
_SHORT_START_CODE = b"\x00\x00\x01"


def split_annexb(data: bytes) -> list[bytes]:
    """Return the NAL units of an Annex B byte stream, without start codes and padding.

    Raises:
        FormatError: If it does not begin with a start code or holds too many units.
    """
    if not data:
        return []
    begin = data.find(_SHORT_START_CODE)
    if begin < 0 or data[:begin].strip(b"\x00"):
        raise FormatError("no Annex B start code where a NAL unit should begin")
    chunks = data[begin + 3 :].split(_SHORT_START_CODE, MAX_NALS)
    if len(chunks) > MAX_NALS:
        raise FormatError("too many NAL units in an access unit")
    # A NAL unit never ends in a zero byte (7.4.1), so zeros are padding or a long start code.
    units = (chunk.rstrip(b"\x00") for chunk in chunks)
    return [unit for unit in units if unit]


def spans(data: bytes, size: int = 4) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of every NAL unit of a length-prefixed sample; empty ones are left out.

    ``size`` is the number of bytes of each length, 1 to 4.

    Raises:
        FormatError: If a unit reaches beyond the end or there are too many.
    """
    position, end = 0, len(data)
    for _ in range(MAX_NALS):
        if position == end:
            return
        start = position + size
        position = start + int.from_bytes(data[position:start], "big")
        if start > end or position > end:
            raise FormatError("a NAL unit reaches beyond its access unit")
        if position > start:
            yield start, position
    if position != end:
        raise FormatError("too many NAL units in an access unit")


def split_length_prefixed(data: bytes, size: int = 4) -> list[bytes]:
    """Return the NAL units of a sample whose units carry a length of ``size`` bytes.

    Raises:
        FormatError: If a unit reaches beyond the end or there are too many.
    """
    return [data[start:stop] for start, stop in spans(data, size)]


def join_annexb(nals: Iterable[bytes]) -> bytes:
    """Return the NAL units as an Annex B byte stream with four-byte start codes."""
    return b"".join(START_CODE + nal for nal in nals)


def join_length_prefixed(nals: Iterable[bytes]) -> bytes:
    """Return the NAL units with four-byte lengths, as CMAF samples carry them."""
    return b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals)


def to_annexb(data: bytes, size: int = 4) -> bytes:
    """Turn a length-prefixed sample into an Annex B byte stream.

    Raises:
        FormatError: If a unit reaches beyond the end or there are too many.
    """
    return join_annexb(split_length_prefixed(data, size))


def to_length_prefixed(data: bytes) -> bytes:
    """Turn an Annex B byte stream into a sample with four-byte lengths.

    Raises:
        FormatError: If it does not begin with a start code or holds too many units.
    """
    return join_length_prefixed(split_annexb(data))


def unescape(nal: bytes) -> bytes:
    """Remove the emulation prevention bytes of a NAL unit (ITU-T H.264 7.3.1)."""
    return nal.replace(b"\x00\x00\x03", b"\x00\x00")
