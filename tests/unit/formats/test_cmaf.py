import hashlib
import json
import struct
from pathlib import Path

import pytest

from common.errors import FormatError, TrackUnsupported
from common.formats.cmaf import emsg, fragment, init_segment, overhead, part, prft
from common.formats.mp4 import find, iter_boxes
from common.formats.mp4_read import read_fragments, read_init
from common.media.codec import Codec
from common.media.describe import describe
from common.media.h264 import build_avcc
from common.media.track import Track
from common.track.catalog import PACKAGING
from common.track.record import Flag, Record
from tests.unit.media import samples

GOLDEN = Path(__file__).parents[2] / "data" / "golden_cmaf.json"

AVCC = bytes.fromhex(
    "014d400cffe10018674d400ceca0a0cfcf0800000300080000030190 78a14cb001000468ce0fc8".replace(
        " ", ""
    )
)
AVCC_HDR = bytes.fromhex(
    "0142c00cffe1001c6742c00cda05067e7c39b848804a000003000200000300641e28554001000468ce0fc8"
)
"""4:3 pixels, BT.2020 with PQ, full range; 320 x 180 by x264."""

ASC = bytes.fromhex("1190")
OPUS = b"OpusHead" + struct.pack("<BBHIhB", 1, 2, 312, 48_000, 0, 0)
VPCC = bytes.fromhex("010000000014820101010000")

VIDEO = Track(1, Codec.H264, 90_000, (AVCC,), frame_duration=3600)
AUDIO = Track(2, Codec.AAC, 48_000, (ASC,), language="nl-BE", name="Geluid")


def frames(count: int, step: int = 3600, start: int = 900_000) -> tuple[list[Record], list[bytes]]:
    payloads = [bytes([index]) * (index + 1) for index in range(count)]
    records = [
        Record(
            seq=index,
            dts=start + index * step,
            capture_us=index,
            ingest_us=index,
            cts=(step, 2 * step, -step)[index % 3],
            duration=step,
            segment=3,
            part=14,
            offset=index,
            size=len(payload),
            crc32=0,
            flags=Flag.KEY if index % 5 == 0 else 0,
            init=0,
        )
        for index, payload in enumerate(payloads)
    ]
    return records, payloads


def everything() -> dict[str, bytes]:
    """Return one of each kind of bytes that stand behind a media URL."""
    records, payloads = frames(7)
    mp3 = Track(4, Codec.MP3, 44_100)
    vp9 = Track(5, Codec.VP9, 90_000, (VPCC + struct.pack(">HH", 640, 360),))
    hdr = Track(6, Codec.H264, 90_000, (AVCC_HDR,))
    hevc = Track(7, Codec.HEVC, 90_000, (samples.HVCC_MAIN,))
    av1 = Track(8, Codec.AV1, 90_000, (samples.AV1C,))
    return {
        "init h264": init_segment([(VIDEO, 0)]),
        "init aac": init_segment([(AUDIO, 0)]),
        "init opus": init_segment([(Track(3, Codec.OPUS, 48_000, (OPUS,)), 0)]),
        "init mp3": init_segment([(mp3, 0)]),
        "init vp9": init_segment([(vp9, 0)]),
        "init h264 with pixels and colours": init_segment([(hdr, 0)]),
        "init hevc": init_segment([(hevc, 0)]),
        "init av1": init_segment([(av1, 0)]),
        "init both": init_segment([(VIDEO, 0), (AUDIO, 0)]),
        "part": part(VIDEO, records, payloads),
        "part with clock": part(VIDEO, records, payloads, None, (900_000, 1_700_000_000_123_456)),
        "event": emsg(
            "https://aomedia.org/emsg/ID3",
            "",
            timescale=90_000,
            time=900_000,
            duration=0,
            number=7,
            data=b"ID3",
        ),
    }


