"""What a node answers to joins and pulls: decided from the pages alone."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from common.errors import PageGone
from common.media.codec import Kind
from common.media.track import INDEX_TRACK
from common.track.catalog import Catalog
from common.track.store import StreamReader, TrackReader
from common.wire.control import Gone, Position, Pull, Records
from common.wire.media import MAX_ROWS, Item

INDEX_ROWS = 1024
"""Newest index rows that come with the live GOP; older ones are backfilled."""


Reach = Mapping[int, tuple[int, int]]
"""Track -> how far back it will be held, and its next record, of what is still being fetched."""


def positions(
    reader: StreamReader, catalog: Catalog, reach: Reach = MappingProxyType({})
) -> dict[int, Position]:
    """Return what is held of every track, the index first.

    The live GOP starts at the newest keyframe of the video track whose newest keyframe is oldest;
    on the other tracks with the first record of the segment which that one lies in.
    """
    numbers = [INDEX_TRACK, *(track.id for track in catalog.tracks)]
    video = [track.id for track in catalog.tracks if track.codec.kind is Kind.VIDEO]
    found = {}
    for _ in range(3):
        try:
            keys = {number: _newest_key(reader.track(number)) for number in video}
            segment = _live_segment(reader, numbers[1:], keys)
            for number in numbers:
                track = reader.track(number)
                place = _position(track, keys.get(number), segment)
                found[number] = _extended(place, *reach.get(number, (place.oldest, 0)))
            return found
        except PageGone:
            continue  # a page left the window while we looked; the next look does without it
    return {number: _bare(reader.track(number)) for number in numbers}


def _newest_key(track: TrackReader) -> int | None:
    return track.keyframe_at_or_before(track.head - 1) if track.head else None


def _live_segment(
    reader: StreamReader, numbers: list[int], keys: dict[int, int | None]
) -> int | None:
    """Return the segment in which the live GOP starts."""
    segments = [reader.track(n).record(key).segment for n, key in keys.items() if key is not None]
    if segments:
        return min(segments)
    heads = [(number, reader.track(number).head) for number in numbers]
    newest = [reader.track(number).record(head - 1).segment for number, head in heads if head]
    return max(newest, default=None)


def _position(track: TrackReader, key: int | None, segment: int | None) -> Position:
    bare = _bare(track)
    if track.number == INDEX_TRACK:
        gop = max(bare.oldest, bare.head - INDEX_ROWS)
        return Position(bare.oldest, gop, bare.head)
    if key is None and segment is not None:
        key = track.first_of_segment(segment)
    return bare if key is None else Position(min(bare.oldest, key), key, max(bare.head, key))


def _extended(place: Position, oldest: int, head: int) -> Position:
    """Return a position with what will be held, too; of an empty track that is all there is."""
    if not place.head and head:
        return Position(min(oldest, head), head, head)
    return replace(place, oldest=min(place.oldest, oldest))


def _bare(track: TrackReader) -> Position:
    """Return a position whose live GOP is empty."""
    head = track.head
    return Position(min(track.contiguous_from, head), head, head)


def answer_pull(reader: StreamReader, pull: Pull, term: int) -> Records | Gone | None:
    """Return the answer to a pull; ``None`` if the records are not there yet.

    Records come as one contiguous run of at most ``max_bytes``, but at least one.
    """
    track = reader.track(pull.track)
    head = track.head
    first, stop = pull.first, min(pull.stop, head)
    if first >= stop:
        return None
    runs = [(max(a, first), min(b, stop)) for a, b in track.runs() if a < stop and b > first]
    if pull.newest_first:
        run = runs[-1] if runs and runs[-1][1] == stop else None
        beyond = stop
    else:
        run = runs[0] if runs and runs[0][0] == first else None
        beyond = runs[0][0] if runs else stop
    if run is None:
        return Gone(pull.id, pull.stream, pull.epoch, pull.track, beyond)
    try:
        items = _read(track, run, pull)
    except PageGone:
        oldest = max(track.oldest, first + 1)
        return Gone(pull.id, pull.stream, pull.epoch, pull.track, oldest)
    return Records(pull.id, pull.stream, pull.epoch, term, items)


def _read(track: TrackReader, run: tuple[int, int], pull: Pull) -> list[Item]:
    first, stop = run
    if pull.newest_first:
        first = max(first, stop - MAX_ROWS)
    else:
        stop = min(stop, first + MAX_ROWS)
    records = track.records(first, stop)
    total = count = 0
    for record in reversed(records) if pull.newest_first else records:
        total += record.size
        if count and total > pull.max_bytes:
            break
        count += 1
    start = len(records) - count if pull.newest_first else 0
    chosen = records[start : start + count]
    payloads = track.payloads(chosen[0].seq, chosen[-1].seq + 1)
    return [Item(pull.track, *pair) for pair in zip(chosen, payloads, strict=True)]
