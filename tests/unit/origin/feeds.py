"""A publisher that remembers what it was fed."""

from common.errors import TrackUnsupported
from common.media.codec import Codec
from common.media.frame import Frame
from origin.publisher import Publisher, TrackWish


class RememberingSink:
    """Stands where a stream would; refuses the codecs it is told to."""

    def __init__(self, name: str = "test", refuse: frozenset[Codec] = frozenset()) -> None:
        self.name = name
        self.refuse = refuse
        self.tracks: list[TrackWish] = []
        self.inits: list[tuple[int, bytes]] = []
        self.frames: list[Frame] = []
        self.left: list[tuple[str, bool]] = []
        self.enough: int | None = None
        self.publisher = Publisher(self, "main", peer="", protocol="test", number=1, key_id=b"")

    def add_track(self, publisher: Publisher, wish: TrackWish) -> int:
        """Number tracks from 101, unlike the child."""
        if wish.codec in self.refuse:
            raise TrackUnsupported(f"{wish.codec} is refused")
        self.tracks.append(wish)
        return 100 + len(self.tracks)

    def set_init(self, publisher: Publisher, track: int, init: bytes) -> None:
        """Remember new setup bytes."""
        self.inits.append((track, init))

    def write(self, publisher: Publisher, frame: Frame) -> None:
        """Remember a frame; dismiss the publisher once there are enough."""
        self.frames.append(frame)
        if self.enough is not None and len(self.frames) == self.enough:
            publisher.dismiss("enough")

    def leave(self, publisher: Publisher, reason: str, ended: bool) -> None:
        """Remember why it ended."""
        self.left.append((reason, ended))
