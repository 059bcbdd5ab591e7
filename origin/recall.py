"""What index rows and the newest records say of a segmenter that is no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.track.index import Closed, Opened, Row
from common.track.record import Record
from origin.lane import Lane

Tails = Mapping[int, Sequence[Record]]
"""Per track its records of segments without a closed row, or at least the last one."""


@dataclass(frozen=True, slots=True)
class Past:
    """The segments of which a new segmenter has to know."""

    open: list[Opened]
    """Those without a closed row, oldest first."""

    newest: Opened | None


def recall(lanes: Mapping[int, Lane], rows: Sequence[Row], tails: Tails) -> Past:
    """Bring the lanes to where their records end; return the open segments."""
    opened = {row.segment: row for row in rows if isinstance(row, Opened)}
    closed = {row.opened.segment: row.opened for row in rows if isinstance(row, Closed)}
    known = {**closed, **opened}
    newest = known[max(known)] if known else None
    for number, records in tails.items():
        lane = lanes[number]
        lane.resume(records)
        for segment in [one for one in lane.tallies if one in closed]:
            lane.forget(segment)
        place = known.get(lane.segment, newest)
        lane.discontinuity = place.discontinuity if place is not None else 0
    return Past([opened[number] for number in sorted(set(opened) - set(closed))], newest)
