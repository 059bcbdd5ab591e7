"""A stream that goes on under a new numbering."""

from dataclasses import replace
from pathlib import Path

from common.wire.control import Join, Joined, Position
from common.wire.messages import Media
from tests.harness.bus import VIDEO
from tests.unit.bus.test_receiver import Rig


def test_a_new_epoch_is_live_only_once_it_can_be_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.receiver.connected(rig.now)
    rig.publish(5)
    assert rig.receiver.state == "live"
    other = replace(rig.known, epoch=rig.known.epoch + 1, term=rig.known.term + 1)
    item = rig.source.next(rig.now)[-1]
    item = item._replace(record=item.record._replace(seq=0))
    rig.receiver.deliver(Media("live", other.epoch, other.term, [item]), rig.now)
    assert rig.receiver.epoch == other.epoch
    assert rig.receiver.state == "joining"
    rig.receiver.tick(rig.now)
    places = {VIDEO: Position(0, 0, 1)}
    join = next(question for question in rig.asked if isinstance(question, Join))
    rig.receiver.deliver(Joined(join.id, "live", other, places), rig.now)
    assert rig.receiver.state == "live"
    assert len(rig.held(VIDEO)) == 1
    rig.receiver.close()
    rig.pages.close()
    rig.source.writer.close()
