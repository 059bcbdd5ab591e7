"""What a player is told to ask a balancer, and how viewers are spread over edges.

Content Steering (draft-pantos-content-steering-05; HLS: RFC 8216bis 4.4.6.6 and 7; DASH: ETSI
TS 103 998). Each edge is a pathway. The edge that wrote the multivariant playlist puts all that
the balancer has to know of it into the URI of the steering manifest, so that a balancer knows no
streams::

    /steering/hls/cmaf/live/index.m3u8?variants=1.m3u8&renditions=2.m3u8&pathways=edge1,edge2

``variants`` and ``renditions`` are the playlists that the multivariant playlist names, relative to
it; they are the stable ids too. ``pathways`` are the edges that it names already, first the one
that wrote it; all others have to be cloned from that. Further queries carry the ``session``, which
the balancer invents.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from common.errors import FormatError

HLS_PREFIX = "/steering/hls"
DASH_PREFIX = "/steering/dash"

MAX_URIS = 128
"""Playlists that a multivariant playlist can name for steering. A question with more is answered
with 400."""

MAX_PATHWAYS = 16
"""Edges that a player can name for steering. A question with more is answered with 400."""

MAX_WORD = 255
"""Letters of a pathway, a session or a relative URI. A question with a longer one is answered with
400."""

MAX_THROUGHPUT = 1e12
"""Bits a second that a player may claim. A question that claims more is answered with 400."""

_URI = re.compile(r"[A-Za-z0-9+=._-]+(/[A-Za-z0-9+=._-]+)*")
_WORD = re.compile(r"[A-Za-z0-9._-]+")
_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")


def pathway_of(node: str) -> str:
    """Return the pathway id of an edge: its name, with '_' for letters that no id can have."""
    return _ILLEGAL.sub("_", node)[:MAX_WORD] or "_"


def race(key: str, name: str, weight: float) -> float:
    """Return how late ``name`` arrives in a race for ``key``: the least is first.

    The chance of each to be first is its share of all weights, and the order among the others
    stays when one is taken out (rendezvous hashing with exponential times).
    """
    digest = hashlib.blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()
    chance = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
    return -math.log(chance) / weight if weight > 0 else math.inf


def server_uri(
    balancer: str,
    path: str,
    variants: Sequence[str],
    renditions: Sequence[str],
    pathways: Sequence[str],
) -> str:
    """Return where the steering manifest is for the multivariant playlist at ``path``."""
    query = query_of(variants, renditions, pathways)
    return f"{balancer}{HLS_PREFIX}{path}?{query}"


def query_of(
    variants: Sequence[str], renditions: Sequence[str], pathways: Sequence[str], session: str = ""
) -> str:
    """Return the query that says so much of a multivariant playlist."""
    said = {"variants": variants, "renditions": renditions, "pathways": pathways}
    parts = [
        f"{name}={','.join(quote(word, safe='/=') for word in words)}"
        for name, words in said.items()
        if words
    ]
    return "&".join([*parts, f"session={session}"] if session else parts)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a player asks when it fetches its steering manifest."""

    variants: tuple[str, ...] = ()
    renditions: tuple[str, ...] = ()
    pathways: tuple[str, ...] = ()
    session: str = ""
    current: str = ""
    """The pathway that it uses now; empty while it has not said."""

    throughput: float = 0.0
    """Bits a second that it measured; 0 if it has not said."""

    @classmethod
    def of(cls, query: Mapping[str, str], dialect: str) -> "Ask":
        """Read the query; ``dialect`` is ``HLS`` or ``DASH``.

        Players send pathways with quotes or without, and a DASH player all that it has used since
        it last asked; the last one counts.

        Raises:
            FormatError: If something in it has no such form, or is too long.
        """
        used = _words(query.get(f"_{dialect}_pathway", "").replace('"', ""), MAX_PATHWAYS)
        session = _words(query.get("session", ""), 1)
        return cls(
            variants=_uris(query.get("variants", "")),
            renditions=_uris(query.get("renditions", "")),
            pathways=_words(query.get("pathways", ""), MAX_PATHWAYS),
            session=session[0] if session else "",
            current=used[-1] if used else "",
            throughput=_rate(query.get(f"_{dialect}_throughput", "")),
        )


def _uris(text: str) -> tuple[str, ...]:
    uris = tuple(filter(None, text.split(",", MAX_URIS)))
    if len(uris) > MAX_URIS or not all(map(_is_uri, uris)):
        raise FormatError("variants, renditions: not lists of relative playlists")
    return uris


def _is_uri(text: str) -> bool:
    return len(text) <= MAX_WORD and _URI.fullmatch(text) is not None and ".." not in text


def _words(text: str, most: int) -> tuple[str, ...]:
    words = tuple(filter(None, text.split(",", most)))
    if len(words) > most or not all(
        len(word) <= MAX_WORD and _WORD.fullmatch(word) for word in words
    ):
        raise FormatError("a list of pathways or a session is not one")
    return words


def _rate(text: str) -> float:
    """Return bits a second; a DASH player says one for each pathway, the last counts."""
    last = text.replace('"', "").rpartition(",")[2].strip()
    try:
        rate = float(last or 0)
    except ValueError:
        raise FormatError("a throughput is not a number") from None
    if not 0 <= rate <= MAX_THROUGHPUT:  # also refuses what is not a number
        raise FormatError("a throughput is out of range")
    return rate
