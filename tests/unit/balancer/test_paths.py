import pytest

from balancer.paths import protocol_of, stream_of
from common.errors import FormatError


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/cmaf/live/index.m3u8", "live"),
        ("/cmaf/live+alice/1/170.1/p12.m4s", "live+alice"),
        ("/hls/live/index.m3u8", "live"),
        ("/webrtc/live", "live"),
        ("/live.mp4", "live"),
        ("/live.v2.flv", "live.v2"),
        ("/json_live.js", "live"),
        ("/~token/cmaf/live/index.m3u8", "live"),
        ("/player.js", None),
        ("/", None),
    ],
)
def test_a_viewer_path_names_its_stream(path: str, stream: str | None) -> None:
    assert stream_of(path) == stream


@pytest.mark.parametrize("path", ["/cmaf/../index.m3u8", "/LIVE.mp4", "/cmaf/a\0b/index.m3u8"])
def test_a_name_no_stream_can_have_is_refused(path: str) -> None:
    with pytest.raises(FormatError):
        stream_of(path)


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("/cmaf/live/1.m3u8", "cmaf"),
        ("/live.flv", "flv"),
        ("/player.js", "js"),
        ("/a.exe", "other"),
    ],
)
def test_a_path_has_one_of_few_protocols(path: str, protocol: str) -> None:
    assert protocol_of(path) == protocol
