import gzip

import pytest

from common.errors import ProtocolError
from common.media.codec import Codec
from common.media.track import INDEX_TRACK, Track
from common.track.catalog import Catalog
from common.track.index import Opened, decode_row
from edge.playlists import WAIT, Directives, Playlists, Text
from edge.timeline import Timeline
from edge.variants import Variants
from tests.unit.edge.cuts import AUDIO, EPOCH, VIDEO, CutStream, tell
from tests.unit.media.samples import AVCC_HIGH

BASE = f"1/{EPOCH}.1/"


class Told:
    """What playlists are made from, told entry by entry."""

    def __init__(self, stream: CutStream, index_from_start: bool = True) -> None:
        self.stream = stream
        self.tracks = {track.id: Timeline(track) for track in stream.tracks}
        self.index_from_start = index_from_start
        self._told = 0

    @property
    def catalog(self) -> Catalog:
        return self.stream.catalog

    def catch_up(self) -> "Told":
        for entry in self.stream.entries[self._told :]:
            tell(self.tracks, entry)
        self._told = len(self.stream.entries)
        return self


def text(answer: object) -> str:
    assert isinstance(answer, Text)
    return answer.body.decode()


def made(seconds: float, **options: int) -> tuple[CutStream, Told, Playlists]:
    stream = CutStream(**options).run(seconds)  # type: ignore[arg-type]
    told = Told(stream).catch_up()
    return stream, told, Playlists(told)


def _row_segment(data: bytes) -> int:
    row = decode_row(data)
    return row.segment if isinstance(row, Opened) else row.opened.segment


def test_there_is_no_playlist_before_the_target_duration_is_known() -> None:
    _, _, playlists = made(1)
    assert playlists.media(1, Directives()) is WAIT


def test_the_hint_always_comes_true() -> None:
    stream, told, playlists = made(2.1)
    for _ in range(60):
        body = text(playlists.media(1, Directives()))
        hint = body.partition("PRELOAD-HINT:TYPE=PART,URI=")[2].split('"')[1]
        stream.run(0.2)
        told.catch_up()
        assert f'URI="{hint}"' in text(playlists.media(1, Directives())).replace(
            f'HINT:TYPE=PART,URI="{hint}"', ""
        )


def test_parts_are_listed_of_the_last_three_segments_only() -> None:
    _, _, playlists = made(13)
    body = text(playlists.media(1, Directives()))
    assert f'"{BASE}p40.m4s",INDEPENDENT=YES' in body
    assert f"{BASE}p39.m4s" not in body
    assert f"{BASE}s3.m4s" in body


def test_every_segment_of_both_tracks_has_the_date_of_its_first_frame() -> None:
    _, _, playlists = made(7)
    video = text(playlists.media(1, Directives())).splitlines()
    audio = text(playlists.media(2, Directives())).splitlines()
    dates = [line for line in video if "DATE-TIME" in line]
    assert dates[1] == "#EXT-X-PROGRAM-DATE-TIME:2027-01-15T08:00:12.000Z"
    # The first audio frame at or after the cut begins 5 ms after it.
    assert [line for line in audio if "DATE-TIME" in line][1].endswith("08:00:12.005Z")


def test_the_window_begins_where_stream_time_says() -> None:
    _, told, playlists = made(31, window_us=10_000_000)
    body = text(playlists.media(1, Directives()))
    assert "#EXT-X-MEDIA-SEQUENCE:10\n" in body
    old = Told(told.stream)
    for entry in told.stream.entries:
        number, record, data = entry
        # An edge that has joined late: rows of the window, records of the newest segments.
        if (_row_segment(data) >= 10) if number == INDEX_TRACK else (record.segment >= 13):
            tell(old.tracks, entry)
    for track in (1, 2):
        for skip in (False, True):
            late = Playlists(old).media(track, Directives(skip=skip))
            assert text(late) == text(playlists.media(track, Directives(skip=skip)))


def test_a_late_edge_has_not_settled_before_it_knows_what_the_playlist_says() -> None:
    stream = CutStream(window_us=10_000_000).run(31)
    for rows, records, settled in ((10, 13, True), (10, 14, False), (11, 13, False)):
        told = Told(stream, index_from_start=False)
        for entry in stream.entries:
            number, record, data = entry
            index = number == INDEX_TRACK
            if _row_segment(data) >= rows if index else record.segment >= records:
                tell(told.tracks, entry)
        assert Playlists(told).settled(1) is settled


def test_equal_heads_make_equal_text_and_one_text_serves_all() -> None:
    stream, _, playlists = made(9)
    other = Playlists(Told(stream).catch_up())
    first = playlists.media(1, Directives())
    assert text(first) == text(other.media(1, Directives()))
    assert playlists.media(1, Directives()) is first
    assert isinstance(first, Text)
    assert gzip.decompress(first.packed) == first.body
    assert first.packed is first.packed


