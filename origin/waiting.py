"""The room where frames wait until it is clear which track opens the first segment."""

from collections.abc import Mapping

from origin.lane import SECOND_US, Lane, Sample

START_WAIT_US = 1 * SECOND_US
"""How much audio to see before it is taken that there is no video."""

NO_VIDEO_US = 10 * SECOND_US
"""How long audio waits for the keyframe of a video track that was announced."""

MAX_WAITING = 4096
"""Frames that wait until it is known whether there is video. The oldest is dropped, and counted."""


class WaitingRoom:
    """Frames of a stream in which no segment is open."""

    def __init__(self, lanes: Mapping[int, Lane]) -> None:
        self.samples: list[Sample] = []
        self._lanes = lanes

    def add(self, sample: Sample) -> int:
        """Keep a frame; return how many had to go for it."""
        self.samples.append(sample)
        if len(self.samples) <= MAX_WAITING:
            return 0
        del self.samples[0]
        return 1

    def of(self, lane: Lane) -> list[Sample]:
        """Return the frames of one track."""
        return [sample for sample in self.samples if sample.track == lane.number]

    def leader(self, patient: bool = True, frames: int = 1) -> Lane | None:
        """Return the track that shall open a segment, None while that is not clear.

        It has at least ``frames`` frames here. Not ``patient``: there will be no more, choose.
        """
        present = {sample.track: self._lanes[sample.track] for sample in self.samples}
        if not present:
            return None
        lane = next((one for one in self._lanes.values() if one.video and one.live), None)
        announced = lane is not None
        if lane is None or (
            lane.number not in present and (not patient or self._span_us() > START_WAIT_US)
        ):
            lane = self._deputy(present, announced, patient)
        if lane is None or lane.number not in present:
            return None
        enough = not patient or lane.sparse or len(self.of(lane)) >= frames
        return lane if enough else None

    def _deputy(self, present: Mapping[int, Lane], announced: bool, patient: bool) -> Lane | None:
        """Return who leads where the first video track does not."""
        ranked = sorted(present.values(), key=lambda lane: (not lane.video, lane.sparse))
        wait = NO_VIDEO_US if announced else START_WAIT_US
        if ranked[0].video or not patient or self._span_us() > wait:
            return ranked[0]
        return None

    def _span_us(self) -> int:
        times = [self._lanes[sample.track].to_us(sample.dts) for sample in self.samples]
        return max(times) - min(times)
