"""HLS playlists as text: media playlists with parts (low latency) and multivariant playlists.

RFC 8216bis (draft 22), section 4.4 for the tags and appendix B for low latency. Pure: dataclasses
in, text out, with integers for all times so that equal input is equal text on every machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

VERSION = 9
"""The least protocol version that knows EXT-X-SKIP (section 8)."""

HOLD_BACK = 3
"""Target durations that a player stays behind without parts (4.4.3.8)."""

PART_HOLD_BACK = 3
"""Part targets that a player stays behind with parts."""

SKIP_UNTIL = 6
"""Target durations at the end that a delta update never leaves out."""

MILLION = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PartEntry:
    """EXT-X-PART."""

    uri: str
    duration_us: int
    independent: bool = False


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """One media segment, or the one that is not complete yet, of which only parts are listed."""

    uri: str
    duration_us: int | None
    """None while the segment is not complete."""

    wall_us: int
    """Unix microseconds of its beginning, for EXT-X-PROGRAM-DATE-TIME."""

    map_uri: str
    """The init segment; EXT-X-MAP stands where it changes."""

    parts: tuple[PartEntry, ...] = ()
    discontinuity: bool = False
    gap: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """EXT-X-RENDITION-REPORT: how far another playlist goes."""

    uri: str
    last_msn: int
    last_part: int | None = None


@dataclass(frozen=True, slots=True)
class MediaPlaylist:
    """What one track offers now."""

    target_duration: int
    """Seconds."""

    part_target_us: int
    sequence: int
    """Media sequence number of the first segment."""

    discontinuity_sequence: int
    segments: tuple[SegmentEntry, ...]
    hint_uri: str = ""
    """The next part; empty: none will come."""

    reports: tuple[Report, ...] = ()
    independent: bool = False
    ended: bool = False


def decimal(microseconds: int) -> str:
    """Return seconds with six decimals."""
    return f"{microseconds // MILLION}.{microseconds % MILLION:06d}"


def _milli(microseconds: int) -> str:
    """Return seconds with three decimals, rounded up."""
    milliseconds = -(-microseconds // 1000)
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"


def date_time(unix_us: int) -> str:
    """Return a date as ISO 8601 with milliseconds, in UTC."""
    moment = _EPOCH + timedelta(milliseconds=unix_us // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def quote(text: str) -> str:
    """Return a quoted-string; what cannot stand in one (4.2) is left out."""
    return '"' + "".join(c for c in text if c.isprintable() and c != '"') + '"'


def skippable(playlist: MediaPlaylist) -> int:
    """Return how many segments a delta update may leave out (6.2.5.1)."""
    reach = SKIP_UNTIL * playlist.target_duration * MILLION
    behind = 0
    for position in range(len(playlist.segments) - 1, -1, -1):
        if behind >= reach:
            return position + 1
        entry = playlist.segments[position]
        parts = sum(part.duration_us for part in entry.parts)
        behind += parts if entry.duration_us is None else entry.duration_us
    return 0


def write_media(playlist: MediaPlaylist, *, skip: bool = False) -> str:
    """Write a media playlist; with ``skip`` as a delta update, if there is anything to leave out.

    State that a skipped segment had set (EXT-X-MAP) is repeated for the first one that is not
    skipped, so that no player depends on remembering it.
    """
    target = playlist.target_duration
    lines = [
        "#EXTM3U",
        f"#EXT-X-VERSION:{VERSION}",
        f"#EXT-X-TARGETDURATION:{target}",
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,"
        f"PART-HOLD-BACK={_milli(PART_HOLD_BACK * playlist.part_target_us)},"
        f"HOLD-BACK={HOLD_BACK * target}.0,CAN-SKIP-UNTIL={SKIP_UNTIL * target}.0",
        f"#EXT-X-PART-INF:PART-TARGET={_milli(playlist.part_target_us)}",
        f"#EXT-X-MEDIA-SEQUENCE:{playlist.sequence}",
    ]
    if playlist.discontinuity_sequence:
        lines.append(f"#EXT-X-DISCONTINUITY-SEQUENCE:{playlist.discontinuity_sequence}")
    if playlist.independent:
        lines.append("#EXT-X-INDEPENDENT-SEGMENTS")
    left_out = skippable(playlist) if skip else 0
    if left_out:
        lines.append(f"#EXT-X-SKIP:SKIPPED-SEGMENTS={left_out}")
    map_uri = ""
    for entry in playlist.segments[left_out:]:
        lines += _segment(entry, map_uri)
        map_uri = entry.map_uri or map_uri
    if playlist.ended:
        lines.append("#EXT-X-ENDLIST")
    elif playlist.hint_uri:
        lines.append(f'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="{playlist.hint_uri}"')
    lines += map(_report, playlist.reports)
    return "\n".join(lines) + "\n"


def _segment(entry: SegmentEntry, map_uri: str) -> Iterator[str]:
    if entry.discontinuity:
        yield "#EXT-X-DISCONTINUITY"
    if entry.map_uri and (entry.map_uri != map_uri or entry.discontinuity):
        yield f'#EXT-X-MAP:URI="{entry.map_uri}"'
    yield f"#EXT-X-PROGRAM-DATE-TIME:{date_time(entry.wall_us)}"
    for part in entry.parts:
        independent = ",INDEPENDENT=YES" if part.independent else ""
        yield f'#EXT-X-PART:DURATION={decimal(part.duration_us)},URI="{part.uri}"{independent}'
    if entry.duration_us is not None:
        if entry.gap:
            yield "#EXT-X-GAP"
        yield f"#EXTINF:{decimal(entry.duration_us)},"
        yield entry.uri


def _report(report: Report) -> str:
    part = "" if report.last_part is None else f",LAST-PART={report.last_part}"
    return f'#EXT-X-RENDITION-REPORT:URI="{report.uri}",LAST-MSN={report.last_msn}{part}'


@dataclass(frozen=True, slots=True)
class Rendition:
    """EXT-X-MEDIA of TYPE=AUDIO."""

    group: str
    name: str
    uri: str
    language: str = ""
    """BCP 47; empty where not known."""

    channels: int = 0
    default: bool = False
    stable_id: str = ""
    """What stays the same when its URI changes (4.4.6.1); empty: not said."""


@dataclass(frozen=True, slots=True)
class Variant:
    """EXT-X-STREAM-INF and its URI."""

    uri: str
    bandwidth: int
    """Peak bits a second, with the audio of its group."""

    average_bandwidth: int
    codecs: str
    width: int = 0
    height: int = 0
    frame_rate: Fraction | None = None
    video_range: str = ""
    audio: str = ""
    """Group of audio renditions."""

    stable_id: str = ""
    """What stays the same when its URI changes (4.4.6.2); empty: not said."""

    pathway: str = ""
    """By which way its media come (4.4.6.2); empty: not said."""


@dataclass(frozen=True, slots=True)
class Steering:
    """EXT-X-CONTENT-STEERING (4.4.6.6): whom a player asks which pathway to take."""

    server_uri: str
    pathway: str
    """The one to begin with."""


@dataclass(frozen=True, slots=True)
class MultivariantPlaylist:
    """All tracks of a stream and how they go together."""

    variants: tuple[Variant, ...]
    renditions: tuple[Rendition, ...] = ()
    independent: bool = False
    steering: Steering | None = None


def write_multivariant(playlist: MultivariantPlaylist) -> str:
    """Write a multivariant playlist."""
    lines = ["#EXTM3U", f"#EXT-X-VERSION:{VERSION}"]
    if playlist.independent:
        lines.append("#EXT-X-INDEPENDENT-SEGMENTS")
    if playlist.steering is not None:
        server, pathway = quote(playlist.steering.server_uri), quote(playlist.steering.pathway)
        lines.append(f"#EXT-X-CONTENT-STEERING:SERVER-URI={server},PATHWAY-ID={pathway}")
    lines += map(_rendition, playlist.renditions)
    for variant in playlist.variants:
        lines += (_stream_inf(variant), variant.uri)
    return "\n".join(lines) + "\n"


def _rendition(rendition: Rendition) -> str:
    attributes = [
        "TYPE=AUDIO",
        f"GROUP-ID={quote(rendition.group)}",
        f"NAME={quote(rendition.name)}",
    ]
    if rendition.language:
        attributes.append(f"LANGUAGE={quote(rendition.language)}")
    attributes += [f"DEFAULT={'YES' if rendition.default else 'NO'}", "AUTOSELECT=YES"]
    if rendition.channels:
        attributes.append(f'CHANNELS="{rendition.channels}"')
    if rendition.stable_id:
        attributes.append(f"STABLE-RENDITION-ID={quote(rendition.stable_id)}")
    attributes.append(f'URI="{rendition.uri}"')
    return "#EXT-X-MEDIA:" + ",".join(attributes)


def _stream_inf(variant: Variant) -> str:
    attributes = [
        f"BANDWIDTH={variant.bandwidth}",
        f"AVERAGE-BANDWIDTH={variant.average_bandwidth}",
        f"CODECS={quote(variant.codecs)}",
    ]
    if variant.width and variant.height:
        attributes.append(f"RESOLUTION={variant.width}x{variant.height}")
    if variant.frame_rate is not None:
        attributes.append(f"FRAME-RATE={_rate(variant.frame_rate)}")
    if variant.video_range:
        attributes.append(f"VIDEO-RANGE={variant.video_range}")
    if variant.audio:
        attributes.append(f"AUDIO={quote(variant.audio)}")
    if variant.stable_id:
        attributes.append(f"STABLE-VARIANT-ID={quote(variant.stable_id)}")
    if variant.pathway:
        attributes.append(f"PATHWAY-ID={quote(variant.pathway)}")
    attributes.append("CLOSED-CAPTIONS=NONE")
    return "#EXT-X-STREAM-INF:" + ",".join(attributes)


def _rate(rate: Fraction) -> str:
    """Return frames a second with three decimals, rounded half up (4.4.6.2)."""
    thousandths = (2000 * rate.numerator + rate.denominator) // (2 * rate.denominator)
    return f"{thousandths // 1000}.{thousandths % 1000:03d}"
