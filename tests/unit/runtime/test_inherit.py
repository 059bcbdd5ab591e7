"""Sockets that a process is given, by systemd or by its earlier image."""

import os
import socket
from collections.abc import Iterator

import pytest

from common.errors import ConfigError
from common.runtime import inherit, listen
from common.runtime.inherit import Estate, Handover, Passed, leave, receive


@pytest.fixture
def estate(monkeypatch: pytest.MonkeyPatch) -> Estate:
    """An empty estate in place of that of the test process."""
    empty = Estate()
    monkeypatch.setattr(inherit, "_estate", empty)
    return empty


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def systemd(monkeypatch: pytest.MonkeyPatch, name: str, *sockets: socket.socket) -> dict[str, str]:
    """Return the environment of a process that systemd passes these sockets to."""
    first = os.dup(sockets[0].fileno())
    for offset, one in enumerate(sockets[1:], 1):
        assert os.dup2(one.fileno(), first + offset) == first + offset
    monkeypatch.setattr(inherit, "_SYSTEMD_FIRST", first)
    count = str(len(sockets))
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": name}


def test_a_socket_of_systemd_goes_to_the_setting_that_bears_its_name(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    environ = systemd(monkeypatch, "edge.http", listener)
    monkeypatch.setattr(inherit, "_estate", receive(environ))
    assert environ == {}, "children would take it for theirs"
    with listen.bind("[::]:8080", setting="edge.http") as bound:
        assert bound.getsockname() == listener.getsockname()
        assert not bound.get_inheritable()
        assert bound.getblocking() is False


def test_a_socket_without_a_name_goes_to_its_address(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    monkeypatch.setattr(inherit, "_estate", receive(systemd(monkeypatch, "", listener)))
    with listen.bind("127.0.0.1:0", setting="edge.admin") as other:
        assert other.getsockname() != listener.getsockname()
    with listen.bind(address(listener), setting="balancer.http") as bound:
        assert bound.getsockname() == listener.getsockname()


def test_what_systemd_gave_to_another_process_is_left_alone(listener: socket.socket) -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "5"}
    assert receive(environ).named == {}
    assert environ == {}


@pytest.mark.parametrize("count", ["-1", "no", "999"])
def test_a_wrong_number_of_sockets_is_an_error(count: str) -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDS"):
        receive({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


def handed_over(passed: dict[str, Passed]) -> Estate:
    """Return what the next image finds."""
    return receive({inherit.VARIABLE: str(leave(passed, {"some": [1]}, 3, []))})


def test_an_image_leaves_its_sockets_and_state_to_the_next(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = listen.bind("127.0.0.1:0", setting="edge.admin")
    many = listen.share("127.0.0.1:0", 3, setting="edge.http")
    names = [one.getsockname() for one in (first, *many)]
    assert len(set(names)) == 2
    estate.note("edge.gossip", "127.0.0.1:0", [], port=5570)
    passed = estate.passing()
    for one in (first, *many):
        one.close()
    heir = handed_over(passed)
    monkeypatch.setattr(inherit, "_estate", heir)
    assert (heir.handover.generation, heir.handover.state) == (3, {"some": [1]})
    assert heir.port("edge.gossip", "127.0.0.1:0") == 5570
    assert heir.port("edge.gossip", "127.0.0.1:1") == 0
    again = [
        listen.bind("127.0.0.1:0", setting="edge.admin"),
        *listen.share("127.0.0.1:0", 2, setting="edge.http"),
    ]
    assert [one.getsockname() for one in again] == names
    assert not any(one.get_inheritable() for one in again)
    for one in again:
        one.close()


def test_another_address_is_bound_anew_and_the_old_socket_closed(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = listen.bind("127.0.0.1:0", setting="edge.admin")
    port = first.getsockname()[1]
    passed = estate.passing()
    first.close()
    monkeypatch.setattr(inherit, "_estate", handed_over(passed))
    with listen.bind("[::1]:0", setting="edge.admin") as bound:
        assert bound.family == socket.AF_INET6
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_socket_that_was_closed_is_not_passed_on(estate: Estate) -> None:
    listen.bind("127.0.0.1:0", setting="edge.admin").close()
    assert estate.passing() == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sockets": 5}'])
def test_nonsense_instead_of_a_handover_is_an_error(content: bytes) -> None:
    file = os.memfd_create("test", 0)
    os.write(file, content)
    with pytest.raises(ConfigError, match="HEADWATER_HANDOVER"):
        receive({inherit.VARIABLE: str(file)})
    assert Handover() == Handover(generation=0)
