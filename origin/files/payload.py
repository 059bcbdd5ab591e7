"""From what a container holds to what a record carries: setup bytes and payloads per codec."""

from abc import ABC, abstractmethod
from fractions import Fraction

from common.errors import FormatError
from common.media import audio, av1, h264, hevc, vp9
from common.media.codec import Codec
from common.media.describe import describe, is_keyframe
from common.media.nal import join_length_prefixed, split_annexb

CODECS = {
    "h264": Codec.H264,
    "hevc": Codec.HEVC,
    "av1": Codec.AV1,
    "vp9": Codec.VP9,
    "aac": Codec.AAC,
    "mp3": Codec.MP3,
    "opus": Codec.OPUS,
    "subrip": Codec.TEXT,
    "webvtt": Codec.TEXT,
    "text": Codec.TEXT,
    "mov_text": Codec.TEXT,
}
"""FFmpeg's codec names and ours; others are left out."""


class Converter(ABC):
    """Turns the packets of one track into payloads."""

    def __init__(self, codec: Codec, init: bytes = b"") -> None:
        self.codec = codec
        self.init = init
        """Setup bytes; a track is announced once they are known, again when they change."""

    @property
    def ready(self) -> bool:
        """Whether the setup bytes are known."""
        return bool(self.init)

    @abstractmethod
    def convert(self, data: bytes) -> list[bytes]:
        """Return the payloads in a packet, often one.

        Raises:
            FormatError: If the packet is not of this codec.
        """

    def keyframe(self, payload: bytes, flagged: bool) -> bool:
        """Return whether decoding can start here; ``flagged``: the container says so.

        Raises:
            FormatError: If the payload is not of this codec.
        """
        return is_keyframe(self.codec, payload, self.init)

    def samples(self, payload: bytes) -> int:
        """Return the audio samples in a payload, 0 where that cannot be told.

        Raises:
            FormatError: If the payload is not of this codec.
        """
        return describe(self.codec, self.init).frame_samples


class _Plain(Converter):
    """Payloads are what the container holds, setup bytes as well."""

    def convert(self, data: bytes) -> list[bytes]:
        return [data]


class _Mp3(_Plain):
    @property
    def ready(self) -> bool:
        return True

    def samples(self, payload: bytes) -> int:
        return audio.parse_mp3_header(payload).samples


class _Opus(_Plain):
    def samples(self, payload: bytes) -> int:
        return audio.opus_duration(payload)


class _Text(Converter):
    def __init__(self, framed: bool) -> None:
        super().__init__(Codec.TEXT)
        self._framed = framed

    @property
    def ready(self) -> bool:
        return True

    def convert(self, data: bytes) -> list[bytes]:
        # 3GPP timed text puts two bytes of length in front and styles behind.
        text = data[2 : 2 + int.from_bytes(data[:2], "big")] if self._framed else data
        clean = text.decode("utf-8", "replace").strip("\r\n\0 ")
        return [clean.encode()] if clean else []

    def samples(self, payload: bytes) -> int:
        return 0


class _NalUnits(Converter):
    """H.264 and HEVC, with lengths or with start codes."""

    def __init__(self, codec: Codec, extradata: bytes) -> None:
        self._annexb = not extradata.startswith(b"\x01")
        super().__init__(codec)
        if self._annexb:
            self._learn(split_annexb(extradata))
        elif describe(codec, extradata).width:
            self.init = extradata

    def _learn(self, nals: list[bytes]) -> None:
        build = h264.avcc_from_nals if self.codec is Codec.H264 else hevc.hvcc_from_nals
        self.init = build(nals) or self.init

    def convert(self, data: bytes) -> list[bytes]:
        if not self._annexb:
            return [data]
        nals = split_annexb(data)
        self._learn(nals)
        return [join_length_prefixed(nals)]

    def keyframe(self, payload: bytes, flagged: bool) -> bool:
        if is_keyframe(self.codec, payload, self.init):
            return True
        if self.codec is not Codec.H264 or not flagged:
            return False
        return h264.has_recovery_point(payload, h264.parse_avcc(self.init).length_size)

    def samples(self, payload: bytes) -> int:
        return 0


class _Aac(Converter):
    """Raw AAC with its config, or ADTS."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__(Codec.AAC, extradata)
        self._adts = not extradata

    def convert(self, data: bytes) -> list[bytes]:
        if not self._adts:
            return [data]
        payloads = []
        for header, payload in audio.split_adts(data):
            if header.channel_configuration == 0:
                raise FormatError("ADTS with its channels in the frames")
            self.init = audio.build_asc(
                header.object_type, header.sample_rate, header.channel_configuration
            )
            payloads.append(payload)
        return payloads


class _Av1(Converter):
    def __init__(self, extradata: bytes) -> None:
        super().__init__(Codec.AV1)
        if extradata.startswith(b"\x81") and describe(Codec.AV1, extradata).width:
            self.init = extradata

    def convert(self, data: bytes) -> list[bytes]:
        if not self.init:
            header = av1.sequence_header(data)
            self.init = av1.build_av1c(header) if header else b""
        return [av1.drop_temporal_delimiters(data)]

    def samples(self, payload: bytes) -> int:
        return 0


class _Vp9(Converter):
    def __init__(self, rate: Fraction | None) -> None:
        super().__init__(Codec.VP9)
        self._rate = rate

    def convert(self, data: bytes) -> list[bytes]:
        if vp9.parse_frame_header(data) is not None:
            self.init = vp9.build_vpcc(data, self._rate)
        return [data]

    def samples(self, payload: bytes) -> int:
        return 0


def converter(name: str, extradata: bytes, rate: Fraction | None = None) -> Converter | None:
    """Return the converter for FFmpeg's codec ``name``; None if Headwater does not carry it.

    Raises:
        FormatError: If the setup bytes in the file cannot be read.
    """
    codec = CODECS.get(name)
    if codec in (Codec.H264, Codec.HEVC):
        return _NalUnits(codec, extradata)
    if codec is Codec.AV1:
        return _Av1(extradata)
    if codec is Codec.VP9:
        return _Vp9(rate)
    if codec is Codec.TEXT:
        return _Text(name == "mov_text")
    if codec is Codec.MP3:
        return _Mp3(codec)
    if codec is Codec.AAC:
        if extradata:
            describe(codec, extradata)
        return _Aac(extradata)
    if codec is Codec.OPUS:
        describe(codec, extradata)
        return _Opus(codec, extradata)
    return None
