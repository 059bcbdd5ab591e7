"""Which tracks a viewer gets: MistServer's selectors ``?video=`` and ``?audio=``, the common part.

A selector is empty (the first track of its kind), ``none`` or ``0``, a track id, a codec, or a
language. Without a match the first track of the kind is taken, as MistServer does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from common.media.codec import Codec, Kind
from common.media.track import Track
from common.track.catalog import Catalog

MAX_SELECTOR = 64
"""Characters of a track selector. A longer one is ignored."""

_NONE = frozenset({"none", "0", "-1"})


@dataclass(frozen=True, slots=True)
class Selection:
    """One video and one audio track at most, by wish of the viewer."""

    video: str = ""
    audio: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Selection":
        """Read the selectors of a query string."""
        video, audio = query.get("video", ""), query.get("audio", "")
        return cls(
            video.lower() if len(video) <= MAX_SELECTOR else "",
            audio.lower() if len(audio) <= MAX_SELECTOR else "",
        )

    def choose(self, catalog: Catalog, codecs: frozenset[Codec]) -> tuple[Track, ...]:
        """Return the chosen tracks that ``codecs`` can carry, video first."""
        found = []
        for kind, wish in ((Kind.VIDEO, self.video), (Kind.AUDIO, self.audio)):
            tracks = [
                track
                for track in catalog.tracks
                if track.codec.kind is kind and track.codec in codecs and not track.ended
            ]
            if tracks and wish not in _NONE:
                found.append(next((t for t in tracks if _matches(t, wish)), tracks[0]))
        return tuple(found)

    def wants(self, kind: Kind) -> bool:
        """Return whether a track of this kind is wanted at all."""
        return (self.video if kind is Kind.VIDEO else self.audio) not in _NONE


def _matches(track: Track, wish: str) -> bool:
    return wish in (str(track.id), track.codec.value, track.language.lower(), track.name.lower())
