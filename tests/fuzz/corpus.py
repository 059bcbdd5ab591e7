"""Write the seeds of the fuzzer from what real programs send: ``python -m tests.fuzz.corpus``.

FFmpeg writes FLV and fragmented MP4 and publishes over RTMP to a server that keeps every byte;
messages of the bus are our own.
"""

import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.formats import amf
from common.formats.flv import FlvDemuxer
from common.formats.rtmp import ServerConnection
from common.formats.rtmp_session import State
from common.track.index import Closed, Opened, encode_row
from common.wire.control import (
    Absent,
    Control,
    Hello,
    Join,
    Joined,
    Pong,
    Position,
    Pull,
    encode_control,
)
from common.wire.gossip import Gossip, encode_gossip
from common.wire.messages import encode_catalog, encode_heartbeat, encode_node
from tests.fuzz.targets import CORPORA, MAX_BYTES
from tests.harness.bus import catalog
from tests.property.test_media import PARSERS

HANDSHAKE = 1 + 2 * 1536
PICTURE = "-f lavfi -i testsrc2=s=64x48:r=25"
SOUND = "-f lavfi -i sine=r=48000"
SOURCE = f"{PICTURE} {SOUND} -t 0.4 -b:v 60k -b:a 16k".split()
FLV = {
    "h264_aac": "-c:v libx264 -preset ultrafast -bf 2 -c:a aac",
    "h264_mp3": "-c:v libx264 -preset ultrafast -c:a libmp3lame",
}
MP4 = FLV | {
    "hevc_opus": "-c:v libx265 -preset ultrafast -x265-params log-level=none -c:a libopus",
}
FRAGMENTED = "-movflags empty_moov+default_base_moof+frag_keyframe"


def ffmpeg(*arguments: str) -> None:
    """Run FFmpeg on the test picture."""
    subprocess.run(["ffmpeg", "-v", "error", "-y", *SOURCE, *arguments], check=True)


def published(codec: str) -> bytes:
    """Return what FFmpeg sends when it publishes, behind the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"rtmp://127.0.0.1:{listener.getsockname()[1]}/live/KEY"
        command = ["ffmpeg", "-v", "error", *SOURCE, *codec.split(), "-f", "flv", target]
        process = subprocess.Popen(command)
        peer, _ = listener.accept()
        server, sent = ServerConnection(), b""
        with peer:
            while data := peer.recv(65536):
                sent += data
                server.feed(data)
                if server.state is State.PUBLISH_ASKED:
                    server.accept()
                peer.sendall(b"".join(server.data_to_send()))
                if server.state is State.CLOSED:
                    break
        process.wait()
    return sent[HANDSHAKE:]


def message(parts: Sequence[bytes]) -> bytes:
    """Return a message of the bus as the target takes it."""
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def keep(target: str, name: str, data: bytes) -> None:
    """Write one seed."""
    folder = CORPORA / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data[:MAX_BYTES])


def ours() -> None:
    """Write the seeds that no foreign program makes."""
    known = catalog()
    controls: list[Control] = [
        Hello("e1", "1"),
        Join(1, "live"),
        Absent(1, "live"),
        Pull(2, "live", 1000, 1, 5, 9, newest_first=True),
        Pong(7),
        Joined(1, "live", known, {1: Position(0, 5, 9)}),
    ]
    said = [
        encode_catalog(known),
        encode_heartbeat(known, {1: 5}, {1: 2}),
        encode_node("o1", 1_000_000),
        *map(encode_control, controls),
        encode_gossip(Gossip("e1", 1, 2, 3, 4.0, 5, 0.5, 0.5, streams=("live",))),
    ]
    for number, parts in enumerate(said):
        keep("bus", f"message{number}", message(parts))
    opened = Opened(3, 1_000_000, 2_000_000, 0, False)
    keep("bus", "opened", encode_row(opened))
    keep("bus", "closed", encode_row(Closed(opened, 1_000_000, ())))
    keep("bus", "catalog", known.encode())
    for number, text in enumerate(
        ("cmaf/live+a/1/7.1/s3.m4s", "~tok/live.mp4", "json_live.js", "bytes=1-5", "bytes=-7")
    ):
        keep("http", f"text{number}", text.encode())
    for name, (_, good) in PARSERS.items():
        keep("setup", name.replace(" ", "_"), b"\0" + good)
    keep("amf0", "connect", amf.encode("connect", 1.0, {"app": "live", "capsEx": 7.0}))


def theirs() -> None:
    """Write the seeds that FFmpeg makes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "made")
        for name, codec in FLV.items():
            ffmpeg(*codec.split(), "-f", "flv", str(path))
            data = path.read_bytes()
            keep("flv", name, b"\7" + data)
            for number, tag in enumerate(FlvDemuxer().feed(data)[:6]):
                keep("flv_bodies" if number else "amf0", f"{name}{number}", tag.body)
            sent = b"\7" + published(codec)
            keep("rtmp_server", name, sent)
            keep("rtmp_chunks", name, sent)
        for name, codec in MP4.items():
            ffmpeg(*codec.split(), *FRAGMENTED.split(), "-f", "mp4", str(path))
            keep("mp4", name, path.read_bytes())
    server = ServerConnection()
    keep("rtmp_client", "greeting", b"\7" + b"".join(server.data_to_send()))


if __name__ == "__main__":
    ours()
    theirs()
