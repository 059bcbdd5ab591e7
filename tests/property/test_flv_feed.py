"""Whatever an encoder puts into its messages, a publisher gets frames or a typed error."""

from hypothesis import given
from hypothesis import strategies as st

from common.errors import HeadwaterError
from common.formats.amf import EcmaArray, Value
from common.media.describe import describe
from common.media.frame import Frame
from common.runtime.logs import Log
from origin.feed import setup
from origin.flv_feed import FlvFeed
from origin.publisher import Publisher, TrackWish

HEADS = [b"", b"\x17\x00\0\0\0", b"\x17\x01\0\0\0", b"\x90hvc1", b"\xa3hvc1", b"\x91av01"]
HEADS += [b"\x90vp09", b"\x91vp09", b"\xaf\x00", b"\xaf\x01", b"\x2f\xff\xfb", b"\x91Opus"]
AVCC = bytes.fromhex(
    "0164000affe100176764000aacd9442684000003000400000300c83c48965801000668ebe3cb22c0fdf8f800"
)

bodies = st.builds(
    bytes.__add__, st.sampled_from([*HEADS, HEADS[1] + AVCC]), st.binary(max_size=40)
)
documents: st.SearchStrategy[Value] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(EcmaArray)
    ),
    max_leaves=5,
)


class Sink:
    """Checks setup bytes as a stream does."""

    name = "live"

    def __init__(self) -> None:
        self.tracks: list[TrackWish] = []

    def add_track(self, publisher: Publisher, wish: TrackWish) -> int:
        setup(wish.codec, wish.init)
        self.tracks.append(wish)
        return len(self.tracks)

    def set_init(self, publisher: Publisher, track: int, init: bytes) -> None:
        setup(self.tracks[track - 1].codec, init)

    def write(self, publisher: Publisher, frame: Frame) -> None:
        assert frame.data
        wish = self.tracks[frame.track - 1]
        assert describe(wish.codec, wish.init) is not None

    def leave(self, publisher: Publisher, reason: str, ended: bool) -> None:
        raise AssertionError("nobody left")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2**32 - 1), bodies), max_size=12))
def test_any_bodies_give_frames_or_a_typed_error(sent: list[tuple[bool, int, bytes]]) -> None:
    feed = _feed()
    for video, time, body in sent:
        try:
            (feed.video if video else feed.audio)(time, body)
        except HeadwaterError:
            return


@given(st.sampled_from(["onTextData", "onCuePoint", "onMetaData"]), st.lists(documents, max_size=2))
def test_any_script_data_give_a_frame_or_nothing(name: str, values: list[Value]) -> None:
    _feed().data(0, name, tuple(values))


def _feed() -> FlvFeed:
    publisher = Publisher(Sink(), "main", peer="", protocol="rtmp", number=1, key_id=b"")
    return FlvFeed(publisher, Log("test"))
