"""Listening sockets."""

import os
import socket

import pytest

from common.errors import ConfigError, ListenError
from common.runtime import listen


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("8080", ("::", 8080)),
        (":8080", ("::", 8080)),
        ("[::]:8080", ("::", 8080)),
        ("[::1]:0", ("::1", 0)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("example.org:80", ("example.org", 80)),
    ],
)
def test_addresses_are_read(address: str, parsed: tuple[str, int]) -> None:
    assert listen.parse(address) == parsed


@pytest.mark.parametrize("address", ["", "host", "host:", "::1:80", "h:99999", "h:-1", "h:http"])
def test_what_is_no_address_is_refused_with_the_name_of_the_setting(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^edge\.http: .* is not an address such as"):
        listen.parse(address, "edge.http")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_wildcard_listens_on_both_families(host: str) -> None:
    with listen.bind("[::]:0") as bound:
        port = bound.getsockname()[1]
        with socket.create_connection((host, port), timeout=5):
            pass
        assert bound.proto == socket.IPPROTO_TCP
        assert listen.authority(bound) == f"127.0.0.1:{port}"
        assert listen.authority(bound, "example.org") == f"example.org:{port}"


def test_ipv6_addresses_get_brackets_in_urls() -> None:
    with listen.bind("[::1]:0") as bound:
        assert listen.authority(bound) == f"[::1]:{bound.getsockname()[1]}"


@pytest.mark.parametrize("udp", [False, True])
def test_a_taken_port_is_named_with_its_holder_and_the_setting(udp: bool) -> None:
    with listen.bind("127.0.0.1:0", udp=udp) as first:
        port = first.getsockname()[1]
        with pytest.raises(ListenError) as raised:
            listen.bind(f"127.0.0.1:{port}", setting="edge.http", udp=udp)
    text = str(raised.value)
    assert f"port {port} is taken by process {os.getpid()} (" in text
    assert "set edge.http to another address" in text


def test_a_foreign_address_is_an_error_of_one_line() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:0: "):
        listen.bind("192.0.2.1:0")


def test_an_unknown_host_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ListenError, match="cannot listen on nowhere:0: Name or service not known"):
        listen.bind("nowhere:0")


def test_ipv4_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = listen._bind

    def without_ipv6(host: str, port: int, udp: bool) -> socket.socket:
        if ":" in host:
            raise OSError(97, "Address family not supported by protocol")
        return real(host, port, udp)

    monkeypatch.setattr(listen, "_bind", without_ipv6)
    with listen.bind("[::]:0") as bound:
        assert bound.family == socket.AF_INET


def test_nobody_holds_a_free_port() -> None:
    with listen.bind("127.0.0.1:0") as bound:
        port = bound.getsockname()[1]
    assert listen.holder(port) == ""


def test_what_is_announced_to_other_nodes_is_where_they_reach_it() -> None:
    with listen.bind("[::]:0") as bound, listen.bind("127.0.0.1:0") as local:
        port = bound.getsockname()[1]
        own = listen.announced(bound)
        with socket.create_connection((own.rpartition(":")[0].strip("[]"), port), timeout=5):
            pass
        assert listen.announced(bound, "edge1.example") == f"edge1.example:{port}"
        assert listen.announced(bound, "2001:db8::7") == f"[2001:db8::7]:{port}"
        assert listen.announced(local, "edge1.example").startswith("127.0.0.1:"), "nowhere else"
    assert listen.reachable("10.0.0.7") == "10.0.0.7"
    assert listen.reachable("10.0.0.7", "203.0.113.9") == "203.0.113.9", (
        "behind an address translator"
    )
    assert listen.reachable("::1", "203.0.113.9") == "::1"


def test_a_machine_without_a_network_announces_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError("unreachable")

    monkeypatch.setattr(socket, "socket", Nowhere)
    assert listen.reachable("::") == "127.0.0.1"
