"""What ``headwater doctor`` finds, and what it says to do."""

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from common.runtime import cli, doctor, doctor_look, http, reach
from common.runtime.doctor import Finding, Reach, Space
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import NodeEntry

GIB = float(2**30)


def grades(found: list[Finding]) -> list[str]:
    return [one.grade for one in found]


@pytest.mark.parametrize(
    ("synchronised", "offsets", "expected"),
    [
        (True, {}, ["good"]),
        (False, {}, ["warning"]),
        (None, {}, ["warning"]),
        (True, {"edge-1": 1.5, "edge-2": -30.0}, ["good", "bad"]),
    ],
)
def test_a_clock_that_is_off_is_told(
    synchronised: bool | None, offsets: dict[str, float], expected: list[str]
) -> None:
    found = doctor.clock(synchronised, offsets)
    assert grades(found) == expected
    assert "edge-2 is 30 s behind this machine" in found[-1].what or expected[-1] != "bad"


def test_too_few_descriptors_come_with_the_number_to_set() -> None:
    assert doctor.descriptors(20_000, 20_000, 10_000).grade == "good"
    few = doctor.descriptors(1024, 1024, 10_000)
    assert few.grade == "warning"
    assert "LimitNOFILE=11024" in few.advice
    assert "ulimit -n 11024" in doctor.descriptors(1024, 20_000, 10_000).advice


def test_kernel_settings_come_with_the_command() -> None:
    read = {
        "net.core.rmem_max": "212992",
        "net.core.wmem_max": "16777216",
        "net.ipv4.tcp_congestion_control": "cubic",
    }
    near, far = doctor.kernel(read, far=False), doctor.kernel(read, far=True)
    assert grades(near) == ["warning", "good", "warning"]
    assert near[0].advice == "sysctl -w net.core.rmem_max=16777216"
    assert far[-1].advice == "sysctl -w net.ipv4.tcp_congestion_control=bbr"


@pytest.mark.parametrize(
    ("space", "grade", "words"),
    [
        (Space("tmpfs", 8 * GIB, 4 * GIB), "good", "4.3 GB free"),
        (Space("tmpfs", 1 * GIB, GIB), "bad", "remount,size="),
        (Space("ext4", 99 * GIB, GIB), "warning", "/dev/shm"),
        (Space("tmpfs", 8 * GIB, GIB, writable=False), "bad", "chown"),
    ],
)
def test_the_folder_of_pages_has_to_be_large_and_in_memory(
    space: Space, grade: str, words: str
) -> None:
    [found] = doctor.pages("/p", space, 2 * 2**30, 64 * GIB)
    assert found.grade == grade
    assert words in found.what + found.advice


def test_more_pages_than_memory_are_told() -> None:
    [found] = doctor.pages("/p", Space("tmpfs", 8 * GIB, GIB), 4 * 2**30, 4 * GIB)
    assert found.advice == "lower node.pages_max"


def test_disks_and_certificates() -> None:
    assert doctor.disk("node.run", "/x", Space("ext4", GIB, 1e6)).grade == "warning"
    assert doctor.disk("node.run", "/x", Space("ext4", GIB, 1e6, False)).grade == "bad"
    assert doctor.disk("node.run", "/x", Space("ext4", GIB, 9e9)).grade == "good"
    day = 86_400.0
    graded = [doctor.certificate("s", "p", e, 0.0).grade for e in (None, -1.0, 3 * day, 90 * day)]
    assert graded == ["bad", "bad", "warning", "good"]


