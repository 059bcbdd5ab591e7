"""Where the file is and how to play it: the ``file:///path?loop=0`` source of a stream."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from common.errors import ConfigError

_SWITCH = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}

MAX_HEAD = 4096
"""Bytes of a file that tell its format. Those after them are not looked at."""

_TS_PACKET = 188

FORMATS = {
    "mov": "MP4 or QuickTime",
    "matroska": "Matroska or WebM",
    "flv": "FLV",
    "mpegts": "MPEG-TS",
    "mp3": "MP3",
    "aac": "ADTS AAC",
    "ogg": "Ogg",
}
"""FFmpeg's names of the formats that are read, and ours."""

_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file to play."""

    path: str
    loop: bool = True
    """Start again at the end, without a break in the timestamps."""


def parse_source(source: str) -> FileSource:
    """Read a stream's ``source``: ``file:///absolute/path?loop=0`` or a plain path.

    Raises:
        ConfigError: If it is of another form or has an unknown option.
    """
    if not source.startswith("file:"):
        if "://" in source or not source:
            raise ConfigError("source", f"{source!r} is neither a path nor a file:// URL")
        return FileSource(source)
    parts = urlsplit(source)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError("source", f"{source!r}: a file URL is file:///absolute/path")
    loop = True
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name != "loop" or text not in _SWITCH:
            raise ConfigError("source", f"{source!r}: the only option is loop=0 or loop=1")
        loop = _SWITCH[text]
    return FileSource(unquote(parts.path), loop)


def detect_format(head: bytes, name: str) -> str | None:
    """Return FFmpeg's name for the format of a file that begins with ``head``.

    The content decides; the extension in ``name`` only between MP3 and ADTS, which may both begin
    with the same kind of tag. None: a format that is not read.
    """
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"FLV\x01"):
        return "flv"
    if head.startswith(b"OggS"):
        return "ogg"
    if len(head) > _TS_PACKET and head[0] == head[_TS_PACKET] == 0x47:
        return "mpegts"
    if head.startswith(b"ID3"):
        return "aac" if name.lower().endswith(".aac") else "mp3"
    if len(head) > 1 and head[0] == 0xFF:
        if head[1] & 0xF6 == 0xF0:
            return "aac"
        if head[1] & 0xE6 in (0xE2, 0xE4, 0xE6):
            return "mp3"
    return None
