"""RTMP: what a peer says wrong, too early, too late or too long."""

import pytest

from common.errors import FormatError, ProtocolError
from common.formats import amf, rtmp_server, rtmp_session
from common.formats.rtmp import (
    Refused,
    ServerConnection,
    State,
    StreamEnded,
)
from common.formats.rtmp_chunk import MessageType
from tests.unit.formats.rtmp_peers import COMMAND, Encoder, Pair, Server


def test_deleting_another_stream_changes_nothing() -> None:
    encoder = Encoder().publishing()
    assert encoder.call("deleteStream", 0, None, 7) == []
    assert encoder.call("closeStream", 0, None, stream=3) == []
    assert encoder.call("deleteStream", 0, None, 1) == [StreamEnded("deleteStream")]


def test_media_of_nobody_are_ignored() -> None:
    encoder = Encoder()
    encoder.connect()
    assert encoder.send(MessageType.VIDEO, b"v", 1) == []
    assert encoder.send(MessageType.AUDIO, b"a", 1) == []
    assert encoder.send(MessageType.DATA, amf.encode("onMetaData"), 1) == []


def test_data_without_a_name_are_ignored() -> None:
    encoder = Encoder().publishing()
    assert encoder.send(MessageType.DATA, amf.encode(None, 1), 1) == []
    assert encoder.send(MessageType.DATA, b"", 1) == []


@pytest.mark.parametrize("first", [b"\x06", b"G"])
def test_another_version_is_refused_at_its_first_byte(first: bytes) -> None:
    with pytest.raises(FormatError, match="version"):
        ServerConnection().feed(first)


def test_a_command_at_the_wrong_time_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="while new"):
        Encoder().call("createStream", 2, None)
    encoder = Encoder()
    encoder.connect()
    with pytest.raises(ProtocolError, match="while idle"):
        encoder.connect()
    encoder = Encoder().publishing()
    with pytest.raises(ProtocolError, match="while publishing"):
        encoder.call("publish", 9, None, "OTHER", stream=1)


@pytest.mark.parametrize(
    "body",
    [b"", amf.encode(1, 1), amf.encode("connect", "one"), amf.encode("connect", True), b"\x02\x00"],
)
def test_a_broken_command_is_a_format_error(body: bytes) -> None:
    with pytest.raises(FormatError):
        Encoder().send(COMMAND, body)


def test_connect_needs_a_command_object() -> None:
    with pytest.raises(ProtocolError, match="command object"):
        Encoder().call("connect", 1, None)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (MessageType.USER_CONTROL, b"\x00"),
        (MessageType.USER_CONTROL, b"\x00\x06\x00"),
        (MessageType.WINDOW_ACK_SIZE, b"\x00"),
        (COMMAND, bytes(rtmp_session.MAX_COMMAND + 1)),
    ],
)
def test_a_control_message_of_the_wrong_size_is_a_format_error(kind: int, body: bytes) -> None:
    with pytest.raises(FormatError):
        Encoder().send(kind, body)


def test_names_and_urls_have_a_limit() -> None:
    long = "x" * (rtmp_session.MAX_TEXT + 1)
    with pytest.raises(ProtocolError, match="characters"):
        Encoder().connect(tcUrl=long)
    with pytest.raises(ProtocolError, match="characters"):
        Encoder().publish(long)


def test_streams_of_a_connection_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtmp_server, "MAX_STREAMS", 2)
    encoder = Encoder()
    encoder.connect()
    encoder.call("createStream", 2, None)
    encoder.call("createStream", 3, None)
    with pytest.raises(ProtocolError, match="streams"):
        encoder.call("createStream", 4, None)


def test_neither_end_sends_media_at_the_wrong_time() -> None:
    pair = Pair()
    with pytest.raises(ProtocolError, match="no media"):
        pair.client.send_video(0, b"")
    with pytest.raises(ProtocolError, match="nothing to accept"):
        pair.server.accept()
    with pytest.raises(ProtocolError, match="cannot ask"):
        pair.client.publish("KEY")


def test_a_stream_given_up_before_the_answer_is_over() -> None:
    encoder = Encoder()
    encoder.publish()
    assert encoder.call("deleteStream", 0, None, 1) == [StreamEnded("deleteStream")]
    assert encoder.server.state is State.IDLE


def test_a_refused_connect_reaches_the_application() -> None:
    info: amf.Value = {"code": "NetConnection.Connect.Rejected", "description": "no such app"}
    expected = Refused("NetConnection.Connect.Rejected", "no such app")
    assert Server().say("_error", 1, None, info) == [expected]


@pytest.mark.parametrize("number", [None, "1", 0, -1, float("nan"), 2**32])
def test_a_stream_id_that_is_none_is_a_refusal(number: amf.Value) -> None:
    server = Server()
    server.say("_result", 1, None, None)
    server.client.play("x")
    [event] = server.say("_result", 2, None, number)
    assert isinstance(event, Refused)


@pytest.mark.parametrize("code", ["NetStream.Play.Stop", "NetStream.Play.UnpublishNotify"])
def test_the_end_of_what_we_play_is_told(code: str) -> None:
    server = Server()
    server.say("_result", 1, None, None)
    server.client.play("x")
    server.say("_result", 2, None, 1)
    server.say("onStatus", 0, None, {"level": "status", "code": "NetStream.Play.Start"})
    server.say("onBWDone", 0, None)
    assert server.say("onStatus", 0, None, {"level": "status", "code": code}) == [StreamEnded(code)]


def test_answers_to_nothing_and_statuses_out_of_turn_are_ignored() -> None:
    server = Server()
    assert server.say("_result", 99, None, 1) == []
    assert server.say("onStatus", 0, None, {"code": "NetStream.Publish.Start"}) == []
    assert server.say("onStatus", 0, None) == []
