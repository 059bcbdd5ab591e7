"""What to generate: the ``videogen://?…`` source of a stream, and the command's options."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fractions import Fraction
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from common.errors import ConfigError
from common.media.codec import Codec
from common.runtime.units import Duration

MAX_SIDE = 7680
"""Pixels of width and height of a test picture. More are refused."""

MIN_SIDE = 80
"""Two pixels a cell of the clock bar."""

MAX_FPS = 120
"""Pictures a second of a test stream. More are refused."""

MAX_GOP = 60.0
"""Seconds of a GOP of a test stream. A longer one is refused."""

MAX_BFRAMES = 8
"""B-frames in a row of a test stream. More are refused."""

MAX_RENDITIONS = 8
"""Renditions of a test stream. More are refused."""

MAX_LANGUAGES = 8
"""Languages of a test stream. More are refused."""

BITS_PER_PIXEL = 0.12
"""Default bit rate; enough for this picture at the encoders' fastest settings."""

VIDEO_CODECS = {"h264": Codec.H264, "hevc": Codec.HEVC, "av1": Codec.AV1, "none": None}
AUDIO_CODECS = {"aac": Codec.AAC, "opus": Codec.OPUS, "none": None}


@dataclass(frozen=True, slots=True)
class Rendition:
    """One size of the picture."""

    width: int
    height: int
    bit_rate: int = 0
    """Bits a second; 0: from the size and the frame rate."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to generate."""

    renditions: tuple[Rendition, ...] = (Rendition(640, 360),)
    fps: Fraction = Fraction(25)
    gop: float = 2.0
    """Seconds from keyframe to keyframe."""

    video: Codec | None = Codec.H264
    audio: Codec | None = Codec.AAC
    bframes: int = 0
    languages: tuple[str, ...] = ("und",)
    """One audio track each."""

    metadata: int = 25
    """A JSON document every so many frames; 0: none."""

    @property
    def gop_frames(self) -> int:
        """Frames from keyframe to keyframe."""
        return max(1, round(self.gop * self.fps))

    def bit_rate(self, rendition: Rendition) -> int:
        """Return the bits a second of a rendition."""
        pixels = rendition.width * rendition.height
        return rendition.bit_rate or max(100_000, int(pixels * self.fps * BITS_PER_PIXEL))


def parse_source(source: str) -> Settings:
    """Read a stream's ``source`` of the form ``videogen://?size=640x360&fps=25``.

    Raises:
        ConfigError: If an option is unknown or has a wrong value.
    """
    parts = urlsplit(source)
    if parts.scheme != "videogen" or parts.netloc or parts.path.strip("/"):
        raise ConfigError("source", f"{source!r} is not of the form videogen://?option=value&…")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    return from_options(dict(pairs), "source")


def from_options(options: dict[str, str], where: str) -> Settings:
    """Read settings from option texts; ``where`` names their place in error messages.

    Raises:
        ConfigError: If an option is unknown or has a wrong value.
    """
    changes: dict[str, Any] = {}
    if "size" in options and "renditions" in options:
        raise ConfigError(where, "give either size or renditions, not both")
    for name, text in options.items():
        reader = _READERS.get(name)
        if reader is None:
            near = get_close_matches(name, _READERS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(_READERS)}"
            raise ConfigError(where, f"unknown option {name!r}{hint}")
        try:
            field, value = reader(text)
        except ValueError as error:
            raise ConfigError(where, f"{name}={text}: {error}") from error
        changes[field] = value
    settings = replace(Settings(), **changes)
    return _checked(settings, where)


def _checked(settings: Settings, where: str) -> Settings:
    if settings.video is None and settings.audio is None:
        raise ConfigError(where, "video=none and audio=none leave nothing to generate")
    if settings.video is Codec.AV1 and settings.bframes:
        raise ConfigError(where, "bframes is for h264 and hevc; the AV1 encoder runs without")
    if settings.gop_frames <= settings.bframes:
        raise ConfigError(where, "gop must be longer than the B-frames between two references")
    return settings


def _size(text: str) -> Rendition:
    size, _, rate = text.partition("@")
    width, _, height = size.partition("x")
    if not width.isdecimal() or not height.isdecimal():
        raise ValueError("expected WIDTHxHEIGHT or WIDTHxHEIGHT@BITRATE, as in 640x360@800k")
    rendition = Rendition(int(width), int(height), _bit_rate(rate) if rate else 0)
    for side in (rendition.width, rendition.height):
        if not MIN_SIDE <= side <= MAX_SIDE or side % 2:
            raise ValueError(f"width and height are even and {MIN_SIDE} to {MAX_SIDE}")
    return rendition


def _bit_rate(text: str) -> int:
    factor = {"k": 1000, "M": 1_000_000}.get(text[-1:], 1)
    digits = text if factor == 1 else text[:-1]
    if not digits.isdecimal() or not 10_000 <= int(digits) * factor <= 200_000_000:
        raise ValueError("a bit rate is 10k to 200M")
    return int(digits) * factor


def _renditions(text: str) -> tuple[Rendition, ...]:
    found = tuple(_size(item) for item in text.split(","))
    if len(found) > MAX_RENDITIONS:
        raise ValueError(f"at most {MAX_RENDITIONS} renditions")
    return found


def _fps(text: str) -> Fraction:
    ntsc = {"23.976": (24_000, 1001), "29.97": (30_000, 1001), "59.94": (60_000, 1001)}
    try:
        fps = Fraction(*ntsc[text]) if text in ntsc else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError("expected frames a second, as in 25, 29.97 or 30000/1001") from None
    if not 1 <= fps <= MAX_FPS or fps.denominator > 1001:
        raise ValueError(f"frames a second are 1 to {MAX_FPS}")
    return fps


def _gop(text: str) -> float:
    gop = float(Duration.parse(text))
    if not 0 < gop <= MAX_GOP:
        raise ValueError(f"a GOP is longer than 0 and at most {MAX_GOP:g} s")
    return gop


def _choice(choices: dict[str, Any], text: str) -> Any:
    if text not in choices:
        raise ValueError(f"expected one of {', '.join(choices)}")
    return choices[text]


def _number(text: str, limit: int) -> int:
    if not text.isdecimal() or int(text) > limit:
        raise ValueError(f"expected a number from 0 to {limit}")
    return int(text)


def _languages(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if len(found) > MAX_LANGUAGES or len(set(found)) < len(found):
        raise ValueError(f"at most {MAX_LANGUAGES} different languages")
    if not all(2 <= len(item) <= 35 and item.replace("-", "").isalnum() for item in found):
        raise ValueError("expected language tags, as in en,de")
    return found


_READERS: dict[str, Callable[[str], tuple[str, Any]]] = {
    "size": lambda text: ("renditions", (_size(text),)),
    "renditions": lambda text: ("renditions", _renditions(text)),
    "fps": lambda text: ("fps", _fps(text)),
    "gop": lambda text: ("gop", _gop(text)),
    "video": lambda text: ("video", _choice(VIDEO_CODECS, text)),
    "audio": lambda text: ("audio", _choice(AUDIO_CODECS, text)),
    "bframes": lambda text: ("bframes", _number(text, MAX_BFRAMES)),
    "languages": lambda text: ("languages", _languages(text)),
    "metadata": lambda text: ("metadata", _number(text, 10_000)),
}