def test_a_blocking_reload_waits_for_the_segment_or_part_it_names() -> None:
    stream, told, playlists = made(4.3)
    assert isinstance(playlists.media(1, Directives(1)), Text)
    assert playlists.media(1, Directives(2)) is WAIT
    assert isinstance(playlists.media(1, Directives(2, 0)), Text)
    assert playlists.media(1, Directives(2, 1)) is WAIT
    stream.run(0.2)
    told.catch_up()
    assert isinstance(playlists.media(1, Directives(2, 1)), Text)
    assert playlists.media(1, Directives(2, 2)) is WAIT


def test_a_part_behind_the_last_one_of_a_segment_is_the_first_of_the_next() -> None:
    stream, told, playlists = made(4.02)
    assert playlists.media(1, Directives(1, 10)) is WAIT
    stream.run(0.2)
    told.catch_up()
    assert isinstance(playlists.media(1, Directives(1, 10)), Text)


@pytest.mark.parametrize(("msn", "part"), [(4, None), (99, 0), (2, 17), (3, 15)])
def test_what_is_too_far_ahead_is_refused(msn: int, part: int | None) -> None:
    _, _, playlists = made(4.5)
    with pytest.raises(ProtocolError):
        playlists.media(1, Directives(msn, part))


def test_what_is_just_ahead_is_waited_for() -> None:
    _, _, playlists = made(4.5)
    for msn, part in ((3, None), (2, 15), (3, 0)):
        assert playlists.media(1, Directives(msn, part)) is WAIT


@pytest.mark.parametrize(
    "query",
    [{"_HLS_part": "1"}, {"_HLS_msn": "x"}, {"_HLS_msn": "-1"}, {"_HLS_msn": "1" * 17},
     {"_HLS_msn": "1", "_HLS_part": "1.5"}, {"_HLS_msn": "٣"}],
)  # fmt: skip
def test_directives_that_make_no_sense_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        Directives.of(query)


def test_directives_are_read() -> None:
    query = {"_HLS_msn": "7", "_HLS_part": "2", "_HLS_skip": "v2", "token": "x"}
    assert Directives.of(query) == Directives(7, 2, True)
    assert Directives.of({"_HLS_skip": "no"}) == Directives()


def test_an_ended_stream_ends_its_playlists_and_releases_who_waits() -> None:
    stream, told, playlists = made(4.5)
    assert playlists.media(1, Directives(3)) is WAIT
    stream.finish()
    assert playlists.media(1, Directives(3)) is WAIT  # the last rows have not come yet
    told.catch_up()
    body = text(playlists.media(1, Directives(99, 99)))
    assert body.count("#EXT-X-ENDLIST") == 1
    assert "PRELOAD-HINT" not in body
    assert f"{BASE}s2.m4s" in body


def test_a_track_that_ends_before_the_others_ends_with_its_last_segment() -> None:
    stream = CutStream().run(5)
    for _ in range(300):
        stream.push(AUDIO)
    stream.finish()
    playlists = Playlists(Told(stream).catch_up())
    video = text(playlists.media(1, Directives()))
    audio = text(playlists.media(2, Directives()))
    assert video.count("#EXTINF") < audio.count("#EXTINF")
    assert "#EXT-X-GAP" not in video
    assert "#EXT-X-ENDLIST" in video


def test_a_change_of_setup_bytes_is_a_discontinuity_with_a_new_map() -> None:
    stream = CutStream().run(5)
    changed = Track(1, Codec.H264, 90_000, (*VIDEO.inits, AVCC_HIGH), frame_duration=3600)
    stream.tracks = (changed, AUDIO)
    stream.inits[1] = 1
    stream.change()
    stream._counts[1] = 150
    stream.run(4)
    playlists = Playlists(Told(stream).catch_up())
    video = text(playlists.media(1, Directives())).splitlines()
    place = video.index("#EXT-X-DISCONTINUITY")
    assert video[place + 1] == f'#EXT-X-MAP:URI="{BASE}init-1.mp4"'
    assert "#EXT-X-DISCONTINUITY" in text(playlists.media(2, Directives()))


def test_the_discontinuity_sequence_counts_breaks_that_have_left_the_window() -> None:
    stream = CutStream(window_us=8_000_000).run(3)
    stream.segmenter.break_timeline()
    stream.run(7)
    playlists = Playlists(Told(stream).catch_up())
    body = text(playlists.media(1, Directives()))
    assert "DISCONTINUITY-SEQUENCE" not in body
    assert body.count("#EXT-X-DISCONTINUITY\n") == 1
    stream.run(10)
    body = text(Playlists(Told(stream).catch_up()).media(1, Directives()))
    assert "#EXT-X-DISCONTINUITY-SEQUENCE:1\n" in body
    assert "#EXT-X-DISCONTINUITY\n" not in body


