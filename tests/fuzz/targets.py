"""What is fuzzed: each target takes bytes and fails on anything but a typed error.

The first byte of a target that is fed in pieces says how the others are cut.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from balancer.paths import stream_of
from common.errors import FormatError, ProtocolError, TrackUnsupported
from common.formats import amf
from common.formats.flv import FlvDemuxer, Tag, TagType, parse_audio, parse_video
from common.formats.mp4_read import read_fragments, read_init
from common.formats.rtmp import ClientConnection, ServerConnection
from common.formats.rtmp_chunk import ChunkReader
from common.formats.rtmp_session import State
from common.media import audio, av1, h264, hevc, nal, vp9
from common.media.codec import Codec
from common.media.describe import describe
from common.track.catalog import Catalog
from common.track.index import decode_row
from common.wire.control import decode_control
from common.wire.gossip import decode_gossip
from common.wire.messages import decode_bus
from edge.range import OK, PARTIAL, ranged

T_co = TypeVar("T_co", covariant=True)

CORPORA = Path(__file__).parents[1] / "data/fuzz"
MAX_BYTES = 8192

GREETING = b"\x03" + bytes(2 * 1536)
"""The handshake of a peer that sends nothing but zeros; the fuzzer starts behind it."""

STEPS = (1, 2, 3, 7, 64, 128, 1460, 4096)
BODY = bytes(range(256)) * 4


class Feeder(Protocol[T_co]):
    """A parser that takes bytes as they come."""

    def feed(self, data: bytes) -> Sequence[T_co]:
        """Take bytes in; return what they complete."""


def cut(data: bytes) -> list[bytes]:
    """Cut what follows the first byte into pieces, whose sizes that byte chooses."""
    step = STEPS[data[0] % len(STEPS)] if data else 1
    return [data[at : at + step] for at in range(1, len(data), step)]


def outcome(parser: Feeder[T_co], pieces: Sequence[bytes]) -> tuple[list[T_co], str]:
    """Return what a parser makes of the pieces, and the typed error that stopped it."""
    found: list[T_co] = []
    for piece in pieces:
        try:
            found += parser.feed(piece)
        except ProtocolError as error:
            return found, str(error)
    return found, ""


def same(make: Callable[[], Feeder[object]], data: bytes) -> None:
    """Check that a parser sees the same in one piece as in many, up to an error and its text."""
    whole, stopped = outcome(make(), [data[1:]])
    pieces, error = outcome(make(), cut(data))
    assert stopped == error, (stopped, error)
    # The one call that raises returns nothing: what came before it in the same bytes is lost.
    assert pieces[: len(whole)] == whole
    assert error or len(pieces) == len(whole)


def rtmp_chunks(data: bytes) -> None:
    """Chunks of RTMP, behind the handshake."""
    same(ChunkReader, data)


class Server:
    """The server of RTMP, which lets everybody publish."""

    def __init__(self) -> None:
        self._connection = ServerConnection()
        self._connection.feed(GREETING)

    def feed(self, data: bytes) -> list[object]:
        """Take bytes in; accept whoever asks."""
        events: list[object] = list(self._connection.feed(data))
        if self._connection.state is State.PUBLISH_ASKED:
            self._connection.accept()
        return events


def rtmp_server(data: bytes) -> None:
    """What an encoder may send; whether a publisher is accepted depends on how bytes are cut."""
    outcome(Server(), cut(data))
    outcome(Server(), [data[1:]])


def rtmp_client(data: bytes) -> None:
    """What a server may answer to us."""

    def make() -> ClientConnection:
        client = ClientConnection("live", "rtmp://o/live")
        client.feed(GREETING)
        return client

    outcome(make(), cut(data))
    outcome(make(), [data[1:]])


def amf0(data: bytes) -> None:
    """Values of AMF0; what was read can be written, and reads the same."""
    try:
        values = amf.decode(data)
    except FormatError:
        return
    written = amf.encode(*values)
    # NaN is not equal to itself: compare what is written again.
    assert amf.encode(*amf.decode(written)) == written


def flv(data: bytes) -> None:
    """A file of FLV, and the frames in its tags."""
    same(FlvDemuxer, data)
    for tag in outcome(FlvDemuxer(), cut(data))[0]:
        flv_tag(tag)


def flv_tag(tag: Tag) -> None:
    """The body of one tag."""
    try:
        if tag.kind is TagType.VIDEO:
            parse_video(tag.body)
        elif tag.kind is TagType.AUDIO:
            parse_audio(tag.body)
    except (FormatError, TrackUnsupported):
        return


def flv_bodies(data: bytes) -> None:
    """Bodies of video and audio tags, as RTMP brings them too."""
    for kind in (TagType.VIDEO, TagType.AUDIO):
        flv_tag(Tag(kind, 0, data))


def mp4(data: bytes) -> None:
    """Boxes of fragmented MP4: an init segment, and the fragments behind it."""
    try:
        read_fragments(data, read_init(data))
    except FormatError:
        return


def setup(data: bytes) -> None:
    """Configuration records and frames of every codec; the first byte chooses."""
    parsers: list[Callable[[bytes], object]] = [
        *(lambda body, codec=codec: describe(codec, body) for codec in Codec),
        *(h264.parse_sps, hevc.parse_sps, av1.drop_temporal_delimiters, vp9.parse_frame_header),
        *(audio.split_adts, audio.opus_head_to_dops, audio.dops_to_opus_head),
        *(audio.opus_duration, nal.split_annexb, nal.split_length_prefixed),
    ]
    try:
        parsers[(data or b"\0")[0] % len(parsers)](data[1:])
    except FormatError:
        return


def frames(data: bytes) -> list[bytes]:
    """Cut a message of the bus: each frame has its size in two bytes in front."""
    found: list[bytes] = []
    at = 0
    while at + 2 <= len(data) and len(found) < 8:
        stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : stop])
        at = stop
    return found


def bus(data: bytes) -> None:
    """Messages between nodes, catalogs and index rows."""
    message = frames(data)
    for decode in (decode_bus, decode_control, decode_gossip):
        try:
            decode(message)
        except FormatError:
            continue
    for parse in (Catalog.decode, decode_row):
        try:
            parse(data)
        except FormatError:
            continue


def http(data: bytes) -> None:
    """Paths and ranges of requests."""
    text = data.decode("latin-1")
    try:
        name = stream_of("/" + text)
    except FormatError:
        name = None
    assert name is None or (not set(name) & set("/\0\r\n") and ".." not in name)
    status, body, more = ranged(BODY, '"tag"', {"Range": text})
    assert status != PARTIAL or body in BODY
    assert status != OK or body == BODY
    assert all("\r" not in value and "\n" not in value for value in more.values())


TARGETS: dict[str, Callable[[bytes], None]] = {
    "amf0": amf0,
    "bus": bus,
    "flv": flv,
    "flv_bodies": flv_bodies,
    "http": http,
    "mp4": mp4,
    "rtmp_chunks": rtmp_chunks,
    "rtmp_client": rtmp_client,
    "rtmp_server": rtmp_server,
    "setup": setup,
}
