from unittest.mock import MagicMock

import pytest

from common.errors import NodeUnavailable
from edge.sessions import Sessions


def request(peer: str = "192.0.2.1", agent: str = "player") -> MagicMock:
    return MagicMock(remote=peer, headers={"User-Agent": agent})


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


@pytest.fixture
def sessions(clock: list[float]) -> Sessions:
    return Sessions(idle=15, most=3, clock=lambda: clock[0], wall=lambda: 1_000.0)


def test_requests_of_one_viewer_are_one_visit(sessions: Sessions) -> None:
    first = sessions.visit("live", "hls", request())
    assert sessions.visit("live", "hls", request()) is first
    assert sessions.visit("live", "hls", request(agent="other")) is not first
    assert sessions.visit("live", "hls", request(peer="192.0.2.2")) is not first
    assert len(sessions) == 3
    assert sessions.streams() == {"live"}


def test_a_visit_ends_when_no_request_comes_for_a_while(
    sessions: Sessions, clock: list[float]
) -> None:
    first = sessions.visit("live", "hls", request())
    clock[0] += 14
    first.sent(10)
    clock[0] += 14
    sessions.sweep()
    assert len(sessions) == 1
    clock[0] += 2
    sessions.sweep()
    assert len(sessions) == 0
    assert sessions.visit("live", "hls", request()) is not first


def test_a_long_lived_session_is_never_swept(sessions: Sessions, clock: list[float]) -> None:
    session = sessions.open("live", "mp4", request())
    clock[0] += 1000
    sessions.sweep()
    assert len(sessions) == 1
    session.close()
    session.close()
    assert len(sessions) == 0


def test_bytes_and_openings_are_counted_by_protocol(sessions: Sessions) -> None:
    sessions.visit("live", "hls", request()).sent(100)
    with sessions.viewer("live", "flv", request()) as session:
        session.sent(7)
    assert sessions.bytes == {"hls": 100, "flv": 7}
    assert sessions.opened == {"hls": 1, "flv": 1}


def test_one_viewer_too_many_is_refused_and_counted(sessions: Sessions) -> None:
    for _ in range(3):
        sessions.open("live", "mp4", request())
    with pytest.raises(NodeUnavailable):
        sessions.open("live", "mp4", request())
    assert sessions.refused == {"mp4": 1}


def test_latency_is_from_the_capture_to_now(sessions: Sessions) -> None:
    seen: list[tuple[str, float]] = []
    sessions.observe = lambda protocol, seconds, count: seen.extend([(protocol, seconds)] * count)
    sessions.latency("mp4", 999_900_000)
    sessions.latency("mp4", 1_000_100_000)  # a clock ahead of ours
    sessions.latency("mp4", 0)  # not known
    assert seen == [("mp4", pytest.approx(0.1)), ("mp4", 0.0)]


def test_the_list_says_who_watches_what(sessions: Sessions, clock: list[float]) -> None:
    session = sessions.open("live", "mp4", request(agent="x" * 1000))
    session.sent(5)
    clock[0] += 2
    (entry,) = sessions.listed()
    assert entry["stream"] == "live"
    assert entry["seconds"] == 2
    assert entry["bytes"] == 5
    assert entry["agent"] == "x" * 200


def test_viewers_and_bytes_of_each_stream_are_counted_between_two_reports() -> None:
    sessions = Sessions()
    first, second = (sessions.open(stream, "mp4", request()) for stream in ("a", "b"))
    first.sent(100)
    sessions.count("b", "mp4", 30)
    assert sessions.figures() == {"a": (1, 100), "b": (1, 30)}
    assert sessions.bytes["mp4"] == 130
    sessions.count("b", "mp4", 5)
    second.close()
    assert sessions.figures() == {"a": (1, 0), "b": (0, 5)}
    assert sessions.figures() == {"a": (1, 0)}
