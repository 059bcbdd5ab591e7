"""What is known of Consul's answers, without a Consul."""

import asyncio
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.runtime import consul_watch
from common.runtime.config import Duration, NodeSettings, load
from common.runtime.consul import Agent, Answer, ConsulDown
from common.runtime.consul_entries import (
    Health,
    Numbers,
    last_word,
    read_definition,
    read_numbers,
    read_owner,
    read_service,
    read_standby,
    service,
)
from common.runtime.consul_settings import ConsulSettings
from common.runtime.consul_watch import Believed, Places, Watch
from common.runtime.registry import NodeEntry
from common.runtime.tasks import Backoff

SETTINGS = ConsulSettings(address="127.0.0.1:8500")
ENTRY = NodeEntry(
    "e 1",
    "edge",
    {"http": "https://edge.example/x", "admin": "127.0.0.1:8081", "gossip": "127.0.0.1:5570"},
    {"bits_per_second": 1e10, "sessions": 8000.0},
    datacenter="ams",
    tags=("fast",),
    location=(52.37, 4.9),
    key="k" * 40,
)


def answer(entry: NodeEntry, *critical: str, agent: str = "passing") -> dict[str, Any]:
    """Return a node as ``/v1/health/service`` would, with some of its checks critical."""
    made = service(SETTINGS, entry)
    checks = [
        {
            "CheckID": check["CheckID"],
            "ServiceID": made["ID"],
            "Status": "critical" if check["CheckID"].rpartition(":")[2] in critical else "passing",
        }
        for check in made["Checks"]
    ]
    checks.append({"CheckID": "serfHealth", "ServiceID": "", "Status": agent})
    if "maintenance" in critical:
        name = f"_service_maintenance:{made['ID']}"
        checks.append({"CheckID": name, "ServiceID": made["ID"], "Status": "critical"})
    service_ = {"ID": made["ID"], "Tags": made["Tags"], "Meta": made["Meta"]}
    return {"Node": {"Node": "n", "Datacenter": "dc1"}, "Service": service_, "Checks": checks}


def test_a_node_comes_back_out_of_consul_as_it_went_in() -> None:
    found = read_service(answer(ENTRY))
    assert found is not None
    assert found.entry == ENTRY
    assert (found.health, found.maintenance, found.agent) == (Health.CERTAIN, False, "n")
    bare = NodeEntry("b", "balancer", {"http": "127.0.0.1:1"})
    found = read_service(answer(bare))
    assert found is not None
    assert found.entry == replace(bare, datacenter="dc1")


def test_what_the_agent_asks_is_the_admin_port_and_the_weight_is_the_bandwidth() -> None:
    made = service(SETTINGS, ENTRY)
    assert [check.get("HTTP") for check in made["Checks"]] == [
        None,
        "http://127.0.0.1:8081/healthz",
    ]
    assert made["Weights"]["Passing"] == 1000
    assert (made["Address"], made["Port"]) == ("edge.example", 443)
    assert all(len(value) <= 512 for value in made["Meta"].values())
    assert "load" not in str(made)


def test_a_node_that_is_starting_is_not_shown() -> None:
    made = service(SETTINGS, NodeEntry("o", "origin", {}), starting=True)
    assert [check["CheckID"] for check in made["Checks"]] == ["headwater:o:ttl"]
    tree = {"Node": {"Node": "n", "Datacenter": "d"}, "Service": made, "Checks": []}
    assert read_service(tree) is None


@pytest.mark.parametrize(
    ("critical", "agent", "health", "maintenance"),
    [
        (("ttl",), "passing", Health.DEAD, False),
        (("http",), "passing", Health.DEAD, False),
        ((), "critical", Health.DOUBTFUL, False),
        (("ttl",), "critical", Health.DEAD, False),
        (("maintenance",), "passing", Health.CERTAIN, True),
    ],
)
def test_health_is_read_from_the_checks(
    critical: tuple[str, ...], agent: str, health: Health, maintenance: bool
) -> None:
    found = read_service(answer(ENTRY, *critical, agent=agent))
    assert found is not None
    assert (found.health, found.maintenance) == (health, maintenance)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Service", "Meta", "Node", "Checks", "Value", "Key", "stream", "pid"]),
            inner,
            max_size=4,
        )
    ),
)


@given(JSON)
def test_what_others_write_into_consul_is_read_or_ignored(tree: Any) -> None:
    read_service(tree)
    for pair in (tree, {"Value": tree}, {"Key": tree, "Value": b'{"stream": 1, "endpoints": 2}'}):
        if isinstance(pair, dict):
            for read in (read_owner, read_standby, read_numbers, read_definition, last_word):
                read(pair)


def test_the_higher_of_all_numbers_counts() -> None:
    assert Numbers(1, 5, 9).joined(Numbers(4, 2, 10)) == Numbers(4, 5, 10)


# What is believed, and how long.


def believed() -> Believed[str]:
    known: Believed[str] = Believed(hold=5, keep=600)
    known.update(0, {"a": ("A", Health.CERTAIN), "b": ("B", Health.CERTAIN)}, rebuilt=False)
    return known


def test_who_takes_leave_is_gone_at_once() -> None:
    known = believed()
    known.update(1, {"a": ("A", Health.CERTAIN)}, rebuilt=False)
    assert known.all(1) == {"a": "A"}


