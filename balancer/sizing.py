"""How much hardware an audience needs, and what audience a machine can serve.

Four resources are reckoned: CPU, memory, network and disk. Nothing is fitted: each term is a count
times a measured cost (``balancer/figures.py``). All units are SI: bits a second, bytes, seconds; a
gigabyte is 10**9.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from balancer.figures import IN_FLIGHT, Figures
from common.errors import ConfigError

Protocol = Literal["ll-hls", "hls", "mp4", "flv", "websocket"]

FIGURES = Figures()

PROTOCOLS: tuple[str, ...] = get_args(Protocol)
PUSHED = ("mp4", "flv", "websocket")
"""Sent over one connection, a write for each video frame; the others are fetched."""

TRACKS = 2
"""Picture and sound: a player of HLS asks for the playlist and the media of each."""

AUDIO_RECORDS = 47.0
"""Audio frames a second of AAC at 48 kHz; each is a record of the bus."""

PLAYLIST = 1_500 * 8
"""Bits of one answer with a playlist."""

MOST = 10**9
"""Largest count of anything; keeps foolish numbers from becoming long computations."""

DEFAULT_PROCESSES = 4
DEFAULT_SESSIONS = 10_000
DEFAULT_BANDWIDTH = 1e9
DEFAULT_STREAM_BYTES = 512 * 2**20
DEFAULT_PAGES = 2 * 2**30
"""What the settings say that :func:`advice` speaks of; a test compares them."""

RESERVED_FILES = 1024
USUAL_FILES = 1024
"""Descriptors that a process of most systems may have."""

HOURS_A_MONTH = 730.0
DAYS_A_MONTH = HOURS_A_MONTH / 24


@dataclass(frozen=True, slots=True)
class Group:
    """Streams of one bitrate and those who watch them, all together."""

    streams: int = 1
    bitrate: float = 4e6
    viewers: int = 1000


@dataclass(frozen=True, slots=True)
class Audience:
    """What is to be served."""

    groups: tuple[Group, ...] = (Group(),)
    protocol: Protocol = "ll-hls"
    tls: bool = True
    fps: float = 30.0
    part: float = 0.2
    segment: float = 2.0
    window: float = 60.0
    """Seconds that viewers can go back: as much lies in memory, at the origin and on every edge."""
    recording: float = 0.0
    """Seconds of every stream that are kept on disk."""

    @property
    def streams(self) -> int:
        """All streams."""
        return sum(group.streams for group in self.groups)

    @property
    def viewers(self) -> int:
        """All viewers."""
        return sum(group.viewers for group in self.groups)

    @property
    def incoming(self) -> float:
        """Bits a second of all streams."""
        return sum(group.streams * group.bitrate for group in self.groups)

    @property
    def outgoing(self) -> float:
        """Bits a second of media that all viewers take."""
        return sum(group.viewers * group.bitrate for group in self.groups)


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine has."""

    cores: float = 4.0
    memory: float = 8e9
    network: float = 1e9
    disk: float = 100e9
    share: float = 0.7
    """How much of CPU and network is to be used at most: the rest is for peaks and for those who
    come when another machine fails."""
    price: float = 0.0
    """Money an hour."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What is used of each resource: cores, bytes, bits a second each way, bytes on disk."""

    cpu: float = 0.0
    memory: float = 0.0
    sent: float = 0.0
    received: float = 0.0
    disk: float = 0.0

    def __add__(self, other: "Needs") -> "Needs":
        return Needs(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))

    def __mul__(self, times: float) -> "Needs":
        return Needs(*(value * times for value in _values(self)))


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one machine can serve."""

    viewers: int
    """As many as the scarcest resource allows."""
    limit: str
    """Which that is: ``cpu``, ``memory`` or ``network``."""
    by_resource: Mapping[str, int]
    """How many viewers each would allow if it were the only one."""
    recording: float
    """Seconds of all streams that fit on the disk."""


def viewers_need(audience: Audience, figures: Figures = FIGURES) -> Needs:
    """Return what all viewers take of the edges together."""
    bits = audience.outgoing
    count = audience.viewers
    pushed = audience.protocol in PUSHED
    tls = audience.tls
    per_second = requests_per_second(audience)
    answered = bits + count * per_second / 2 * PLAYLIST if not pushed else bits
    megabits = answered / 1e6
    if pushed:
        writes = count * audience.fps
        micros = writes * figures.write + megabits * figures.megabit
        micros += writes * figures.tls_write * tls
    else:
        requests = count * per_second
        micros = requests * figures.request + megabits * figures.megabit_answered
        micros += requests * figures.tls_request * tls
    micros += megabits * figures.tls_megabit * tls
    each = figures.viewer_push if pushed else figures.viewer_request
    memory = count * (each + figures.viewer_tls * tls) + bits / 8 * IN_FLIGHT
    return Needs(micros / 1e6, memory, answered * figures.framing, 0.0, 0.0)


def requests_per_second(audience: Audience) -> float:
    """Return how often one viewer asks: a playlist and an object for each track, each time."""
    if audience.protocol in PUSHED:
        return 0.0
    every = audience.part if audience.protocol == "ll-hls" else audience.segment
    return 2 * TRACKS / every


def edge_holds(audience: Audience, processes: int, figures: Figures = FIGURES) -> Needs:
    """Return what one edge takes to have all streams, before anybody watches.

    ``processes`` are its viewer processes: each packages for itself.
    """
    records = audience.streams * (audience.fps + AUDIO_RECORDS)
    packaged = audience.incoming / 1e6 * figures.megabit_packaged * processes
    cpu = (records * figures.record + packaged) / 1e6
    memory = figures.process * (2 + processes) + audience.incoming / 8 * audience.window
    return Needs(cpu, memory, 0.0, audience.incoming * figures.framing, 0.0)


def origin_needs(audience: Audience, edges: int, figures: Figures = FIGURES) -> Needs:
    """Return what one origin takes that receives all streams and sends them to so many edges.

    Audio rides with video on the bus, so an edge is sent a message for each video frame.
    """
    records = audience.streams * (audience.fps + AUDIO_RECORDS)
    sends = audience.streams * audience.fps * figures.write
    sends += audience.incoming / 1e6 * figures.megabit
    cpu = (records * figures.record + edges * sends) / 1e6
    memory = figures.process + audience.incoming / 8 * audience.window
    wire = audience.incoming * figures.framing
    disk = audience.incoming / 8 * audience.recording
    return Needs(cpu, memory, wire * edges, wire, disk)


def capacity(audience: Audience, machine: Machine, figures: Figures = FIGURES) -> Capacity:
    """Return how many viewers of this kind one edge serves that carries all streams."""
    count = audience.viewers or 1
    each = viewers_need(audience, figures) * (1 / count) if audience.viewers else Needs()
    held = edge_holds(audience, processes_of(machine), figures)
    free = {
        "cpu": (machine.cores * machine.share - held.cpu, each.cpu),
        "memory": (machine.memory * 0.9 - held.memory, each.memory),
        "network": (machine.network * machine.share, each.sent),
    }
    if held.received > machine.network * machine.share:
        free["network"] = (0.0, each.sent)
    found = {
        name: min(MOST, max(0, math.floor(have / takes))) if takes else MOST
        for name, (have, takes) in free.items()
    }
    limit = min(found, key=lambda name: found[name])
    per_second = audience.incoming / 8
    recording = machine.disk * 0.9 / per_second if per_second else math.inf
    return Capacity(found[limit], limit, found, recording)


def processes_of(machine: Machine) -> int:
    """Return how many viewer processes serve on such a machine."""
    return max(1, math.ceil(machine.cores))


@dataclass(frozen=True, slots=True)
class Overflow:
    """Own edges for the usual audience, rented ones for the peak."""

    own: int = 0
    """Edges that are there all the time."""
    rented: Machine = field(default_factory=Machine)
    """What is rented when they do not suffice; its price is per hour."""
    gigabyte: float = 0.0
    """Money for a gigabyte that a rented edge sends."""
    hours: float = 3.0
    """How long the peak lasts each day."""
    spare: int = 0
    """Own edges that may fail at the peak without anybody noticing."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What the peak needs, and what it costs."""

    own_serve: int
    rented: int
    rented_serve: int
    traffic_gigabytes: float
    """Sent by rented edges in an hour of the peak."""
    hour: float
    """Money an hour of the peak costs: own, rented, and traffic."""
    month: float
    own_instead: int
    """Own edges that would serve the peak alone."""
    month_instead: float
    breakeven_hours: float
    """Hours a day from which own edges are cheaper than rented ones; infinite if never."""


