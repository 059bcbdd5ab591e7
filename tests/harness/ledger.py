"""The frame ledger: what was pushed against what a foreign demuxer reads from a viewer's bytes."""

from collections.abc import Sequence

from tests.harness.media import Packet


def difference(pushed: Sequence[Packet], got: Sequence[Packet], *, tick: float = 0.0012) -> str:
    """Return what is wrong with ``got``, empty if every frame from its first on is there once.

    ``got`` must be a tail of ``pushed``: same payloads, same order, none left out, none twice,
    and the same distances between presentation times within one tick of the transport.
    """
    if not got:
        return "nothing arrived"
    if len(got) > len(pushed):
        return f"{len(got)} frames arrived of {len(pushed)} pushed"
    lost = {one.payload for one in pushed} - {one.payload for one in got}
    places = [number for number, one in enumerate(pushed) if one.payload in lost]
    inside = [place for number, place in enumerate(places) if place != number]
    if inside:
        return f"frames {inside[:10]} of {len(pushed)} are missing, {len(inside)} after the first"
    expected = pushed[len(pushed) - len(got) :]
    for number, (want, have) in enumerate(zip(expected, got, strict=True)):
        if want.payload != have.payload:
            known = [one.payload for one in pushed]
            where = known.index(have.payload) if have.payload in known else "nowhere"
            position = len(pushed) - len(got) + number
            return f"frame {number} of {len(got)}: expected pushed {position}, has pushed {where}"
    offset = expected[0].pts - got[0].pts
    for number, (want, have) in enumerate(zip(expected, got, strict=True)):
        if abs(want.pts - have.pts - offset) > tick:
            return f"frame {number}: presented {have.pts - want.pts + offset:+.4f} s off"
    return ""


def missing_at_start(pushed: Sequence[Packet], got: Sequence[Packet]) -> int:
    """Return how many of the first pushed frames the viewer did not get."""
    return len(pushed) - len(got)


def first_key(packets: Sequence[Packet]) -> int:
    """Return the position of the first keyframe."""
    return next(number for number, packet in enumerate(packets) if packet.key)