def test_the_bytes_behind_media_urls_are_those_of_this_packaging_version() -> None:
    """If this fails, bytes changed under URLs that promise not to: raise PACKAGING, then write
    the new hashes into the golden file."""
    golden = json.loads(GOLDEN.read_text())
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in everything().items()}
    assert golden == {"packaging": PACKAGING, "sha256": hashes}


def test_an_init_segment_says_what_the_track_is() -> None:
    movie = read_init(init_segment([(VIDEO, 0), (AUDIO, 0)]))
    video, audio = movie.tracks
    assert (video.id, video.timescale, video.handler, video.entry) == (1, 90_000, b"vide", b"avc1")
    assert (video.width, video.height, video.setup) == (320, 180, AVCC)
    assert (audio.id, audio.timescale, audio.handler, audio.entry) == (2, 48_000, b"soun", b"mp4a")
    assert (audio.channels, audio.sample_rate, audio.language) == (2, 48_000, "nl-BE")


def test_a_vp9_track_has_the_size_of_its_picture_and_a_box_of_its_own_length() -> None:
    vp9 = Track(5, Codec.VP9, 90_000, (VPCC + struct.pack(">HH", 640, 360),))
    init = init_segment([(vp9, 0)])
    [track] = read_init(init).tracks
    assert (track.width, track.height, track.setup) == (640, 360, VPCC)
    assert struct.pack(">I4s", 8 + len(VPCC), b"vpcC") + VPCC in init


def test_a_picture_wider_than_the_fields_of_a_file_is_still_described() -> None:
    wide = Track(5, Codec.VP9, 90_000, (VPCC + struct.pack(">HH", 65_535, 360),))
    assert read_init(init_segment([(wide, 0)])).tracks[0].width == 65_535
    pixels = h264_with_pixels(65_535, 1)
    assert describe(Codec.H264, pixels).shown_width > 65_535
    assert read_init(init_segment([(Track(1, Codec.H264, 90_000, (pixels,)), 0)])).tracks


def h264_with_pixels(across: int, down: int) -> bytes:
    bits = samples.BitWriter().u(8, 66).u(8, 0).u(8, 30).ue(0, 0, 0, 0, 1).u(1, 0)
    bits.ue(39, 22).u(4, 0b1101).u(1, 1).u(8, 255).u(16, across).u(16, down).u(5, 0)
    return build_avcc([b"\x67" + bits.rbsp()], [b"\x68\xce"])


def test_a_file_of_one_track_is_cmaf_and_one_of_several_is_not() -> None:
    single, several = init_segment([(VIDEO, 0)]), init_segment([(VIDEO, 0), (AUDIO, 0)])
    assert b"cmfc" in single[:40]
    assert b"cmfc" not in several[:40]


def test_colours_stand_in_the_init_segment_where_the_setup_says_them() -> None:
    data = init_segment([(Track(5, Codec.VP9, 90_000, (VPCC,)), 0)])
    assert struct.pack(">4s4sHHHB", b"colr", b"nclx", 1, 1, 1, 0) in data


def test_a_track_that_mp4_does_not_carry_is_refused() -> None:
    with pytest.raises(TrackUnsupported):
        init_segment([(Track(9, Codec.JSON, 1000), 0)])
    with pytest.raises(TrackUnsupported):
        init_segment([(VIDEO, 1)])


def test_a_part_is_a_moof_and_an_mdat_with_exact_times() -> None:
    records, payloads = frames(7, start=1 << 40)
    data = part(VIDEO, records, payloads)
    assert [b.kind for b in iter_boxes(data)] == [b"moof", b"mdat"]
    (run,) = read_fragments(data, read_init(init_segment([(VIDEO, 0)])))
    assert run.sequence == 15
    assert [(s.dts, s.cts, s.duration, s.key, s.data) for s in run.samples] == [
        (r.dts, r.cts, 3600, r.key, p) for r, p in zip(records, payloads, strict=True)
    ]


