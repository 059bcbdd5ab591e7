"""Other ways to the same media in a multivariant playlist: redundant variants and steering.

Promise 1 holds for everything below it: media playlists and objects are the same bytes on every
edge, so that a player can go on at any of them. Each edge is a pathway (RFC 8216bis 7); the
variants of two siblings are listed as well, for players that know redundant variants but no
steering, and for those that lose edge and balancer at once.
"""

from dataclasses import replace

from common.formats.m3u8 import MultivariantPlaylist, Rendition, Steering, Variant
from common.wire.steering import pathway_of, server_uri
from edge.around import Around, Peer

SIBLINGS = 2
"""Other edges whose variants a playlist lists."""


def redundant(
    playlist: MultivariantPlaylist, around: Around, path: str, turn: int
) -> MultivariantPlaylist:
    """Return a playlist with the same variants on other edges, and where to ask about them.

    ``path`` is where the playlist is found on every edge. ``turn`` is a number that rises with the
    stream: the siblings take turns, so that those who leave a dead edge do not all go to one.
    """
    siblings = _siblings(around, turn)
    if not siblings and not around.balancer:
        return playlist
    own = pathway_of(around.node)
    variants = [replace(one, stable_id=one.uri, pathway=own) for one in playlist.variants]
    renditions = [replace(one, stable_id=one.uri) for one in playlist.renditions]
    folder = path.rpartition("/")[0]
    for peer in siblings:
        base, pathway = f"{peer.url}{folder}/", pathway_of(peer.name)
        variants += [_variant(one, base, pathway) for one in playlist.variants]
        renditions += [_rendition(one, base, pathway) for one in playlist.renditions]
    steering = None
    if around.balancer:
        pathways = [own, *(pathway_of(peer.name) for peer in siblings)]
        uri = server_uri(
            around.balancer,
            path,
            list(dict.fromkeys(one.uri for one in playlist.variants)),
            list(dict.fromkeys(one.uri for one in playlist.renditions)),
            pathways,
        )
        steering = Steering(uri, own)
    return replace(
        playlist, variants=tuple(variants), renditions=tuple(renditions), steering=steering
    )


def _siblings(around: Around, turn: int) -> list[Peer]:
    peers = around.peers
    count = min(SIBLINGS, len(peers))
    return [peers[(turn + step) % len(peers)] for step in range(count)]


def _group(group: str, pathway: str) -> str:
    return f"{group}-{pathway}" if group else ""


def _variant(one: Variant, base: str, pathway: str) -> Variant:
    return replace(
        one,
        uri=base + one.uri,
        audio=_group(one.audio, pathway),
        stable_id=one.uri,
        pathway=pathway,
    )


def _rendition(one: Rendition, base: str, pathway: str) -> Rendition:
    return replace(one, uri=base + one.uri, group=_group(one.group, pathway), stable_id=one.uri)
