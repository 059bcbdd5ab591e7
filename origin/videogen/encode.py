"""The encoders of the test stream, from planes and samples to frames as CMAF carries them."""

import contextlib
import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from common.errors import StreamError
from common.media import av1, h264, hevc
from common.media.codec import Codec
from common.media.describe import is_keyframe
from common.media.frame import Frame
from common.media.nal import join_length_prefixed, split_annexb
from origin.videogen.settings import Rendition, Settings

VIDEO_CLOCK = 90_000
AUDIO_RATE = 48_000
CHANNELS = 2
AUDIO_BIT_RATE = 96_000
_GLOBAL_HEADER = 1 << 22
_ENCODERS = {Codec.H264: "libx264", Codec.HEVC: "libx265", Codec.AV1: "libsvtav1"}
_AUDIO_ENCODERS = {Codec.AAC: ("aac", "fltp"), Codec.OPUS: ("libopus", "flt")}
_MAX_HELD = 256
"""Pictures that an encoder may hold back; ours hold a handful. With more the test stream ends with
an error."""


def _options(settings: Settings, kilobits: int) -> dict[str, str]:
    """Return encoder options: as cheap as can be, and a keyframe exactly at every GOP's start."""
    gop, bframes = settings.gop_frames, settings.bframes
    if settings.video is Codec.AV1:
        svt = f"keyint={gop}:scd=0:pred-struct=1:rc=2:tbr={kilobits}:lp=1:enable-dlf=0"
        return {"preset": "12", "svtav1-params": svt}
    params = [
        f"keyint={gop}",
        f"min-keyint={gop}",
        "scenecut=0",
        f"bframes={bframes}",
        "b-adapt=0",
        f"bitrate={kilobits}",
        f"vbv-maxrate={kilobits}",
        f"vbv-bufsize={kilobits}",
    ]
    if settings.video is Codec.H264:
        params += ["threads=1", "rc-lookahead=0", "sync-lookahead=0", "mbtree=0", "open-gop=0"]
        params += ["force-cfr=1"]
        tune = {} if bframes else {"tune": "zerolatency"}
        return {"preset": "ultrafast", **tune, "x264-params": ":".join(params)}
    # Every picture that an encoder looks ahead is a picture of delay.
    params += [f"rc-lookahead={bframes + 1 if bframes else 0}", "lookahead-slices=0"]
    params += ["open-gop=0", "pools=none", "frame-threads=1", "wpp=0", "log-level=none", "info=0"]
    tune = {} if bframes else {"tune": "zerolatency"}
    return {"preset": "ultrafast", **tune, "x265-params": ":".join(params)}


def give_up_realtime() -> None:
    """Make every thread of this process an ordinary one.

    As root, SVT-AV1 raises its own threads and the calling one to real-time priority, before which
    nothing else on the machine gets to run.
    """
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))


class VideoEncoder:
    """One rendition: pictures in, frames in ticks of ``VIDEO_CLOCK`` out."""

    def __init__(self, track: int, settings: Settings, rendition: Rendition) -> None:
        assert settings.video is not None
        self.track = track
        self.height = rendition.height
        self.codec = settings.video
        self.init = b""
        """Setup bytes, known once the first frame is."""
        self._ticks = VIDEO_CLOCK / settings.fps
        self._captured: dict[int, int] = {}
        os.environ.setdefault("SVT_LOG", "1")
        encoder: Any = av.CodecContext.create(_ENCODERS[self.codec], "w")
        encoder.width, encoder.height = rendition.width, rendition.height
        encoder.pix_fmt = "yuv420p"
        encoder.time_base = 1 / settings.fps
        encoder.framerate = settings.fps
        encoder.color_primaries = encoder.color_trc = encoder.colorspace = 1
        encoder.options = _options(settings, settings.bit_rate(rendition) // 1000)
        encoder.flags |= _GLOBAL_HEADER
        encoder.open()
        give_up_realtime()
        self._encoder = encoder

    def encode(
        self, planes: Sequence[NDArray[np.uint8]], number: int, capture_us: int
    ) -> list[Frame]:
        """Encode picture ``number``; return the frames that are ready.

        Raises:
            StreamError: If the encoder delivers something unreadable.
        """
        height, width = planes[0].shape
        picture = av.VideoFrame(width, height, "yuv420p")
        for plane, values in zip(picture.planes, planes, strict=True):
            rows, columns = values.shape
            memory = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
            memory.reshape(rows, plane.line_size)[:, :columns] = values
        picture.pts = number
        self._captured[number] = capture_us
        if len(self._captured) > _MAX_HELD:
            raise StreamError(f"the {self.codec} encoder keeps its frames to itself")
        return [self._frame(packet) for packet in self._encoder.encode(picture)]

    def flush(self) -> list[Frame]:
        """Return the frames that the encoder still holds."""
        return [self._frame(packet) for packet in self._encoder.encode(None)]

    def _frame(self, packet: Any) -> Frame:
        data = self._payload(bytes(packet))
        dts = round(packet.dts * self._ticks)
        return Frame(
            track=self.track,
            dts=dts,
            data=data,
            cts=round(packet.pts * self._ticks) - dts,
            keyframe=is_keyframe(self.codec, data, self.init),
            duration=round((packet.dts + 1) * self._ticks) - dts,
            capture_us=self._captured.pop(packet.pts, 0),
        )

    def _payload(self, data: bytes) -> bytes:
        if self.codec is Codec.AV1:
            if not self.init:
                header = av1.sequence_header(data)
                self.init = av1.build_av1c(header) if header else b""
            data = av1.drop_temporal_delimiters(data)
        else:
            nals = split_annexb(data)
            if not self.init:
                known = split_annexb(self._encoder.extradata or b"") + nals
                build = h264.avcc_from_nals if self.codec is Codec.H264 else hevc.hvcc_from_nals
                self.init = build(known) or b""
            data = join_length_prefixed(nals)
        if not self.init:
            raise StreamError(f"the {self.codec} encoder gives no parameter sets")
        return data


class AudioEncoder:
    """One audio track: samples in, frames in ticks of ``AUDIO_RATE`` out."""

    def __init__(self, track: int, codec: Codec) -> None:
        self.track = track
        name, self._format = _AUDIO_ENCODERS[codec]
        encoder: Any = av.CodecContext.create(name, "w")
        encoder.sample_rate = AUDIO_RATE
        encoder.layout = "stereo"
        encoder.format = self._format
        encoder.bit_rate = AUDIO_BIT_RATE
        encoder.time_base = Fraction(1, AUDIO_RATE)
        encoder.flags |= _GLOBAL_HEADER
        encoder.open()
        self._encoder = encoder
        self.codec = codec
        self.init = bytes(encoder.extradata)
        self.frame_size = int(encoder.frame_size)
        """Samples that go into :meth:`encode`."""

    def encode(self, samples: NDArray[np.float32], position: int) -> list[tuple[int, bytes]]:
        """Encode ``frame_size`` mono samples that begin at ``position``.

        Returns pts and data of the frames that are ready; the first pts is negative, because the
        encoder puts samples of its own in front.
        """
        shape = np.stack([samples, samples])
        if self._format == "flt":
            shape = shape.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(shape, format=self._format, layout="stereo")
        frame.sample_rate = AUDIO_RATE
        frame.pts = position
        frame.time_base = Fraction(1, AUDIO_RATE)
        return [(packet.pts, bytes(packet)) for packet in self._encoder.encode(frame)]
