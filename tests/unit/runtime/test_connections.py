"""Whose connections these are."""

import os
from pathlib import Path

import zmq

from common.runtime.connections import Connections, Sender, address_of, identity_of, node_of


def test_a_descriptor_that_is_no_socket_any_more_has_no_peer(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        connections = Connections(socket)
        with (tmp_path / "page").open("wb") as file:
            before = len(os.listdir("/proc/self/fd"))
            assert address_of(file.fileno()) == ""
            assert not connections.shut(Sender("", file.fileno(), ""))
            assert len(os.listdir("/proc/self/fd")) == before
            number = file.fileno()
        assert address_of(number) == ""
        assert not connections.shut(Sender("", number, ""))


def test_an_identity_names_its_node_and_cannot_be_guessed() -> None:
    one, other = identity_of("edge~1"), identity_of("edge~1")
    assert one != other
    assert node_of(one) == "edge~1"
    assert node_of(b"\x00\x80\x00\x41\xa7") == ""
    assert node_of(b"\xff~1") != ""
    assert len(identity_of("x" * 300)) <= 255