def test_segments_that_this_edge_lacks_are_gaps() -> None:
    stream = CutStream().run(9)
    told = Told(stream).catch_up()
    told.tracks[1].lose([60])
    body = text(Playlists(told).media(1, Directives())).splitlines()
    place = body.index("#EXT-X-GAP")
    assert body[place + 2] == f"{BASE}s1.m4s"
    assert body.count("#EXT-X-GAP") == 1


def test_a_track_that_falls_silent_keeps_its_numbers_with_gaps() -> None:
    stream = CutStream().run(2.5)
    stream.skip(AUDIO, 300)
    stream.run(6.5)
    body = text(Playlists(Told(stream).catch_up()).media(2, Directives()))
    assert body.count("#EXT-X-GAP") >= 1
    assert "#EXT-X-MEDIA-SEQUENCE:0\n" in body


def _report(playlists: Playlists, track: int) -> str:
    body = text(playlists.media(track, Directives()))
    return body.partition("#EXT-X-RENDITION-REPORT:")[2].strip()


def test_reports_say_how_far_the_other_tracks_have_come() -> None:
    stream, told, playlists = made(4.5)
    # Video is at 4.4 s; what audio has complete by 4.18 s is the part that ends at 4.01 s.
    assert _report(playlists, 1) == 'URI="2.m3u8",LAST-MSN=1,LAST-PART=9'
    assert _report(playlists, 2) == 'URI="1.m3u8",LAST-MSN=2,LAST-PART=0'
    stream.finish()
    told.catch_up()
    assert _report(playlists, 1) == 'URI="2.m3u8",LAST-MSN=2,LAST-PART=2'


def test_a_report_does_not_depend_on_the_very_end_of_the_other_track() -> None:
    stream = CutStream().run(4.5)
    texts = set()
    last = max(record.seq for number, record, _ in stream.entries if number == AUDIO.id)
    for missing in range(8):
        told = Told(stream)
        for entry in stream.entries:
            if entry[0] != AUDIO.id or entry[1].seq <= last - missing:
                tell(told.tracks, entry)
        texts.add(text(Playlists(told).media(1, Directives())))
    assert len(texts) == 1


def _variants(stream: CutStream) -> str:
    told = Told(stream).catch_up()
    return text(Variants(told, Playlists(told)).text())


def test_a_track_that_never_begins_is_waited_for_until_a_segment_is_whole() -> None:
    stream = CutStream()
    told = Told(stream)
    variants = Variants(told, Playlists(told))
    assert variants.text() is WAIT
    while stream.segmenter.segment < 2:
        stream.push(VIDEO)
        assert variants.text() is WAIT
        told.catch_up()
    stream.push(VIDEO)
    told.catch_up()
    assert "AUDIO" not in text(variants.text())
    assert "AUDIO" in _variants(CutStream().run(2.1))


def test_bandwidths_are_those_of_the_objects() -> None:
    stream = CutStream((VIDEO,)).run(9)
    told = Told(stream).catch_up()
    segments = [told.tracks[1].segment(number) for number in range(4)]
    sizes = [s.size + 10 * (32 + 96) + 50 * 16 for s in segments if s is not None]
    body = _variants(stream)
    assert f"BANDWIDTH={-(-max(sizes) * 8 // 2)},AVERAGE" in body
    assert f"AVERAGE-BANDWIDTH={-(-sum(sizes) * 8 // 8)}," in body


def test_audio_alone_is_a_variant_of_its_own() -> None:
    body = _variants(CutStream((AUDIO,)).run(5))
    assert "EXT-X-MEDIA" not in body
    assert 'CODECS="mp4a.40.2"' in body
    assert body.endswith("\n2.m3u8\n")


def test_renditions_and_languages_are_offered_together() -> None:
    low = Track(3, Codec.H264, 90_000, VIDEO.inits, frame_duration=3600)
    dutch = Track(4, Codec.AAC, 48_000, AUDIO.inits, language="nl", frame_duration=1024)
    other = Track(5, Codec.AAC, 48_000, AUDIO.inits, language="nl", frame_duration=1024)
    opus = Track(6, Codec.OPUS, 48_000, (b"OpusHead\1\2\0\0\x80\xbb\0\0\0\0\0",), name="Music")
    opus = Track(6, Codec.OPUS, 48_000, opus.inits, name="Music", frame_duration=960)
    stream = CutStream((VIDEO, AUDIO, low, dutch, other, opus)).run(2)
    stream._counts[3] = 0
    body = _variants(stream.run(2.5))
    lines = body.splitlines()
    assert sum(line.startswith("#EXT-X-STREAM-INF") for line in lines) == 4
    assert [line for line in lines if line.endswith(".m3u8")].count("3.m3u8") == 2
    assert 'NAME="nl (5)"' in body
    assert 'GROUP-ID="audio-opus",NAME="Music",DEFAULT=YES' in body
    assert body.count("DEFAULT=YES") == 2
