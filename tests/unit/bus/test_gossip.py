import pytest
import zmq

from common.bus.gossip import Gossiper, Load
from common.errors import ConfigError, ListenError
from common.wire.gossip import decode_gossip


@pytest.fixture
def gossiper() -> "Gossiper":
    return Gossiper("edge-1", "127.0.0.1:0")


def hear(gossiper: Gossiper, load: Load) -> list[bytes]:
    """Send until a subscriber hears it: joining takes a moment."""
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    try:
        socket.subscribe(b"G")
        socket.connect(f"tcp://{gossiper.authority}")
        for _ in range(250):
            gossiper.send(load)
            if socket.poll(20):
                return socket.recv_multipart()
        raise AssertionError("nothing was heard in 5 s")
    finally:
        socket.close(0)
        context.term()


def test_a_balancer_hears_what_the_edge_says(gossiper: Gossiper) -> None:
    load = Load(8e6, 12, 0.5, 0.25, True, 100, 2, ["live"], restarting=2.0)
    report = decode_gossip(hear(gossiper, load))
    assert report.node == "edge-1"
    assert report.boot > 1_600_000_000_000_000
    assert (report.bandwidth, report.sessions) == (8e6, 12)
    assert (report.cpu, report.memory, report.draining) == (0.5, 0.25, True)
    assert (report.accepted, report.refused, report.streams) == (100, 2, ("live",))
    assert report.restarting == 2.0
    gossiper.close()


def test_shares_outside_their_range_are_brought_into_it(gossiper: Gossiper) -> None:
    report = decode_gossip(hear(gossiper, Load(cpu=1.7, memory=-0.1)))
    assert (report.cpu, report.memory) == (1.0, 0.0)
    gossiper.close()


def test_a_wildcard_address_is_announced_as_others_reach_it() -> None:
    one = Gossiper("edge-1", "[::]:0", public="edge1.example")
    assert one.authority == f"edge1.example:{one.port}"
    one.close()


def test_a_taken_or_wrong_address_says_which_setting_to_change(gossiper: Gossiper) -> None:
    with pytest.raises(ListenError, match=r"edge\.gossip"):
        Gossiper("edge-2", gossiper.authority)
    with pytest.raises(ConfigError, match=r"edge\.gossip"):
        Gossiper("edge-2", "nowhere")
    gossiper.close()
