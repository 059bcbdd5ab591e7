"""How long segments and parts are: the settings, and what players are promised once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from origin.lane import ROUNDED_US, SECOND_US, Lane, Sample

ROUNDING_US = 400_000
"""RFC 8216bis 4.4.3.1: durations are compared with the target after rounding."""

OVER_US = 100_000
"""How much a keyframe may come late for the greatest target duration."""

TRIFLE_US = 20_000
"""2.002 s of a GOP at 29.97 frames a second are 2 s."""

HOLD_US = 500_000
"""How far a rendition may run ahead of its leader at a cut before it goes on alone."""

LATE_US = 1 * SECOND_US
"""A segment closes when its leader is so far past its end, even if a track has not left it."""

STALL_US = 3 * SECOND_US
"""The same for any other track, for a leader may stand still."""

GAP_US = 1 * SECOND_US
"""A hole of the leader that is longer and would overfill its segment is a break."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where to cut, in microseconds."""

    segment_us: int = 2 * SECOND_US
    """Least duration of a segment."""

    segment_max_us: int = 6 * SECOND_US
    """Greatest duration of a segment."""

    part_us: int = 200_000
    """Wanted duration of a part."""


@dataclass(frozen=True, slots=True)
class Promises:
    """What players are told once; stands in the catalog."""

    target_duration: int = 0
    """Seconds; 0 until the first GOP has been seen."""

    part_target_us: int = 0
    independent: bool = True


def part_target(cuts: Cuts, leader: Lane, samples: Sequence[Sample]) -> int:
    """Return the microseconds that no part exceeds, from the leader's first frames."""
    nominal = samples[0].duration
    if len(samples) > 1:
        seen = samples[1].dts - samples[0].dts
        nominal = samples[1].duration
        if abs(seen - nominal) * SECOND_US > ROUNDED_US * leader.timescale:
            nominal = seen  # what the parameter sets say is not what is sent
    frame_us = max(1, leader.to_us(nominal))
    count = max(1, (2 * cuts.part_us + frame_us) // (2 * frame_us))
    # A tenth more than the frames take, for jitter; rounded up to milliseconds.
    return -(-11 * count * nominal * 1000 // (10 * leader.timescale)) * 1000


def target_duration(cuts: Cuts, gop_us: int, longest_us: int = 0) -> int:
    """Return the seconds that no segment exceeds, from the duration of the first GOP.

    ``longest_us`` is what some track has in its first segment already.
    """
    gops = max(1, -(-(cuts.segment_us - TRIFLE_US) // gop_us))
    most_us = cuts.segment_max_us
    spans = (gops * gop_us, (gops - 1) * gop_us)
    span_us = next((span for span in spans if 0 < span <= most_us + OVER_US), most_us)
    least_us = (span_us - TRIFLE_US, cuts.segment_us, longest_us - ROUNDING_US)
    seconds = max(map(_ceil, least_us))
    return max(1, min(seconds, most_us // SECOND_US))


def limit_us(cuts: Cuts, promises: Promises) -> int:
    """Return the microseconds after which a segment is cut even without a keyframe."""
    target_us = promises.target_duration * SECOND_US
    if not target_us or target_us + ROUNDING_US > cuts.segment_max_us:
        return max(cuts.segment_max_us, target_us) + OVER_US
    return target_us + ROUNDING_US


def most_us(promises: Promises) -> int:
    """Return the microseconds that no segment exceeds on any track: rounded, it is the target."""
    return promises.target_duration * SECOND_US + SECOND_US // 2 - 1


def _ceil(duration_us: int) -> int:
    return -(-duration_us // SECOND_US)


class Promising:
    """Whoever makes the promises of a stream."""

    def __init__(self, cuts: Cuts, promises: Promises, lanes: Mapping[int, Lane]) -> None:
        self.promises = promises
        """Replaced before the first record that relies on a change is emitted."""
        self._cuts = cuts
        self._tracks = lanes

    @property
    def _limit_us(self) -> int:
        return limit_us(self._cuts, self.promises)

    def _promise_target(self, gop_us: int) -> None:
        shares_us = [lane.share_us for lane in self._tracks.values() if not lane.sparse]
        self._promise(
            target_duration=target_duration(self._cuts, gop_us, max(shares_us, default=0))
        )

    def _promise_any(self) -> None:
        """Allow for any GOP, for no first one was whole when the first segment had to end."""
        if not self.promises.target_duration:
            self._promise_target(self._cuts.segment_max_us)

    def _promise(self, **changes: int | bool) -> None:
        """Change the promises; the object stays the same if nothing changes."""
        promises = replace(self.promises, **changes)  # type: ignore[arg-type]
        if promises != self.promises:
            self.promises = promises
