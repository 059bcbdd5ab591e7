"""The plays of ansible, on machines with systemd and Consul in two datacenters, under load."""

import asyncio
import contextlib
import json
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.e2e.test_moving import crowd
from tests.harness import hlsjs, pushed
from tests.harness.hlsjs import Player
from tests.harness.load import Load, under
from tests.harness.machines import Lan, machines, run
from tests.harness.media import FFMPEG, clip
from tests.harness.plays import Play, changes

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.long, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
ADDRESSES = {"fra1": "10.77.0.11", "fra2": "10.77.0.12", "ams1": "10.77.0.21"}
SHIPPED = {"fra1": "192.0.2.1", "fra2": "192.0.2.2", "ams1": "198.51.100.1"}
"""What they have in ``inventories/three``."""

EDGES = [f"http://{ADDRESSES[name]}:8080" for name in ("fra2", "ams1")]
BALANCERS = [f"http://{ADDRESSES[name]}:8042" for name in ("fra2", "ams1")]
ROLES = {"fra1": ["origin"], "fra2": ["edge", "balancer"], "ams1": ["relay", "edge", "balancer"]}
RATE = 500.0
HLS, SOCKETS, PROGRESSIVE = 40, 100, 60
VARIABLES = """---
node_streams:
  live:
    key: "{{ vault_stream_key }}"
    part: 1s
    window: 120s
edge_settings:
  token: another word
"""


class Archives(NamedTuple):
    """A release, and the one after it: the same code in a folder of another name."""

    first: Path
    second: Path


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    folder = tmp_path_factory.mktemp("dist")
    first = Path(run(str(ROOT / "deploy/dist.sh"), str(folder)).split()[-1])
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    run("tar", "-C", str(unpacked), "-xzf", str(first))
    (unpacked / "release").write_text("0.9.9-next\n")
    second = folder / "headwater-0.9.9-next.tar.gz"
    run("tar", "-C", str(unpacked), "-czf", str(second), ".")
    return Archives(first, second)