@pytest.mark.parametrize("name", ["none.pem", "empty.pem"])
def test_a_file_without_a_certificate_has_no_end(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    assert doctor_look.ends(tmp_path / name) is None


def test_the_end_of_a_certificate_is_read(tmp_path: Path) -> None:
    subject = ["-subj", "/CN=edge", "-keyout", str(tmp_path / "k"), "-out", str(tmp_path / "c")]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run([*made, "-nodes", "-days", "10", *subject], check=True, capture_output=True)
    end = doctor_look.ends(tmp_path / "c")
    assert end is not None
    assert 9 * 86_400 < end - time.time() < 11 * 86_400


def test_loopback_addresses_are_no_good_for_others() -> None:
    told = {"bus": "tcp://127.0.0.1:5550", "admin": "127.0.0.1:1", "http": "10.0.0.1:80"}
    assert doctor.published("o1", told, alone=True) == []
    [found] = doctor.published("o1", told, alone=False)
    assert "bus tcp://127.0.0.1:5550" in found.what
    assert "admin" not in found.what


def test_the_worst_comes_last_and_decides_the_exit_code() -> None:
    found = [Finding("a", "bad", "broken", "mend it"), Finding("b", "good", "fine")]
    assert doctor.as_text(found).splitlines()[0].startswith("ok   b")
    assert "-> mend it" in doctor.as_text(found)
    assert json.loads(doctor.as_json(found))["good"] is False
    assert (doctor.worst(found), doctor.worst(found[1:])) == (1, 0)


def test_the_file_system_of_a_folder_is_found(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/x / ext4 rw 0 0\ntmp {tmp_path} tmpfs rw 0 0\n")
    assert doctor_look.kind(tmp_path / "a", mounts) == "tmpfs"
    assert doctor_look.kind(Path("/usr"), mounts) == "ext4"
    assert doctor_look.space(str(tmp_path / "not" / "yet")).writable


def test_a_key_that_others_may_read_is_bad(tmp_path: Path) -> None:
    key = tmp_path / "n.key"
    key.write_text("x")
    os.chmod(key, 0o644)
    settings = SimpleNamespace(node=SimpleNamespace(keys=str(key)))
    [found] = doctor_look.keys({"edge": settings})
    assert found.advice == f"chmod 600 {key}"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tcp://10.0.0.1:5550", ("10.0.0.1", 5550)),
        ("[::]:8080", ("::1", 8080)),
        ("0.0.0.0:1", ("127.0.0.1", 1)),
        ("nonsense", ("127.0.0.1", 0)),
    ],
)
def test_addresses_of_the_registry_are_read(address: str, expected: tuple[str, int]) -> None:
    assert doctor_look.split(address) == expected


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    """Answers handshakes as an origin does."""

    async def shake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.readexactly(1537)
        writer.write(hello)
        writer.close()

    server = await asyncio.start_server(shake, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}"
    server.close()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


async def test_encoders_are_played_up_to_the_handshake(origin: str) -> None:
    entries = [
        NodeEntry("o1", "origin", {"rtmp": origin}),
        NodeEntry("o2", "origin", {"rtmp": closed_port()}),
        NodeEntry("e1", "edge", {}),
    ]
    found = await doctor_look.encoders(entries)
    assert grades(found) == ["good", "bad"]
    assert "origin.public" in found[1].advice


async def test_who_is_reached_is_asked_in_both_directions(origin: str, tmp_path: Path) -> None:
    gone = closed_port()
    ours = NodeEntry("e1", "edge", {"control": f"tcp://{gone}", "admin": "10.9.9.9:1"})
    entries = [ours, NodeEntry("o1", "origin", {"bus": f"tcp://{origin}"})]
    tried = await doctor_look.tried("this machine", entries)
    assert {one.target: bool(one.trouble) for one in tried} == {"e1": True, "o1": False}

    async def nodes() -> list[NodeEntry]:
        return entries

    app = http.application(reach.routes("o1", nodes))
    async with TestClient(TestServer(app)) as client:
        entries[1].endpoints["http"] = f"{client.host}:{client.port}"
        found = await doctor_look.asked(client.session, entries, {"e1"}, "")
        assert [one.what.split(":")[0] for one in found] == [
            "o1 does not reach control of e1 at tcp"
        ]
        foreign = {"Origin": "http://evil.example"}
        answer = await client.get("/api/v1/reach", params={"node": "e1"}, headers=foreign)
        assert answer.status == 403


def test_an_address_with_nobody_behind_it_says_so() -> None:
    [found] = doctor.reaches([Reach("a", "b", "bus", "x:1", "no answer within 2 s")])
    assert found.grade == "bad"
    assert "firewall" in found.advice


def settings(tmp_path: Path, *more: str) -> list[str]:
    pairs = [
        f"node.run={tmp_path}/run",
        f"node.registry={tmp_path}/registry",
        f"node.keys={tmp_path}/key",
        f"node.pages={tmp_path}/pages",
        "edge.http=127.0.0.1:0",
        "edge.admin=127.0.0.1:0",
        "edge.gossip=127.0.0.1:0",
        "edge.control=127.0.0.1:0",
        *more,
    ]
    return [word for pair in pairs for word in ("--set", pair)]


def test_the_command_looks_at_all_of_a_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(_register(tmp_path))
    code = cli.main(["doctor", "edge", "--json", *settings(tmp_path)])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    checks = {one["check"] for one in told["findings"]}
    assert {"clock", "descriptors", "disk", "kernel", "pages", "ports", "registry"} <= checks
    assert code == (0 if told["good"] else 1)
    assert all(one["advice"] for one in told["findings"] if one["grade"] != "good")


async def _register(tmp_path: Path) -> None:
    registry = EmbeddedRegistry(tmp_path / "registry")
    await registry.register(NodeEntry("b1", "balancer", {"http": "127.0.0.1:9"}))


def test_a_port_that_is_taken_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = settings(tmp_path, f"edge.http=127.0.0.1:{port}")
        assert cli.main(["doctor", "edge", *words]) == 1
    told = capsys.readouterr().out
    assert f"port {port} is taken by process {os.getpid()}" in told
    assert "set edge.http to another address" in told


def test_a_role_that_is_not_there_is_refused() -> None:
    assert cli.main(["doctor", "egde"]) == 2