def test_who_is_critical_is_believed_for_a_moment_as_an_agent_may_just_be_back() -> None:
    known = believed()
    for now in (1.0, 2.0):
        seen = {"a": ("A", Health.DEAD), "b": ("B", Health.CERTAIN), "c": ("C", Health.DEAD)}
        known.update(now, seen, rebuilt=False)
    assert known.all(5.9) == {"a": "A", "b": "B"}
    assert not known.certain("a")
    assert known.all(6.1) == {"b": "B"}
    known.update(7, {"a": ("A", Health.CERTAIN)}, rebuilt=False)
    assert known.all(7) == {"a": "A"}


def test_whose_agent_is_not_heard_of_is_kept_for_long_but_not_for_ever() -> None:
    known = believed()
    known.update(1, {"a": ("A", Health.DOUBTFUL), "b": ("B", Health.CERTAIN)}, rebuilt=False)
    known.update(300, {"a": ("A2", Health.DOUBTFUL), "b": ("B", Health.CERTAIN)}, rebuilt=False)
    assert known.all(600) == {"a": "A2", "b": "B"}
    assert known.all(602) == {"b": "B"}


def test_a_consul_that_has_lost_its_memory_does_not_take_the_living_away() -> None:
    known = believed()
    known.update(1, {}, rebuilt=True)
    known.update(2, {"a": ("A", Health.CERTAIN)}, rebuilt=False)
    assert known.all(3) == {"a": "A", "b": "B"}
    assert known.all(6.1) == {"a": "A"}
    known.update(7, {"a": ("A", Health.CERTAIN)}, rebuilt=False)
    assert known.get("b", 3) is None


# The question that is asked again and again.


class Script:
    """Answers that a watch gets, one after the other; then it waits for ever."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []
        self.got: list[tuple[Any, bool]] = []
        self.done = asyncio.Event()

    async def ask(self, index: int, wait: float) -> Answer:
        self.asked.append(index)
        if not self.answers:
            self.done.set()
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def play(self, monkeypatch: pytest.MonkeyPatch, **how: Any) -> Watch:
        async def at_once(backoff: Any) -> None:
            return None

        monkeypatch.setattr(Backoff, "wait", at_once)
        monkeypatch.setattr(consul_watch, "PER_ITEM", 0.0)
        watch = Watch("w", self.ask, self.take, wait=1, places=how.pop("places", Places()), **how)
        task = asyncio.create_task(watch.run())
        async with asyncio.timeout(5):
            await self.done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return watch

    def take(self, value: Any, rebuilt: bool) -> None:
        self.got.append((value, rebuilt))


async def test_the_index_goes_on_and_starts_anew_when_it_falls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(
        Answer(7, ["a"]), Answer(9, ["a"]), Answer(3, ["a"]), Answer(4, ["b"]), Answer(0, ["b"])
    )
    await script.play(monkeypatch)
    assert script.asked == [0, 7, 9, 0, 4, 0]
    assert script.got == [(["a"], False), (["a"], True), (["b"], False), (["b"], True)]


async def test_without_an_answer_the_last_one_holds_and_the_next_is_asked_for_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Script(Answer(7, ["a"]), ConsulDown("500"), ConsulDown("gone"), Answer(8, ["b"]))
    watch = await script.play(monkeypatch)
    assert script.asked == [0, 7, 0, 0, 8]
    assert script.got == [(["a"], False), (["b"], False)]
    assert watch.answered


async def test_answers_that_come_in_a_flood_are_slowed_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await Script(*(Answer(n, [n]) for n in range(1, 12))).play(monkeypatch)
    assert slept[:5] == [0] * 5
    assert all(0.4 < later - before < 0.6 for before, later in pairwise(slept[6:]))


async def test_more_questions_than_may_wait_are_asked_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = Places(1)
    assert places.take()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    script = Script(Answer(7, ["a"]), Answer(8, ["b"]))
    await script.play(monkeypatch, places=places)
    assert script.asked == [0, 0, 0]
    assert slept == [consul_watch.POLL] * 2


async def test_the_last_answer_is_there_for_who_is_started_while_consul_is_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory = tmp_path / "x" / "live@.json"
    pair = {"Key": "headwater/live/drains/e1", "Value": b'{"node": "e1"}'}
    await Script(Answer(7, [pair])).play(monkeypatch, memory=memory)
    assert os.stat(memory).st_mode & 0o777 == 0o600
    script = Script()
    watch = Watch("w", script.ask, script.take, wait=1, places=Places(), memory=memory)
    assert watch.recall(600) > 0
    assert last_word(script.got[0][0][0]) == "e1"
    assert watch.recall(0) == 0
    memory.write_text("{")
    assert watch.recall(600) == 0


# Settings.


@pytest.mark.parametrize("address", ["ftp://x", "host:port", "http://", "https://[::1"])
async def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.consul"):
        Agent(ConsulSettings(address=address))


async def test_certificates_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="certificates"):
        Agent(ConsulSettings(address="https://h", ca=str(tmp_path / "none.pem")))


def test_the_token_comes_from_its_file_the_settings_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "env")
    (tmp_path / "token").write_text("file\n")
    assert ConsulSettings().secret() == "env"
    assert ConsulSettings(token="set").secret() == "set"
    assert ConsulSettings(token="set", token_file=str(tmp_path / "token")).secret() == "file"
    with pytest.raises(ConfigError, match="token_file"):
        ConsulSettings(token_file=str(tmp_path / "none")).secret()


def test_the_settings_stand_in_the_section_of_the_node() -> None:
    class Schema(ConsulSettings, frozen=True):
        node: NodeSettings = NodeSettings()

    found = load(
        Schema,
        None,
        {"node.consul.ttl": "3s"},
        {"HEADWATER_NODE__CONSUL__ADDRESS": "127.0.0.1:8500"},
    )
    assert found.node.consul == ConsulSettings(address="127.0.0.1:8500", ttl=Duration(3))
