"""The videogen:// source of a stream."""

from fractions import Fraction

import pytest

from common.errors import ConfigError
from common.media.codec import Codec
from origin.videogen.settings import Rendition, Settings, parse_source


def test_a_bare_source_gives_the_default_picture() -> None:
    assert parse_source("videogen://") == Settings()
    assert Settings().gop_frames == 50


def test_every_option_is_read() -> None:
    source = "videogen://?size=426x240@300k&fps=29.97&gop=1s&video=hevc&audio=opus&bframes=2"
    settings = parse_source(source + "&languages=en,de&metadata=5")
    assert settings == Settings(
        renditions=(Rendition(426, 240, 300_000),),
        fps=Fraction(30_000, 1001),
        gop=1.0,
        video=Codec.HEVC,
        audio=Codec.OPUS,
        bframes=2,
        languages=("en", "de"),
        metadata=5,
    )
    assert settings.gop_frames == 30


def test_renditions_take_the_place_of_the_size() -> None:
    settings = parse_source("videogen://?renditions=1280x720@2M,640x360")
    assert settings.renditions == (Rendition(1280, 720, 2_000_000), Rendition(640, 360))
    assert settings.bit_rate(settings.renditions[0]) == 2_000_000
    assert settings.bit_rate(settings.renditions[1]) == 691_200


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("siez=640x360", "did you mean 'size'"),
        ("colour=red", "known: size"),
        ("size=640", "WIDTHxHEIGHT"),
        ("size=641x360", "even"),
        ("size=9000x360", "7680"),
        ("size=640x360@fast", "bit rate"),
        ("size=640x360&renditions=640x360", "not both"),
        ("renditions=" + ",".join(["320x180"] * 9), "at most 8"),
        ("fps=0", "1 to 120"),
        ("fps=many", "frames a second"),
        ("fps=1/0", "frames a second"),
        ("gop=0", "GOP"),
        ("gop=soon", "duration"),
        ("video=mpeg2", "h264, hevc, av1, none"),
        ("audio=mp3", "aac, opus, none"),
        ("video=none&audio=none", "nothing to generate"),
        ("bframes=9", "0 to 8"),
        ("video=av1&bframes=1", "AV1"),
        ("gop=40ms&bframes=1", "longer than the B-frames"),
        ("languages=en,en", "different"),
        ("languages=e!", "language tags"),
        ("metadata=often", "number"),
        ("size", "WIDTHxHEIGHT"),
    ],
)
def test_a_wrong_option_is_refused_with_a_reason(query: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_source(f"videogen://?{query}")


@pytest.mark.parametrize("source", ["videogen://host/", "http://x", "videogen:///path?size=1x1"])
def test_other_urls_are_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="not of the form"):
        parse_source(source)
