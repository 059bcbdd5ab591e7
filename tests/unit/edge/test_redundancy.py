"""The same variants on other edges, and whom to ask about them."""

from common.formats.m3u8 import MultivariantPlaylist, Rendition, Variant, write_multivariant
from edge.around import Around, Peer
from edge.redundancy import redundant

PLAYLIST = MultivariantPlaylist(
    (Variant("1.m3u8", 900, 800, "avc1.4D400C,mp4a.40.2", audio="audio-aac"),),
    (Rendition("audio-aac", "und", "2.m3u8"),),
)
PEERS = tuple(Peer(f"e{n}", f"http://e{n}:80") for n in (1, 2, 3))
PATH = "/cmaf/live/index.m3u8"


def test_an_edge_alone_writes_what_it_always_wrote() -> None:
    assert redundant(PLAYLIST, Around("e0"), PATH, 7) is PLAYLIST


def test_variants_of_two_siblings_follow_and_steering_names_all_three() -> None:
    found = redundant(PLAYLIST, Around("e 0", "http://b", PEERS), PATH, 3)
    lines = write_multivariant(found).splitlines()
    assert lines[2] == (
        '#EXT-X-CONTENT-STEERING:SERVER-URI="http://b/steering/hls/cmaf/live/index.m3u8'
        '?variants=1.m3u8&renditions=2.m3u8&pathways=e_0,e1,e2",PATHWAY-ID="e_0"'
    )
    uris = [line for line in lines if not line.startswith("#")]
    assert uris == ["1.m3u8", "http://e1:80/cmaf/live/1.m3u8", "http://e2:80/cmaf/live/1.m3u8"]
    own, first, second = (line for line in lines if line.startswith("#EXT-X-STREAM-INF"))
    assert 'AUDIO="audio-aac",STABLE-VARIANT-ID="1.m3u8",PATHWAY-ID="e_0"' in own
    assert 'AUDIO="audio-aac-e1",STABLE-VARIANT-ID="1.m3u8",PATHWAY-ID="e1"' in first
    assert 'PATHWAY-ID="e2"' in second
    media = [line for line in lines if line.startswith("#EXT-X-MEDIA")]
    assert 'GROUP-ID="audio-aac"' in media[0]
    assert 'STABLE-RENDITION-ID="2.m3u8",URI="2.m3u8"' in media[0]
    assert 'GROUP-ID="audio-aac-e2"' in media[2]
    assert 'URI="http://e2:80/cmaf/live/2.m3u8"' in media[2]


def test_siblings_take_turns() -> None:
    around = Around("e0", "", PEERS)
    named = [
        [one.pathway for one in redundant(PLAYLIST, around, PATH, turn).variants[1:]]
        for turn in range(3)
    ]
    assert named == [["e1", "e2"], ["e2", "e3"], ["e3", "e1"]]
    assert redundant(PLAYLIST, around, PATH, 0).steering is None


def test_one_sibling_is_named_once() -> None:
    found = redundant(PLAYLIST, Around("e0", "", PEERS[:1]), PATH, 5)
    assert [one.pathway for one in found.variants] == ["e0", "e1"]