def test_a_part_begins_with_the_clock_of_the_origin_where_it_is_known() -> None:
    records, payloads = frames(2)
    data = part(VIDEO, records, payloads, None, (900_000, 1_500_000))
    found = find(data, b"prft")
    assert found is not None
    fields = struct.unpack(">IIQQ", data[found.body : found.stop])
    assert fields == (1 << 24 | 24, 1, (2_208_988_801 << 32) | 1 << 31, 900_000)
    assert data[found.stop :] == part(VIDEO, records, payloads)
    assert prft(1, 900_000, 1_500_000) == data[: found.stop]


def test_samples_last_until_the_next_one_and_the_last_as_its_record_says() -> None:
    records, payloads = frames(3)
    records[1] = records[1]._replace(dts=records[1].dts + 11)
    records[2] = records[2]._replace(duration=1234)
    movie = read_init(init_segment([(VIDEO, 0)]))
    (run,) = read_fragments(part(VIDEO, records, payloads), movie)
    assert [s.duration for s in run.samples] == [3611, 3589, 1234]
    (run,) = read_fragments(part(VIDEO, records, payloads, records[2].dts + 99), movie)
    assert [s.duration for s in run.samples] == [3611, 3589, 99]


def test_no_byte_depends_on_clocks_or_on_where_a_node_keeps_a_record() -> None:
    records, payloads = frames(3)
    other = [r._replace(capture_us=9, ingest_us=8, offset=7, crc32=6) for r in records]
    assert part(VIDEO, records, payloads) == part(VIDEO, other, payloads)


def test_payloads_that_are_joined_already_make_the_same_part() -> None:
    records, payloads = frames(5)
    assert part(VIDEO, records, payloads) == part(VIDEO, records, [b"".join(payloads)])


def test_the_overhead_of_a_part_is_known_beforehand() -> None:
    records, payloads = frames(7)
    data = part(VIDEO, records, payloads, None, (900_000, 1))
    assert len(data) == overhead(1, 7) + sum(map(len, payloads))


@pytest.mark.parametrize("change", [{"dts": 0}, {"dts": -1}, {"dts": 1 << 50}])
def test_records_that_are_no_run_are_refused(change: dict[str, int]) -> None:
    records, payloads = frames(3)
    records[1] = records[1]._replace(**change)
    with pytest.raises(FormatError):
        part(VIDEO, records, payloads)


def test_a_part_of_nothing_is_refused() -> None:
    with pytest.raises(FormatError):
        part(VIDEO, [], [])


def test_a_fragment_holds_a_run_of_every_track() -> None:
    pictures, sounds = frames(2), frames(5, 1024, 480_000)
    data = fragment([VIDEO, AUDIO], [pictures, sounds], 77)
    movie = read_init(init_segment([(VIDEO, 0), (AUDIO, 0)]))
    video, audio = read_fragments(data, movie)
    assert (video.track, audio.track, video.sequence) == (1, 2, 77)
    assert [s.data for s in video.samples] == pictures[1]
    assert [(s.dts, s.data) for s in audio.samples] == [
        (r.dts, p) for r, p in zip(*sounds, strict=True)
    ]


def test_a_fragment_of_one_track_is_the_part_with_another_number() -> None:
    records, payloads = frames(4)
    assert fragment([VIDEO], [(records, payloads)], 15) == part(VIDEO, records, payloads)
    assert fragment([VIDEO], [(records, payloads)]) != part(VIDEO, records, payloads)


def test_an_event_says_when_on_the_timeline_it_is() -> None:
    data = everything()["event"]
    assert data[8:12] == b"\x01\0\0\0"
    assert struct.unpack_from(">IQII", data, 12) == (90_000, 900_000, 0, 7)
    assert data[32:] == b"https://aomedia.org/emsg/ID3\0\0ID3"
    with pytest.raises(TrackUnsupported):
        emsg("", "", timescale=-1, time=0, duration=0, number=0, data=b"")
