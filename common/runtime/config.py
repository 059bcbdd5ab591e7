"""The settings that every role has: the node, its logs, and the streams."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from common.errors import ConfigError
from common.names import base_name
from common.runtime.consul_settings import ConsulSettings, credential
from common.runtime.loader import SECTIONS, Settings, build, dump, load, overrides, suggestion
from common.runtime.units import Duration, Size

__all__ = [
    "SECTIONS",
    "ConfigError",
    "Duration",
    "LogSettings",
    "NodeSettings",
    "Settings",
    "Size",
    "StreamSettings",
    "build",
    "dump",
    "load",
    "overrides",
    "suggestion",
]


class NodeSettings(Settings, frozen=True):
    """``[node]``: who this node is and where it keeps its files."""

    name: str = "node"
    """Name of the node in the cluster; the role (``origin``, ``edge``, ``balancer``) if not set."""

    datacenter: str = ""
    """Where the node is. Nodes of one datacenter are near to each other: an edge takes a stream
    from a relay of its own, and viewers stay in theirs. Default: with Consul its datacenter."""

    tags: list[str] = msgspec.field(default_factory=list)
    """Words that balancers may prefer or avoid."""

    address: str = ""
    """Host or address at which other nodes reach this one, where its sockets do not listen on
    loopback. Without it that is the address a socket listens on, or, for ``[::]`` and ``0.0.0.0``,
    the one that this machine has towards its default route."""

    latitude: float | None = None
    """Degrees north; together with ``longitude``, viewers are sent to what is near to them."""

    longitude: float | None = None
    """Degrees east."""

    run: str = ""
    """Folder for sockets and the like, gone after a reboot. Nodes of a machine may share it.
    Default: ``$RUNTIME_DIRECTORY``, ``/run/headwater`` as root, else one of the user's."""

    pages: str = ""
    """Folder of the track pages, of this node alone; best on tmpfs. Default:
    ``/dev/shm/headwater-NAME``."""

    pages_max: Size = Size(2 * 2**30)
    """Bytes that the page folder may take. With more, the biggest stream loses its oldest pages."""

    registry: str = ""
    """Folder of the embedded registry, shared by all nodes of the machine. Default:
    ``$STATE_DIRECTORY``, ``/var/lib/headwater`` as root, else one of the user's, and ``registry``
    in it."""

    keys: str = ""
    """File with the secret key of this node; it is made when the node starts for the first time.
    Default: the credential ``node.key`` if systemd has passed one, else ``$STATE_DIRECTORY``,
    ``/var/lib/headwater`` as root, else one of the user's, and ``keys/NAME.key`` in it."""

    bus_security: Literal["auto", "curve", "none"] = "auto"
    """Whether bus, control and gossip are encrypted (CURVE) and open to registered nodes alone.
    ``auto``: unless all of them listen on loopback. ``curve``: always. ``none``: never; then
    everybody who reaches their ports can take every stream, so keep them on a network of their
    own."""

    watch: bool = False
    """Reload whenever the configuration file has changed; else on request, ``headwater reload``."""

    consul: ConsulSettings = msgspec.field(default_factory=ConsulSettings)
    """The Consul that keeps the registry of several machines."""

    def __post_init__(self) -> None:
        """Fill the folders that were not set."""
        defaults = {
            "keys": credential("node.key") or str(state_folder() / "keys" / f"{self.name}.key"),
            "run": str(_run_folder()),
            "pages": f"/dev/shm/headwater-{self.name}",
            "registry": str(state_folder() / "registry"),
        }
        for field, value in defaults.items():
            if not getattr(self, field):
                msgspec.structs.force_setattr(self, field, value)


class LogSettings(Settings, frozen=True):
    """``[log]``: what is said on standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important events to show."""

    style: Literal["auto", "text", "json", "journal"] = "auto"
    """A line of words, a JSON object a line, or fields for journald. ``auto``: words on a terminal,
    fields under systemd, else JSON."""

    access: str = ""
    """File to which an edge appends one JSON line for each viewer's visit that has ended; none if
    not set. ``docs/reference/logs.md`` has the format."""


class StreamSettings(Settings, frozen=True):
    """``[streams.NAME]``: one stream, or with it all of ``NAME+anything``."""

    key: str = ""
    """What a publisher has to know. Without one, and without ``open`` or ``source``, nobody can
    publish."""

    open: bool = False
    """Let anybody publish who knows the name."""

    source: str = ""
    """Where the origin itself takes the stream from: ``videogen://`` or the path of a file."""

    nodes: list[str] = msgspec.field(default_factory=list)
    """Which nodes may have the stream: names, also with ``*``, ``tag:WORD``, ``datacenter:NAME``.
    All of them if empty. Name relays and other origins of the stream, too."""

    on_conflict: Literal["refuse", "replace"] = "refuse"
    """What a second publisher with the right key gets while the first one is sending."""

    takeover: Duration = Duration(1)
    """A publisher silent for longer than this is replaced by the next one with the right key."""

    reconnect: Duration = Duration(30)
    """How long a stream waits for a publisher that broke off. Then it ends."""

    window: Duration = Duration(60)
    """How far back viewers can seek."""

    bytes_max: Size = Size(512 * 2**20)
    """Bytes of pages that the stream may take on this node, an origin or an edge. Beyond them its
    oldest pages go."""

    segment: Duration = Duration(2)
    """Least duration of a segment; it ends with the next keyframe after that."""

    segment_max: Duration = Duration(6)
    """Greatest duration of a segment. A longer GOP is cut where there is no keyframe."""

    paths: int = 0
    """Upstreams that a node takes the stream from at the same time; 0: as the node's own settings
    say. With 2, the failure of one is not seen."""

    part: Duration = Duration(0.2)
    """Duration of the parts of low-latency HLS."""


def stream_settings(streams: Mapping[str, StreamSettings], name: str) -> StreamSettings | None:
    """Return the settings of a stream: its own, or those of its wildcard base."""
    return streams.get(name) or streams.get(base_name(name))


def _run_folder() -> Path:
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/run/headwater")
    user = os.environ.get("XDG_RUNTIME_DIR")
    return Path(user, "headwater") if user else Path(f"/tmp/headwater-{os.geteuid()}")


def state_folder() -> Path:
    """Return where what has to outlive a reboot is kept, if no setting says so."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/headwater")
    user = os.environ.get("XDG_STATE_HOME")
    return Path(user) / "headwater" if user else Path.home() / ".local/state/headwater"
