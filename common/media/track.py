"""What is fixed about one track of a stream."""

from dataclasses import dataclass

from common.media.codec import Codec

INDEX_TRACK = 0
"""The track that carries index rows; media tracks count from 1."""


@dataclass(frozen=True, slots=True)
class Track:
    """One elementary stream. Ids belong to slots, survive reconnects and are never reused."""

    id: int
    codec: Codec
    timescale: int
    """Ticks a second of dts, cts and duration: 90 000 for video, the sample rate for audio,
    1 000 for metadata and text."""

    inits: tuple[bytes, ...] = ()
    """Codec setup bytes, oldest first: avcC, hvcC, av1C, vpcC, AudioSpecificConfig, OpusHead or
    nothing. ``Record.init`` is the position here of the one a frame needs."""

    slot: str = "main"
    language: str = "und"
    """BCP 47."""

    name: str = ""
    frame_duration: int = 0
    """Nominal ticks from frame to frame, 0 where it varies (metadata, text)."""

    ended: bool = False
