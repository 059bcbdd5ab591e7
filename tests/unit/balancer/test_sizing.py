"""The capacity calculator: MistServer's worked examples, ours, and what always holds."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer import figures, sizing, sizing_cli
from balancer.figures import Figures
from balancer.sizing import (
    Audience,
    Capacity,
    Group,
    Machine,
    Overflow,
    capacity,
    edge_holds,
    mistserver,
    origin_needs,
    overflow,
    report,
    viewers_need,
)
from balancer.sizing_ask import OPTIONS, answer, group, load, question, rate, this_machine
from common.errors import ConfigError

SMALL = Machine(cores=4, memory=8e9, network=1e9, disk=100e9)
PROTOCOLS = st.sampled_from(sizing.PROTOCOLS)


def push(viewers: int = 1000, tls: bool = False, **more: Any) -> Audience:
    return Audience((Group(1, 4e6, viewers),), "websocket", tls, **more)


class TestMistServersExamples:
    """From "What hardware do I need to run MistServer?" (2018); where it errs, what is right."""

    def test_memory_of_fifty_streams_and_six_hundred_viewers(self) -> None:
        asked = Audience((Group(50, 2e6, 600),))
        # The article says 12.5 x 2 x 50 = 725 and so 2025 MB; the product is 1250.
        assert mistserver(asked)["memory_mb"] == 1250 + 2 * 650
        ours = viewers_need(asked).memory + edge_holds(asked, 4).memory
        assert ours == pytest.approx(1.3656e9), "a minute of every stream is kept once"

    def test_bandwidth_of_three_bitrates(self) -> None:
        asked = Audience((Group(1, 1e6, 50), Group(2, 2e6, 300), Group(2, 5e6, 150)), "mp4", False)
        # The article says 1568: it takes three streams of 5 Mbit/s, and adds up wrong (1420).
        assert mistserver(asked)["network_mbit"] == 51 + 2 * 302 + 5 * 152
        origin, edge = origin_needs(asked, 1), viewers_need(asked)
        wire = (edge.sent + origin.received) / Figures().framing / 1e6
        assert wire == pytest.approx(51 + 2 * 302 + 5 * 152)

    def test_storage_of_twenty_minutes(self) -> None:
        asked = Audience((Group(1, 1e6), Group(2, 2e6), Group(2, 5e6)), recording=1200)
        assert mistserver(asked)["disk_mb"] == 2250
        assert origin_needs(asked, 1).disk == 2250e6

    def test_viewers_of_a_xeon_of_twenty_cores(self) -> None:
        # 25236 points of PassMark; the article says 7010 viewers, its formula 7422.
        assert mistserver(Audience((Group(1, 1e6, 7421),)))["cpu_mark"] == pytest.approx(
            25236, 1e-3
        )
        xeon = Machine(cores=20, memory=64e9, network=100e9, share=1.0)
        assert capacity(push(), xeon).by_resource["cpu"] > 4 * 7422


class TestOurExamples:
    """The examples of docs/how-to/size.md."""

    def test_the_network_of_a_small_machine_is_full_first(self) -> None:
        found = capacity(push(), SMALL)
        assert found.limit == "network"
        assert found.viewers == math.floor(0.7e9 / (4e6 * 1.055)) == 165

    def test_with_a_faster_card_it_is_the_cpu(self) -> None:
        fast = Machine(cores=4, memory=8e9, network=100e9, share=1.0)
        figure = Figures()
        a_viewer = 30 * figure.write + 4 * figure.megabit
        held = edge_holds(push(), 4).cpu
        found = capacity(push(), fast)
        assert found.limit == "cpu"
        assert found.viewers == math.floor((4 - held) / (a_viewer / 1e6))

    def test_cloud_overflow(self) -> None:
        own = Machine(cores=8, memory=16e9, network=10e9, price=0.25)
        rented = Machine(cores=8, memory=16e9, network=10e9, price=0.60)
        plan = Overflow(own=2, rented=rented, gigabyte=0.01, hours=3)
        one = capacity(push(), own).viewers
        assert one == 1658
        bill = overflow(push(10_000), own, plan)
        assert bill.own_serve == 2 * one
        assert bill.rented_serve == 10_000 - 2 * one
        assert bill.rented == math.ceil(bill.rented_serve / one) == 5
        traffic = bill.rented_serve * 4e6 * 1.055 * 3600 / 8 / 1e9
        assert bill.traffic_gigabytes == pytest.approx(traffic)
        assert bill.hour == pytest.approx(2 * 0.25 + 5 * 0.60 + traffic * 0.01)
        assert bill.month == pytest.approx(
            2 * 0.25 * 730 + (5 * 0.60 + traffic * 0.01) * 3 * 730 / 24
        )
        assert bill.own_instead == 7
        assert bill.month_instead == 7 * 0.25 * 730

    def test_a_spare_edge_is_not_counted_on(self) -> None:
        own = Machine(network=10e9, price=1.0)
        plan = Overflow(own=3, rented=own, spare=1)
        one = capacity(push(), own).viewers
        assert overflow(push(10 * one), own, plan).own_serve == 2 * one

    def test_what_rented_edges_cost_more_tells_from_when_they_are_too_dear(self) -> None:
        own = Machine(network=10e9, price=0.25)
        plan = Overflow(own=1, rented=Machine(network=10e9, price=0.75))
        bill = overflow(push(10 * capacity(push(), own).viewers), own, plan)
        assert bill.breakeven_hours == pytest.approx(24 * 0.25 / 0.75)


@given(PROTOCOLS, st.booleans(), st.integers(1, 500), st.floats(1e5, 5e7), st.integers(0, 10**6))
def test_more_of_anything_never_needs_less(
    protocol: Any, tls: bool, streams: int, bitrate: float, viewers: int
) -> None:
    asked = Audience((Group(streams, bitrate, viewers),), protocol, tls)
    more = Audience((Group(streams + 1, bitrate * 1.5, viewers + 10),), protocol, tls)
    less, greater = viewers_need(asked), viewers_need(more)
    assert less.cpu <= greater.cpu
    assert less.memory <= greater.memory
    assert less.sent <= greater.sent
    assert edge_holds(asked, 2).memory < edge_holds(more, 2).memory


@given(PROTOCOLS, st.booleans(), st.floats(1e5, 2e7), st.floats(1, 128), st.floats(1e9, 1e11))
def test_who_is_let_in_fits_and_one_more_does_not(
    protocol: Any, tls: bool, bitrate: float, cores: float, network: float
) -> None:
    machine = Machine(cores=cores, memory=64e9, network=network)
    found = capacity(Audience((Group(1, bitrate, 7),), protocol, tls), machine)

    def fits(viewers: int) -> bool:
        asked = Audience((Group(1, bitrate, viewers),), protocol, tls)
        held = edge_holds(asked, sizing.processes_of(machine))
        need = viewers_need(asked) + held
        return (
            need.cpu <= cores * 0.7 * (1 + 1e-9)
            and need.memory <= 64e9 * 0.9 * (1 + 1e-9)
            and need.sent <= network * 0.7 * (1 + 1e-9)
        )

    if found.viewers:
        assert fits(found.viewers)
        assert not fits(found.viewers + 2)


def test_a_machine_that_cannot_hold_the_streams_serves_nobody() -> None:
    tiny = Machine(memory=100e6)
    assert capacity(push(), tiny).viewers == 0
    told = report(push(), tiny)
    assert told["edges"] == {**told["edges"], "possible": False, "limit": "memory", "count": 0}
    narrow = Machine(network=1e6)
    assert capacity(push(), narrow).limit == "network"
    with pytest.raises(ConfigError, match="cannot even hold"):
        overflow(push(), tiny, Overflow(own=1))


def test_what_cannot_be_said_in_json_is_nothing() -> None:
    told = report(push(0), SMALL, Overflow(own=1, rented=SMALL))
    assert json.loads(json.dumps(told, allow_nan=False))["overflow"]["breakeven_hours"] is None


def test_the_advice_speaks_of_the_defaults_that_are() -> None:
    edge = importlib.import_module("edge.config")
    node = importlib.import_module("common.runtime.config")
    settings = edge.EdgeSettings()
    assert settings.sessions == sizing.DEFAULT_SESSIONS
    assert settings.bandwidth == sizing.DEFAULT_BANDWIDTH
    assert node.StreamSettings().bytes_max == sizing.DEFAULT_STREAM_BYTES
    assert node.NodeSettings().pages_max == sizing.DEFAULT_PAGES
    large = Machine(cores=32, memory=256e9, network=100e9)
    said = "\n".join(sizing.advice(push(window=3600), large, capacity(push(window=3600), large)))
    for setting in ("edge.viewers = 32", "bytes_max", "edge.sessions", "edge.bandwidth = 1e+11"):
        assert setting in said
    assert sizing.advice(push(), SMALL, Capacity(1, "cpu", {}, 0.0)) == [
        "LimitNOFILE=2049 or ulimit -n: each viewer takes a descriptor"
    ]


def test_every_figure_has_its_source() -> None:
    assert set(figures.SOURCES) == set(Figures.__dataclass_fields__)
    assert set(figures.LOOPS) <= set(figures.SOURCES)


def test_a_machine_on_which_a_loop_takes_twice_as_long_has_half_the_viewers(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({"figures": {"write": 2 * figures.LOOPS["write"]}}))
    costs, calibrated = load(file)
    assert costs.write == pytest.approx(2 * Figures().write)
    assert (costs.megabit, calibrated) == (Figures().megabit, True)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"figures": {"speed": 1}}', '{"figures": {"write": -1}}', "\xff"]
)
def test_what_is_no_calibration_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text(text, "latin-1")
    with pytest.raises(ConfigError, match="figures"):
        load(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("streams", "0"),
        ("streams", "nan"),
        ("bitrate", "4 furlongs"),
        ("bitrate", "0"),
        ("viewers", "-1"),
        ("protocol", "hsl"),
        ("tls", "maybe"),
        ("window", "-1s"),
        ("memory", "8 apples"),
        ("share", "2"),
        ("group", "2x5M"),
        ("colour", "red"),
        ("viewers", "9" * 65),
    ],
)
def test_a_question_that_is_wrong_says_where(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        question([(name, text)], SMALL)
    assert caught.value.path == name


def test_groups_stand_instead_of_the_three_options_and_are_not_endless() -> None:
    asked, _, plan = question([("group", "1x1M:50"), ("group", "2x2M:300")], SMALL)
    assert asked.groups == (Group(1, 1e6, 50), Group(2, 2e6, 300))
    assert plan is None
    with pytest.raises(ConfigError, match="instead of"):
        question([("group", "1x1M:50"), ("viewers", "3")], SMALL)
    with pytest.raises(ConfigError, match="more than 64"):
        question([("group", "1x1M:50")] * 65, SMALL)


@given(st.sampled_from(sorted(OPTIONS)), st.text(max_size=70))
def test_garbage_is_refused_in_words(name: str, text: str) -> None:
    try:
        told = answer([(name, text), ("own", "1")], SMALL, Figures())
    except ConfigError:
        return
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(("text", "value"), [("4M", 4e6), ("800k", 8e5), ("2.5G", 2.5e9), ("7", 7)])
def test_rates_have_prefixes(text: str, value: float) -> None:
    assert rate("bitrate", text) == value


def test_a_rented_edge_is_like_an_own_one_unless_it_is_said() -> None:
    pairs = [("own", "2"), ("cores", "16"), ("rented-memory", "4GB"), ("rented-price", "0.5")]
    _, machine, plan = question(pairs, SMALL)
    assert plan is not None
    assert (plan.rented.cores, plan.rented.memory, plan.rented.price) == (16, 4e9, 0.5)
    assert machine.price == 0


def test_the_command_says_what_limits_first(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--viewers 5000 --protocol mp4 --tls no --cores 4 --memory 8GB --network 1G --own 2"
    assert sizing_cli.main([*line.split(), "--recording", "2h", "--disk", "1GB"]) == 0
    told = capsys.readouterr().out
    assert "network   allows 165 viewers  <- first limit" in told
    assert "so 31 of them serve 5,000 viewers" in told
    assert "own edges serve 330, 29 rented ones the other 4,670" in told
    assert "3.6 GB for recordings" in told
    assert sizing_cli.main([*line.split(), "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["capacity"]["viewers"] == 165


def test_this_machine_has_something_of_everything() -> None:
    here = this_machine()
    assert min(here.cores, here.memory, here.network, here.disk) > 0
    assert group("1x1M:1") == Group(1, 1e6, 1)