def overflow(audience: Audience, own: Machine, plan: Overflow, figures: Figures = FIGURES) -> Bill:
    """Return what has to be rented at the peak, and what an hour and a month cost.

    Raises:
        ConfigError: If a machine cannot serve a single viewer.
    """
    mine = capacity(audience, own, figures).viewers
    theirs = capacity(audience, plan.rented, figures).viewers
    if not theirs or not mine:
        raise ConfigError("machine", "it cannot even hold the streams: more memory or network")
    serve = min(audience.viewers, max(0, plan.own - plan.spare) * mine)
    left = audience.viewers - serve
    rented = math.ceil(left / theirs)
    bits = viewers_need(audience, figures).sent / max(1, audience.viewers)
    gigabytes = left * bits * 3600 / 8 / 1e9
    burst = rented * plan.rented.price + gigabytes * plan.gigabyte
    more = math.ceil(audience.viewers / mine) + plan.spare
    steady = plan.own * own.price
    extra = max(0, more - plan.own) * own.price * 24
    return Bill(
        own_serve=serve,
        rented=rented,
        rented_serve=left,
        traffic_gigabytes=gigabytes,
        hour=steady + burst,
        month=steady * HOURS_A_MONTH + burst * plan.hours * DAYS_A_MONTH,
        own_instead=more,
        month_instead=max(more, plan.own) * own.price * HOURS_A_MONTH,
        breakeven_hours=extra / burst if burst and extra else math.inf,
    )


