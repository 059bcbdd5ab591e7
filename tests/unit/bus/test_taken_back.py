"""An origin that comes back without its newest frames: the edge starts anew, viewers follow."""

import shutil
from dataclasses import replace
from pathlib import Path

from common.bus.answers import positions
from common.wire.control import Join, Joined
from edge.mirrors import Mirrors
from tests.harness.bus import VIDEO, Source, content
from tests.unit.bus.test_receiver import Rig


async def test_viewers_follow_an_edge_that_starts_anew_in_the_same_epoch(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.receiver.connected(rig.now)
    rig.publish(60)
    mirrors = Mirrors(tmp_path / "edge")
    mirrors._used["live"] = 0
    mirrors.state("live", "live", rig.known.epoch)
    mirror = mirrors.peek("live")
    assert mirror is not None
    assert mirror.reader.track(VIDEO).head == 60

    rig.pages.close()
    rig.source.writer.close()
    shutil.rmtree(tmp_path / "origin")
    rig.known = replace(rig.known, term=rig.known.term + 1)
    rig.source = Source(tmp_path / "origin", rig.known, seed=2)
    rig.pages = rig.reader()
    for _ in range(10):
        rig.source.next(rig.now)
    rig.receiver.connected(rig.now)
    join = next(question for question in rig.asked if isinstance(question, Join))
    joined = Joined(join.id, "live", rig.known, positions(rig.pages, rig.known))
    rig.receiver.deliver(joined, rig.now)
    rig.run(1)
    rig.publish(5)

    mirrors.advance()
    assert mirrors.peek("live") is mirror
    assert content(mirror.reader, VIDEO) == content(rig.pages, VIDEO)
    assert mirror.reader.track(VIDEO).head == 15
    mirrors.close()
    rig.receiver.close()
    rig.pages.close()
    rig.source.writer.close()
