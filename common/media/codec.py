"""The codecs Headwater carries."""

from enum import StrEnum


class Kind(StrEnum):
    """What a track is for."""

    VIDEO = "video"
    AUDIO = "audio"
    METADATA = "metadata"
    SUBTITLE = "subtitle"


class Codec(StrEnum):
    """How the frames of a track are coded."""

    H264 = "h264"
    HEVC = "hevc"
    AV1 = "av1"
    VP9 = "vp9"
    AAC = "aac"
    MP3 = "mp3"
    OPUS = "opus"
    JSON = "json"
    TEXT = "text"

    @property
    def kind(self) -> Kind:
        """What tracks of this codec are for."""
        return _KINDS[self]

    @property
    def sparse(self) -> bool:
        """Whether frames may stay away for long: nothing waits for such a track."""
        return self.kind in (Kind.METADATA, Kind.SUBTITLE)


_KINDS = {
    Codec.H264: Kind.VIDEO,
    Codec.HEVC: Kind.VIDEO,
    Codec.AV1: Kind.VIDEO,
    Codec.VP9: Kind.VIDEO,
    Codec.AAC: Kind.AUDIO,
    Codec.MP3: Kind.AUDIO,
    Codec.OPUS: Kind.AUDIO,
    Codec.JSON: Kind.METADATA,
    Codec.TEXT: Kind.SUBTITLE,
}
