"""One access unit on its way from an input to the segmenter."""

from dataclasses import dataclass


@dataclass(slots=True)
class Frame:
    """One access unit (a coded picture, an audio frame, one metadata document).

    Read-only by convention; not frozen because building a frozen one takes three times as long.
    ``dts``, ``cts`` and ``duration`` are in ticks of the clock that the input declared for the
    track, as the source sent them: jitter, wraps and jumps are the normaliser's work.
    """

    track: int
    """Track id within the stream."""

    dts: int
    """Decode time in ticks of the source clock."""

    data: bytes
    """The coded bytes as CMAF carries them: length-prefixed NAL units, raw AAC, OBUs, text."""

    cts: int = 0
    """Presentation time minus decode time, in ticks of the source clock."""

    keyframe: bool = False
    """Decoding can start here. Always true for audio, metadata and text."""

    duration: int = 0
    """Duration in ticks of the source clock, 0 where the source does not say."""

    capture_us: int = 0
    """Unix microseconds on the encoder's clock when it was captured, 0 if not sent."""