def report(
    audience: Audience,
    machine: Machine,
    plan: Overflow | None = None,
    figures: Figures = FIGURES,
    calibrated: bool = False,
) -> dict[str, Any]:
    """Return everything as plain values, for the command, the API and the page.

    Raises:
        ConfigError: If a machine cannot serve a single viewer.
    """
    one = capacity(audience, machine, figures)
    edges = math.ceil(audience.viewers / one.viewers) if one.viewers else 0
    spread = edge_holds(audience, processes_of(machine), figures) * edges
    told: dict[str, Any] = {
        "asked": {**asdict(audience), "groups": [asdict(group) for group in audience.groups]},
        "machine": asdict(machine),
        "calibrated": calibrated,
        "edges": {
            "count": edges,
            "possible": one.viewers > 0,
            "needs": asdict(viewers_need(audience, figures) + spread),
            "limit": one.limit,
        },
        "origin": asdict(origin_needs(audience, edges, figures)),
        "capacity": {**asdict(one), "by_resource": dict(one.by_resource)},
        "storage": audience.incoming / 8 * audience.recording,
        "mistserver": mistserver(audience),
        "advice": advice(audience, machine, one),
    }
    if plan is not None and one.viewers:
        told["overflow"] = asdict(overflow(audience, machine, plan, figures))
    plain: dict[str, Any] = finite(told)
    return plain


def advice(audience: Audience, machine: Machine, found: Capacity) -> list[str]:
    """Return which defaults of the settings stand in the way, and what to set instead."""
    said = []
    most = max((group.bitrate for group in audience.groups), default=0.0) / 8 * audience.window
    pages = audience.incoming / 8 * audience.window
    if processes_of(machine) > DEFAULT_PROCESSES:
        said.append(f"edge.viewers = {processes_of(machine)}: by default {DEFAULT_PROCESSES} serve")
    if most > DEFAULT_STREAM_BYTES:
        said.append(f'streams.NAME.bytes_max = "{math.ceil(most / 1e6)}MB": the window is larger')
    if pages > DEFAULT_PAGES:
        need = f'"{math.ceil(pages / 1e9)}GB"'
        said.append(f"node.pages_max = {need}, and a tmpfs as large for node.pages")
    if found.viewers > DEFAULT_SESSIONS:
        said.append(f"edge.sessions = {found.viewers}: by default {DEFAULT_SESSIONS} are let in")
    if machine.network != DEFAULT_BANDWIDTH:
        said.append(f"edge.bandwidth = {machine.network:.3g}: balancers count with it")
    if found.viewers + RESERVED_FILES > USUAL_FILES and found.viewers:
        files = found.viewers + 2 * RESERVED_FILES
        said.append(f"LimitNOFILE={files} or ulimit -n: each viewer takes a descriptor")
    return said


def mistserver(audience: Audience) -> dict[str, float]:
    """Return what MistServer's calculator of 2018 says of the same audience.

    Its formulas, from "What hardware do I need to run MistServer?": CPU in points of PassMark,
    memory in MB, network in Mbit/s, disk in MB.
    """
    megabits = audience.incoming / 1e6
    return {
        "cpu_mark": 3.4 * (audience.viewers + audience.streams),
        "memory_mb": 12.5 * megabits + 2 * (audience.viewers + audience.streams),
        "network_mbit": (audience.incoming + audience.outgoing) / 1e6,
        "disk_mb": megabits * audience.recording / 8,
    }


def finite(tree: Any) -> Any:
    """Return plain values with None instead of infinity, which JSON does not know."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _values(needs: Needs) -> tuple[float, ...]:
    return (needs.cpu, needs.memory, needs.sent, needs.received, needs.disk)