@pytest.fixture(scope="module")
def lan(archives: Archives, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """Machines in whose network this thread is: after the archives, which are made outside."""
    assert archives.first.exists()
    with machines(tmp_path_factory.mktemp("machines"), ADDRESSES) as made, made.space.inside():
        yield made


@pytest.fixture(scope="module")
def play(lan: Lan, archives: Archives, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """A cluster that the site play has installed."""
    addresses = {SHIPPED[name]: ours for name, ours in ADDRESSES.items()}
    made = Play(tmp_path_factory.mktemp("ansible"), lan, "three", addresses)
    made.add("group_vars/all/tests.yml", VARIABLES)
    made("site", node_archive=str(archives.first))
    return made


class Encoder(threading.Thread):
    """Publishes again and again, as an encoder does whose origin restarts."""

    def __init__(self, clip: Path, url: str) -> None:
        super().__init__()
        source = ("-re", "-stream_loop", "-1", "-i", str(clip))
        self._command = [*FFMPEG, *source, "-c", "copy", "-f", "flv", url]
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.2):
            with subprocess.Popen(self._command, stderr=subprocess.DEVNULL) as process:
                while process.poll() is None and not self._ended.wait(0.1):
                    pass
                process.kill()

    def stop(self) -> None:
        self._ended.set()
        self.join()


@pytest.fixture(scope="module")
def stream(play: Play, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Somebody publishes."""
    source = clip(tmp_path_factory.mktemp("clip") / "clip.flv", 60, size="320x180")
    encoder = Encoder(source, f"rtmp://{ADDRESSES['fra1']}:1935/live/sesame")
    encoder.start()
    try:
        yield
    finally:
        encoder.stop()


def releases(lan: Lan) -> set[str]:
    """Return what the nodes run."""
    found = set()
    for name, roles in ROLES.items():
        for role in roles:
            pid = lan.ssh(name, f"systemctl show -p MainPID --value headwater-{role}").strip()
            command = lan.ssh(name, f"tr '\\0' ' ' </proc/{pid}/cmdline")
            found.add(command.split("/opt/headwater/")[1].split("/")[0])
    return found


def name_of(archive: Path) -> str:
    return archive.name.removeprefix("headwater-").removesuffix(".tar.gz")


def test_a_second_run_of_the_site_play_changes_nothing(play: Play, archives: Archives) -> None:
    again = changes(play("site", node_archive=str(archives.first)))
    assert again == dict.fromkeys(ADDRESSES, 0)
    checked = changes(play("site", "--check", "--diff", node_archive=str(archives.first)))
    assert checked == dict.fromkeys(ADDRESSES, 0)


def test_units_are_as_tight_on_a_machine_as_systemd_says_they_are(play: Play, lan: Lan) -> None:
    for name, roles in ROLES.items():
        for role in roles:
            lan.ssh(name, f"systemd-analyze security --threshold=15 headwater-{role}.service")


@pytest.mark.usefixtures("play")
def test_a_node_on_the_network_of_the_cluster_is_reloaded_with_its_token(
    lan: Lan,
) -> None:
    program = "/opt/headwater/current/bin/headwater"
    asked = f"{program} config diff fra2-edge --config /etc/headwater/edge.toml"
    assert lan.ssh("fra2", asked) == "fra2-edge: nothing changes\n"
    refused = f"! {program} config diff fra2-edge 2>&1"
    assert "with the token" in lan.ssh("fra2", refused)


@pytest.mark.usefixtures("play", "stream")
async def test_a_stream_plays_from_an_edge_of_each_datacenter(lan: Lan) -> None:
    for balancer in BALANCERS:
        url = f"{balancer}/cmaf/live/index.m3u8"
        async with aiohttp.ClientSession() as http:
            await there(http, url)
    for edge in EDGES:
        shown = await asyncio.to_thread(
            run,
            *lan.space.command(["ffprobe", "-v", "error", "-show_entries", "stream=codec_name"]),
            *("-of", "csv=p=0", f"{edge}/cmaf/live/index.m3u8"),
        )
        assert {"h264", "aac"} <= set(shown.split())


async def there(http: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(60):
        while True:
            async with http.get(url) as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.2)


class Audience:
    """Two hundred viewers, and others that ask for one thing after another."""

    def __init__(self) -> None:
        self.load = Load(EDGES, BALANCERS[0], rate=RATE, follow=True)
        masters = [f"{balancer}/cmaf/live/index.m3u8" for balancer in BALANCERS]
        self.players = [Player(masters[n % 2], f"player-{n}") for n in range(HLS)]
        self.codes: Counter[str] = Counter()

    def jobs(self) -> list[Any]:
        jobs: list[Any] = [player.run() for player in self.players]
        for number in range(SOCKETS):
            edge = EDGES[number % 2].replace("http", "ws", 1)
            jobs.append(pushed.websocket(f"{edge}/live.mp4?autoplay=1", self.codes))
        for number in range(PROGRESSIVE):
            urls = (f"{EDGES[number % 2]}/live.mp4", f"{BALANCERS[number % 2]}/live.mp4")
            jobs.append(pushed.progressive(*urls, self.codes))
        return jobs

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch for the time of a block, and check what came of it."""
        async with (
            crowd(hlsjs.clock(self.players), *self.jobs()) as tasks,
            under(self.load),
        ):
            yield
            assert not [task for task in tasks if task.done()]
        failed = [one for player in self.players for one in player.failed]
        slowest = {kind: round(seconds, 2) for kind, seconds in self.load.slowest.items()}
        figures = {
            "asked": self.load.asked,
            "rate": round(self.load.reached),
            "seconds": round(self.load.took),
            "slowest": slowest,
            "players' requests": sum(player.requests for player in self.players),
            "longest stall": round(max(player.longest for player in self.players), 2),
            "moves": sum(player.moves for player in self.players),
            "sockets and files": self.codes,
            "failed": len(failed) + len(self.load.failures),
        }
        print(json.dumps(figures))
        assert not self.load.failures, self.load.failures[:10]
        assert not failed, failed[:10]
        assert set(self.codes) <= {"moved", "ended"}, self.codes


@pytest.mark.usefixtures("stream")
async def test_an_upgrade_and_the_way_back_fail_no_request(
    play: Play, lan: Lan, archives: Archives
) -> None:
    first, second = (name_of(archive) for archive in archives)
    async with aiohttp.ClientSession() as http:
        for edge in EDGES:
            await there(http, f"{edge}/cmaf/live/index.m3u8")
    assert await asyncio.to_thread(releases, lan) == {first}
    audience = Audience()
    async with audience.watching():
        await asyncio.sleep(5)
        await asyncio.to_thread(play, "upgrade", node_archive=str(archives.second))
        await asyncio.sleep(2)
    assert await asyncio.to_thread(releases, lan) == {second}
    audience = Audience()
    async with audience.watching():
        await asyncio.sleep(5)
        await asyncio.to_thread(play, "rollback", rollback_from=second)
        await asyncio.sleep(2)
    assert await asyncio.to_thread(releases, lan) == {first}
    again = await asyncio.to_thread(play, "rollback", rollback_from=second)
    assert changes(again) == dict.fromkeys(ADDRESSES, 0)
