"""Which stream a viewer's path asks for (the URLs of an edge, docs/reference)."""

import re

from common.names import check_name

_SUFFIXES = "mp4|webm|mkv|flv|ts|aac|mp3|ogg|json|html|vtt|srt|jpg"
_SHAPES = [
    re.compile(r"/(?:hls|cmaf|webrtc)/([^/]+)(?:/.*)?"),
    re.compile(r"/json_([^/]+)\.js"),
    re.compile(rf"/([^/]+)\.(?:{_SUFFIXES})"),
]
_TOKEN = re.compile(r"/~[^/]+(?=/)")
_PROTOCOLS = re.compile(r"/(hls|cmaf|webrtc)/|\.([a-z0-9]+)$")


def protocol_of(path: str) -> str:
    """Return a word for the protocol of ``path``, one of few, for metrics."""
    match = _PROTOCOLS.search(path)
    word = (match[1] or match[2]) if match else ""
    return word if word in ("hls", "cmaf", "webrtc", "js", *_SUFFIXES.split("|")) else "other"


_PLAYABLE = {
    "hls": "/cmaf/{}/index.m3u8",
    "cmaf": "/cmaf/{}/index.m3u8",
    "dash": "/cmaf/{}/index.mpd",
    "smooth": "/cmaf/{}/Manifest",
    "httpts": "/{}.ts",
    "ebml": "/{}.webm",
    "webrtc": "/webrtc/{}",
    "subrip": "/{}.srt",
    "info": "/json_{}.js",
}
"""Where an edge has what MistServer's outputs are called; other words are file suffixes."""


def playable(stream: str, output: str) -> str:
    """Return the path of a stream in an output by MistServer's name, or one's suffix.

    Nothing if there is no such output. HLS is the one in CMAF.
    """
    word = output.lower()
    if word in _PLAYABLE:
        return _PLAYABLE[word].format(stream)
    return f"/{stream}.{word}" if word in _SUFFIXES.split("|") else ""


def stream_of(path: str) -> str | None:
    """Return the stream that ``path`` (decoded, without query) asks for, or None.

    None means that the path names no stream: a script such as ``/player.js``, which any edge has.

    Raises:
        FormatError: If the path asks for a stream by a name that no stream can have.
    """
    path = _TOKEN.sub("", path, count=1)
    for shape in _SHAPES:
        match = shape.fullmatch(path)
        if match:
            return check_name(match[1])
    return None
