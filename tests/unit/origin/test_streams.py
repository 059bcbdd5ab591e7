"""Who may publish, and what happens when two want to."""

import logging
from pathlib import Path

import pytest

from common.errors import AccessDenied, NodeUnavailable, StreamBusy, StreamNotFound
from common.media.codec import Codec
from common.media.frame import Frame
from common.runtime.config import Duration, Size, StreamSettings
from tests.unit.origin.stage import Encoder, Stage, settings


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    streams = {
        "live": settings(key="sesame"),
        "news": settings(key="tagesschau", on_conflict="replace"),
        "lobby": StreamSettings(open=True),
        "closed": StreamSettings(),
    }
    return Stage(tmp_path, streams)


@pytest.mark.parametrize(
    ("name", "key", "stream"),
    [
        ("live", "sesame", "live"),
        ("live+alice", "sesame", "live+alice"),
        ("live", "sesame+alice", "live+alice"),
        ("app", "sesame", "live"),
        ("live", "tagesschau", "news"),
        ("closed", "sesame", "live"),
        ("lobby", "", "lobby"),
        ("lobby+x", "whatever", "lobby+x"),
        ("app", "lobby+y", "lobby+y"),
        ("closed", None, "closed"),
    ],
)
async def test_a_key_finds_its_stream(
    stage: Stage, name: str, key: str | None, stream: str
) -> None:
    publisher = await stage.streams.publish(name, key)
    assert publisher.stream == stream


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("live", ""),
        ("live", "sesam"),
        ("live", "sesame2"),
        ("closed", ""),
        ("closed", "x"),
        ("nowhere", ""),
        ("live", "x" * 10_000),
        ("live", "+"),
        ("live", "\udcff"),
    ],
)
async def test_a_wrong_key_is_refused_after_a_delay_and_never_logged(
    stage: Stage, name: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(AccessDenied) as refusal:
        await stage.streams.publish(name, key, peer="192.0.2.1:7")
    assert len(stage.waits) == 1
    assert 0 <= stage.waits[0] <= 0.5
    assert len(key) < 4 or key not in str(refusal.value) + caplog.text
    assert not stage.streams.live()


@pytest.mark.parametrize("name", ["live+", "live+a/b", "live+ü"])
async def test_a_right_key_with_a_name_that_is_none_is_not_found(stage: Stage, name: str) -> None:
    with pytest.raises(StreamNotFound, match="stream name"):
        await stage.streams.publish(name, "sesame")


async def test_an_accepted_key_is_kept_nowhere_in_plain(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        publisher = await stage.streams.publish("live", "sesame")
    assert "sesame" not in caplog.text
    assert b"sesame" not in publisher.key_id
    assert len(publisher.key_id) == 32


async def test_a_second_publisher_is_refused_while_the_first_one_sends(stage: Stage) -> None:
    encoder = Encoder(stage, await stage.streams.publish("live", "sesame"))
    encoder.send(1)
    with pytest.raises(StreamBusy, match="somebody already publishes live"):
        await stage.streams.publish("live", "sesame")
    assert not encoder.publisher.closed
    encoder.send(1)
    assert len(stage.bus.records[1]) == 50


async def test_the_same_key_takes_over_from_a_publisher_silent_for_a_second(stage: Stage) -> None:
    encoder = Encoder(stage, await stage.streams.publish("live", "sesame"))
    told: list[str] = []
    encoder.publisher.on_close = told.append
    encoder.send(2)
    stage.clock.wait(1.5)
    again = Encoder(stage, await stage.streams.publish("live", "sesame"))
    assert len(told) == 1
    assert "taken over" in told[0]
    encoder.publisher.write(Frame(encoder.video, 99_000, b"late", keyframe=True))
    encoder.publisher.close("too late")
    again.send(1)
    assert b"late" not in stage.bus.payloads[1]
    assert len(stage.bus.records[1]) == 75
    assert again.publisher in stage.streams.live()[0].publishers


async def test_replace_lets_the_newer_publisher_win_at_once(stage: Stage) -> None:
    encoder = Encoder(stage, await stage.streams.publish("news", "tagesschau"))
    encoder.send(1)
    again = await stage.streams.publish("news", "tagesschau")
    assert encoder.publisher.closed
    assert not again.closed


async def test_a_configured_source_is_not_taken_over_by_a_key(stage: Stage) -> None:
    await stage.streams.publish("live", None)
    stage.clock.wait(10)
    with pytest.raises(StreamBusy):
        await stage.streams.publish("live", "sesame")


async def test_slots_are_independent(stage: Stage) -> None:
    first = await stage.streams.publish("live", "sesame")
    second = await stage.streams.publish("live", "sesame", slot="backup")
    assert (first.slot, second.slot) == ("main", "backup")
    with pytest.raises(StreamNotFound, match="slot"):
        await stage.streams.publish("live", "sesame", slot="x" * 65)


async def test_a_node_takes_only_so_many_publishers(stage: Stage) -> None:
    for number in range(5):
        await stage.streams.publish(f"live+{number}", "sesame")
    with pytest.raises(NodeUnavailable, match="at most 5"):
        await stage.streams.publish("live+6", "sesame")


async def test_a_stream_of_another_live_node_may_be_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path, standby="refuse")
    await stage.own_elsewhere("live")
    with pytest.raises(StreamBusy, match="elsewhere"):
        await stage.streams.publish("live", "sesame")


async def test_a_mirror_keeps_a_stream_whose_owner_has_just_gone(tmp_path: Path) -> None:
    kept = settings(key="sesame", window=60, reconnect=4)
    stage = Stage(tmp_path, {"live": kept}, mirror=True)
    owner = await stage.own_elsewhere("live")
    await stage.streams.tick()
    assert [one.name for one in stage.streams.followed()] == ["live"]
    stage.clock.wait(3600)
    await stage.registry.release(owner)
    # Before the followed streams have been looked at, and long after the mirror began.
    await stage.streams.tick()
    assert [one.name for one in stage.streams.followed()] == ["live"]
    await stage.streams.look()
    stage.clock.wait(63)
    await stage.streams.tick()
    publisher = await stage.streams.publish("live", "sesame")
    assert stage.streams.followed()[0].follower.publishers == [publisher]
    stage.clock.wait(63)
    publisher.close("gone")
    stage.clock.wait(63)
    await stage.streams.tick()
    assert [one.name for one in stage.streams.followed()] == ["live"]
    stage.clock.wait(2)
    await stage.streams.tick()
    assert not stage.streams.followed()
    assert await stage.registry.owner("live") is None


async def test_who_only_follows_forgets_a_stream_once_its_publisher_stays_away(
    stage: Stage,
) -> None:
    await stage.own_elsewhere("live")
    publisher = await stage.streams.publish("live", "sesame")
    stage.clock.wait(3600)
    await stage.streams.tick()
    publisher.close("gone")
    stage.clock.wait(29)
    await stage.streams.tick()
    assert stage.streams.followed()
    stage.clock.wait(2)
    await stage.streams.tick()
    assert not stage.streams.followed()


async def test_stopping_tells_publishers_and_keeps_the_pages(stage: Stage) -> None:
    encoder = Encoder(stage, await stage.streams.publish("live", "sesame"))
    told: list[str] = []
    encoder.publisher.on_close = told.append
    encoder.send(3)
    await stage.streams.stop()
    assert told == ["the node stops"]
    with pytest.raises(NodeUnavailable):
        await stage.streams.publish("live", "sesame")
    assert await stage.registry.owner("live") is None
    stage.crash()
    await stage.streams.adopt()
    assert [live.name for live in stage.streams.live()] == ["live"]
    assert stage.streams.live()[0].next_segment == 2


async def test_pages_of_unknown_or_long_dead_streams_are_swept(stage: Stage) -> None:
    for name in ("live", "lobby"):
        publisher = await stage.streams.publish(name, "sesame" if name == "live" else "")
        Encoder(stage, publisher).send(2)
    await stage.streams.stop()
    del stage.settings["lobby"]
    stage.crash()
    stage.clock.wait(200)
    await stage.streams.adopt()
    assert not stage.streams.live()
    assert not [path for path in (stage.root / "pages").iterdir() if path.is_dir()]


async def test_a_publisher_that_never_sends_leaves_nothing_behind(stage: Stage) -> None:
    publisher = await stage.streams.publish("live", "sesame")
    publisher.add_track(Codec.JSON, b"", clock=1000)
    publisher.close("bye")
    await stage.streams.tick()
    assert not stage.streams.live()
    assert not stage.bus.catalogs


async def test_segment_numbers_are_reserved_ahead(stage: Stage) -> None:
    encoder = Encoder(stage, await stage.streams.publish("live", "sesame"))
    for _ in range(100):
        encoder.send(2)
        await stage.streams.tick()
    first = await stage.registry.reserve_segments("live", 1)
    assert first >= stage.streams.live()[0].next_segment


async def test_settings_that_the_registry_changes_reach_a_stream_that_runs(stage: Stage) -> None:
    encoder = Encoder(stage, await stage.streams.publish("live", "sesame"))
    encoder.send(3)
    stage.settings["live"] = settings(key="open", window=Duration(7), bytes_max=Size(2**24))
    stage.settings["later"] = settings(key="new")
    stage.streams.redefine()
    encoder.send(1, start_ms=3000)
    assert stage.bus.catalogs[-1].window_us == 7_000_000
    with pytest.raises(AccessDenied):
        await stage.streams.publish("x", "sesame", slot="other")
    assert (await stage.streams.publish("x", "open", slot="other")).stream == "live"
    assert (await stage.streams.publish("x", "new")).stream == "later"
