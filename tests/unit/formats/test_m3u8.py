from fractions import Fraction

from common.formats.m3u8 import (
    MediaPlaylist,
    MultivariantPlaylist,
    PartEntry,
    Rendition,
    Report,
    SegmentEntry,
    Variant,
    date_time,
    decimal,
    quote,
    skippable,
    write_media,
    write_multivariant,
)

WALL = 1_800_000_000_000_000


def segment(number: int, *, parts: int = 0, seconds: int | None = 2) -> SegmentEntry:
    return SegmentEntry(
        uri=f"1/5.1/s{number}.m4s",
        duration_us=None if seconds is None else seconds * 1_000_000,
        wall_us=WALL + number * 2_000_000,
        map_uri="1/5.1/init-0.mp4",
        parts=tuple(
            PartEntry(f"1/5.1/p{number * 10 + n}.m4s", 200_000, n == 0) for n in range(parts)
        ),
    )


def playlist(count: int = 2, **changes: object) -> MediaPlaylist:
    values: dict[str, object] = {
        "target_duration": 2,
        "part_target_us": 220_000,
        "sequence": 7,
        "discontinuity_sequence": 0,
        "segments": (
            *(segment(n) for n in range(count)),
            segment(count, parts=2, seconds=None),
        ),
        "hint_uri": "1/5.1/p22.m4s",
        "reports": (Report("2.m3u8", 9, 1), Report("3.m3u8", 9)),
        "independent": True,
    }
    return MediaPlaylist(**(values | changes))  # type: ignore[arg-type]


def test_a_live_playlist_is_written_in_full() -> None:
    assert write_media(playlist()) == (
        "#EXTM3U\n"
        "#EXT-X-VERSION:9\n"
        "#EXT-X-TARGETDURATION:2\n"
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.660,HOLD-BACK=6.0,"
        "CAN-SKIP-UNTIL=12.0\n"
        "#EXT-X-PART-INF:PART-TARGET=0.220\n"
        "#EXT-X-MEDIA-SEQUENCE:7\n"
        "#EXT-X-INDEPENDENT-SEGMENTS\n"
        '#EXT-X-MAP:URI="1/5.1/init-0.mp4"\n'
        "#EXT-X-PROGRAM-DATE-TIME:2027-01-15T08:00:00.000Z\n"
        "#EXTINF:2.000000,\n"
        "1/5.1/s0.m4s\n"
        "#EXT-X-PROGRAM-DATE-TIME:2027-01-15T08:00:02.000Z\n"
        "#EXTINF:2.000000,\n"
        "1/5.1/s1.m4s\n"
        "#EXT-X-PROGRAM-DATE-TIME:2027-01-15T08:00:04.000Z\n"
        '#EXT-X-PART:DURATION=0.200000,URI="1/5.1/p20.m4s",INDEPENDENT=YES\n'
        '#EXT-X-PART:DURATION=0.200000,URI="1/5.1/p21.m4s"\n'
        '#EXT-X-PRELOAD-HINT:TYPE=PART,URI="1/5.1/p22.m4s"\n'
        '#EXT-X-RENDITION-REPORT:URI="2.m3u8",LAST-MSN=9,LAST-PART=1\n'
        '#EXT-X-RENDITION-REPORT:URI="3.m3u8",LAST-MSN=9\n'
    )


def test_an_ended_playlist_has_no_hint() -> None:
    text = write_media(playlist(ended=True))
    assert "#EXT-X-ENDLIST\n" in text
    assert "PRELOAD-HINT" not in text


def test_a_discontinuity_comes_before_the_map_and_the_map_comes_again() -> None:
    before, after = segment(0), segment(1)
    after = SegmentEntry(
        **{
            **{name: getattr(after, name) for name in after.__slots__},
            "discontinuity": True,
            "map_uri": "1/5.1/init-1.mp4",
        }
    )
    lines = write_media(playlist(segments=(before, after))).splitlines()
    place = lines.index("#EXT-X-DISCONTINUITY")
    assert lines[place + 1] == '#EXT-X-MAP:URI="1/5.1/init-1.mp4"'
    assert lines[place + 2].startswith("#EXT-X-PROGRAM-DATE-TIME:")
    assert "#EXT-X-DISCONTINUITY-SEQUENCE:3" in write_media(playlist(discontinuity_sequence=3))


def test_a_gap_is_marked_before_its_address() -> None:
    gap = SegmentEntry("s1.m4s", 2_000_000, WALL, "init-0.mp4", gap=True)
    lines = write_media(playlist(segments=(segment(0), gap))).splitlines()
    place = lines.index("#EXT-X-GAP")
    assert lines[place + 1 : place + 3] == ["#EXTINF:2.000000,", "s1.m4s"]


def test_a_delta_update_keeps_six_target_durations_and_repeats_the_map() -> None:
    whole = playlist(10)
    # 0.4 s in parts and six segments behind the ones that may go.
    assert skippable(whole) == 4
    lines = write_media(whole, skip=True).splitlines()
    place = lines.index("#EXT-X-SKIP:SKIPPED-SEGMENTS=4")
    assert lines[place + 1] == '#EXT-X-MAP:URI="1/5.1/init-0.mp4"'
    assert "1/5.1/s4.m4s" in lines
    assert "1/5.1/s3.m4s" not in lines
    assert "#EXT-X-MEDIA-SEQUENCE:7" in lines


def test_a_short_playlist_has_nothing_to_leave_out() -> None:
    assert write_media(playlist(5), skip=True) == write_media(playlist(5))


def test_the_hold_back_of_parts_is_rounded_up() -> None:
    assert "PART-HOLD-BACK=0.602," in write_media(playlist(part_target_us=200_500))


def test_times_are_written_with_integers() -> None:
    assert decimal(1_999_999) == "1.999999"
    assert date_time(1_800_000_000_999_999) == "2027-01-15T08:00:00.999Z"
    assert date_time(0) == "1970-01-01T00:00:00.000Z"


def test_nothing_breaks_out_of_a_quoted_string() -> None:
    assert quote('a"b\nc') == '"abc"'


def test_a_multivariant_playlist_is_written_in_full() -> None:
    text = write_multivariant(
        MultivariantPlaylist(
            (
                Variant(
                    "1.m3u8", 900, 800, "avc1.4D400C,mp4a.40.2", 320, 180,
                    Fraction(30_000, 1001), "SDR", "audio-aac",
                ),
            ),
            (
                Rendition("audio-aac", "Nederlands", "2.m3u8", "nl", 2, True),
                Rendition("audio-aac", "und", "3.m3u8"),
            ),
            independent=True,
        )
    )  # fmt: skip
    assert text == (
        "#EXTM3U\n"
        "#EXT-X-VERSION:9\n"
        "#EXT-X-INDEPENDENT-SEGMENTS\n"
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio-aac",NAME="Nederlands",LANGUAGE="nl",'
        'DEFAULT=YES,AUTOSELECT=YES,CHANNELS="2",URI="2.m3u8"\n'
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio-aac",NAME="und",DEFAULT=NO,AUTOSELECT=YES,'
        'URI="3.m3u8"\n'
        '#EXT-X-STREAM-INF:BANDWIDTH=900,AVERAGE-BANDWIDTH=800,CODECS="avc1.4D400C,mp4a.40.2",'
        'RESOLUTION=320x180,FRAME-RATE=29.970,VIDEO-RANGE=SDR,AUDIO="audio-aac",'
        "CLOSED-CAPTIONS=NONE\n"
        "1.m3u8\n"
    )
