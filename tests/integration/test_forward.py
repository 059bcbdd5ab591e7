"""A publisher that came to the wrong origin, on real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from common.errors import StreamBusy
from common.formats.flv_tags import video_sequence
from common.media.codec import Codec
from common.runtime.registry import Owner
from tests.harness import ingest, studio
from tests.harness.ingest import Origin, Site
from tests.harness.studio import AVCC, PICTURES, picture


def owner_at(site: Site) -> Owner:
    host, port = site.target
    endpoints = {"bus": f"tcp://{host}:1", "rtmp": f"{host}:{port}"}
    return Owner("live", "there", 1, 1, endpoints)


@contextlib.asynccontextmanager
async def two() -> AsyncIterator[tuple[studio.Studio, Site]]:
    """The wrong origin and the right one."""
    async with ingest.running() as right:
        wrong = Origin()
        wrong.owner = owner_at(right)
        async with studio.running(wrong) as made:
            yield made, right


async def test_what_comes_to_the_wrong_origin_arrives_at_the_right_one() -> None:
    async with two() as (wrong, right):
        encoder = await (await wrong.encoder()).publish()
        encoder.rtmp.send_data(0, "@setDataFrame", "onMetaData", {"width": 64})
        encoder.rtmp.send_video(7, video_sequence(Codec.H264, AVCC))
        for number in range(6):
            encoder.rtmp.send_video(7 + number * 40, picture(number, cts=80))
        await encoder.flush()
        frames = await right.stream.until_frames(6)
        assert [frame.data for frame in frames] == PICTURES
        assert [frame.dts for frame in frames] == [7 + number * 40 for number in range(6)]
        assert {frame.cts for frame in frames} == {80}
        assert right.origin.asked == [("live", "KEY", "main", "rtmp")]
        assert wrong.origin.asked == []
        encoder.rtmp.stop()
        await encoder.flush()
        assert (await right.stream.until_left())[1], "the goodbye did not arrive"


async def test_a_publisher_whose_place_is_taken_stays_where_it_came() -> None:
    async with two() as (wrong, right):
        right.origin.refusal = StreamBusy("somebody already publishes live")
        encoder = await (await wrong.encoder()).publish()
        encoder.rtmp.send_video(0, video_sequence(Codec.H264, AVCC))
        encoder.rtmp.send_video(0, picture(0))
        await encoder.flush()
        assert len(await wrong.stream.until_frames(1)) == 1
        assert right.stream.frames == []


async def test_an_owner_that_dies_gives_its_publisher_back() -> None:
    async with two() as (wrong, right):
        encoder = await (await wrong.encoder()).publish()
        encoder.rtmp.send_video(0, video_sequence(Codec.H264, AVCC))
        encoder.rtmp.send_video(0, picture(0))
        await encoder.flush()
        await right.stream.until_frames(1)
        wrong.origin.owner = None
        await right.stop()
        async with asyncio.timeout(5):
            await wrong.origin.knocked.wait()
        encoder.rtmp.send_video(40, picture(3))
        await encoder.flush()
        frames = await wrong.stream.until_frames(1)
        assert frames[-1].data == PICTURES[3]
        assert wrong.stream.tracks[0].init == AVCC, "its decoder is not set up"


async def test_an_owner_that_cannot_be_reached_costs_no_publisher() -> None:
    async with two() as (wrong, right):
        await right.stop()
        await (await wrong.encoder()).publish()
        assert wrong.origin.asked == [("live", "KEY", "main", "rtmp")]
