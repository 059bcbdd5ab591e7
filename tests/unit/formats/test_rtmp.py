"""RTMP: our client against our server, and the habits of foreign encoders."""

import pytest

from common.errors import FormatError
from common.formats import amf
from common.formats.rtmp import (
    Audio,
    Connected,
    Data,
    PlayRequested,
    PublishRequested,
    ReconnectRequested,
    Refused,
    ServerConnection,
    Started,
    State,
    StreamEnded,
    Video,
)
from common.formats.rtmp_chunk import MessageType
from tests.unit.formats.rtmp_peers import COMMAND, Encoder, Pair


def published(pair: Pair) -> None:
    pair.settle()
    pair.client.publish("KEY")
    pair.settle()
    pair.server.accept()
    assert pair.settle() == ([], [Started()])


def test_a_client_publishes_to_a_server() -> None:
    pair = Pair()
    [at_server], [at_client] = pair.settle()
    assert isinstance(at_server, Connected)
    assert at_server.app == "live"
    assert isinstance(at_client, Connected)
    pair.client.publish("KEY?slot=second&x=a%20b")
    assert pair.settle() == ([PublishRequested("live", "KEY", "slot=second&x=a%20b")], [])
    pair.server.accept()
    assert pair.settle() == ([], [Started()])
    pair.client.send_data(0, "@setDataFrame", "onMetaData", {"width": 640})
    pair.client.send_video(0, b"\x17\x00 setup")
    pair.client.send_audio(3, b"\xaf\x00 setup")
    pair.client.send_video(40, bytes(100_000))
    assert pair.settle()[0] == [
        Data(0, "onMetaData", ({"width": 640.0},)),
        Video(0, b"\x17\x00 setup"),
        Audio(3, b"\xaf\x00 setup"),
        Video(40, bytes(100_000)),
    ]
    pair.client.stop()
    assert pair.settle()[0] == [StreamEnded("FCUnpublish")]
    assert pair.server.state is State.IDLE


def test_a_client_plays_from_a_server() -> None:
    pair = Pair()
    pair.settle()
    pair.client.play("camera?token=1")
    assert pair.settle() == ([PlayRequested("live", "camera", "token=1")], [])
    pair.server.accept()
    assert pair.settle() == ([], [Started()])
    pair.server.send_video(2**32 - 5, b"picture")
    pair.server.send_audio(2**32 + 5, b"sound")
    pair.server.send_data(9, "onMetaData", {})
    assert pair.settle()[1] == [
        Video(2**32 - 5, b"picture"),
        Audio(5, b"sound"),
        Data(9, "onMetaData", ({},)),
    ]
    pair.client.stop()
    assert pair.settle()[0] == [StreamEnded("deleteStream")]


def test_the_client_can_publish_again_on_the_same_connection() -> None:
    pair = Pair()
    published(pair)
    pair.client.stop()
    pair.settle()
    pair.client.publish("KEY")
    assert pair.settle()[0] == [PublishRequested("live", "KEY", "")]


def test_a_refusal_reaches_the_client_with_code_and_text() -> None:
    pair = Pair()
    pair.settle()
    pair.client.publish("KEY")
    pair.settle()
    pair.server.reject("NetStream.Publish.BadName", "somebody else publishes here")
    expected = Refused("NetStream.Publish.BadName", "somebody else publishes here")
    assert pair.settle() == ([], [expected])
    assert pair.server.state is State.CLOSED


def test_a_running_publisher_can_be_cut_off_and_then_says_nothing_more() -> None:
    pair = Pair()
    published(pair)
    pair.server.reject("NetStream.Publish.BadName", "taken over")
    pair.client.send_video(0, b"late")
    assert pair.settle() == ([], [Refused("NetStream.Publish.BadName", "taken over")])


def test_a_client_that_can_is_asked_to_reconnect() -> None:
    pair = Pair()
    published(pair)
    assert pair.server.can_reconnect
    pair.server.request_reconnect("going down", "rtmp://other/live")
    assert pair.settle()[1] == [ReconnectRequested("rtmp://other/live", "going down")]
    pair.server.request_reconnect("again")
    assert pair.settle()[1] == [ReconnectRequested("", "again")]


@pytest.mark.parametrize(
    ("properties", "can"), [({}, False), ({"capsEx": 14}, False), ({"capsEx": 15}, True)]
)
def test_only_a_client_that_says_so_can_reconnect(
    properties: dict[str, amf.Value], can: bool
) -> None:
    encoder = Encoder()
    encoder.connect(**properties)
    assert encoder.server.can_reconnect is can


def test_connect_is_answered_in_one_write_with_our_codecs() -> None:
    encoder = Encoder()
    encoder.connect()
    heard = encoder.heard()
    assert [m.type for m in heard] == [
        MessageType.WINDOW_ACK_SIZE,
        MessageType.SET_PEER_BANDWIDTH,
        COMMAND,
    ]
    name, transaction, first, info = amf.decode(heard[2].body)
    assert (name, transaction) == ("_result", 1.0)
    assert isinstance(first, dict)
    assert isinstance(info, dict)
    assert info["code"] == "NetConnection.Connect.Success"
    assert info["objectEncoding"] == 0
    assert info["fourCcList"] == ["avc1", "hvc1", "av01", "vp09", "mp4a", "Opus", ".mp3"]
    assert info["videoFourCcInfoMap"] == {"avc1": 4, "hvc1": 4, "av01": 4, "vp09": 4}
    assert first["capsEx"] == info["capsEx"] == 5
    assert encoder.server.data_to_send() == []


def test_commands_that_only_want_an_answer_get_one() -> None:
    encoder = Encoder()
    encoder.connect()
    encoder.heard()
    for number, name in enumerate(["releaseStream", "FCPublish", "_checkbw", "unheardOf"], 2):
        encoder.call(name, number, None, "KEY")
        assert encoder.answers() == [["_result", number, None, None]]
    encoder.call("getStreamLength", 9, None, "KEY")
    assert encoder.answers() == [["_result", 9.0, None, 0.0]]


def test_gstreamer_gets_no_answer_to_transaction_0_and_may_name_its_stream_by_a_string() -> None:
    encoder = Encoder()
    encoder.connect()
    encoder.heard()
    encoder.call("releaseStream", 0, None, "KEY")
    encoder.call("FCPublish", 0, None, "KEY")
    assert encoder.answers() == []
    encoder.call("createStream", 2, None)
    assert encoder.answers() == [["_result", 2.0, None, 1.0]]
    request = encoder.call("publish", 0, None, "KEY", "live", stream=1)
    assert request == [PublishRequested("live", "KEY", "")]
    encoder.server.accept()
    [status] = encoder.answers()
    assert status[:2] == ["onStatus", 0.0]
    encoder.call("FCUnpublish", 0, None, "KEY")
    assert encoder.call("deleteStream", 0, None, "1") == []
    assert encoder.server.state is State.IDLE


def test_closing_the_stream_ends_it() -> None:
    encoder = Encoder().publishing()
    assert encoder.call("closeStream", 0, None, stream=1) == [StreamEnded("closeStream")]
    assert encoder.call("FCUnpublish", 0, None, "KEY") == []


def test_a_refused_client_is_not_listened_to_any_more() -> None:
    encoder = Encoder()
    encoder.publish()
    encoder.server.reject("NetStream.Publish.Denied", "no")
    assert encoder.call("publish", 6, None, "KEY", stream=1) == []


def test_the_status_goes_out_on_the_stream_that_asked() -> None:
    encoder = Encoder()
    encoder.publish()
    encoder.server.accept()
    heard = encoder.heard()
    assert [m.type for m in heard] == [MessageType.USER_CONTROL, COMMAND]
    assert heard[1].stream == 1
    assert heard[0].body == bytes.fromhex("0000 00000001")


def test_app_and_name_lose_their_queries_and_slashes() -> None:
    encoder = Encoder()
    encoder.connect(app="/live/?slot=b")
    encoder.call("createStream", 2, None)
    [request] = encoder.call("publish", 3, None, "KEY?token=a%20b", stream=1)
    assert request == PublishRequested("live", "KEY", "slot=b&token=a%20b")


def test_amf3_commands_and_data_of_format_0_are_read() -> None:
    encoder = Encoder()
    events = encoder.send(
        MessageType.COMMAND_AMF3, b"\x00" + amf.encode("connect", 1, {"app": "live"})
    )
    assert isinstance(events[0], Connected)
    encoder.call("createStream", 2, None)
    encoder.call("publish", 3, None, "KEY", stream=1)
    body = b"\x00" + amf.encode("onTextData", {"text": "hello"})
    assert encoder.send(MessageType.DATA_AMF3, body, 1) == [
        Data(0, "onTextData", ({"text": "hello"},))
    ]


def test_media_sent_before_the_answer_are_not_lost() -> None:
    encoder = Encoder()
    encoder.publish()
    assert encoder.send(MessageType.VIDEO, b"early", 1) == [Video(0, b"early")]


def test_a_ping_is_answered_and_other_user_control_ignored() -> None:
    encoder = Encoder()
    encoder.send(MessageType.USER_CONTROL, bytes.fromhex("0006 01020304"))
    encoder.send(MessageType.USER_CONTROL, bytes.fromhex("0003 00000001 00000bb8"))
    assert [m.body for m in encoder.heard()] == [bytes.fromhex("0007 01020304")]
    encoder.server.ping(5)
    assert [m.body for m in encoder.heard()] == [bytes.fromhex("0006 00000005")]


def test_bytes_are_acknowledged_once_a_window() -> None:
    encoder = Encoder().publishing()
    encoder.send(MessageType.WINDOW_ACK_SIZE, (5000).to_bytes(4, "big"))
    encoder.heard()
    acknowledged = []
    for _ in range(10):
        encoder.send(MessageType.AUDIO, bytes(1000), 1)
        acknowledged += [m for m in encoder.heard() if m.type == MessageType.ACKNOWLEDGEMENT]
    assert len(acknowledged) in (1, 2)


def test_a_peer_that_sets_our_bandwidth_gets_our_window() -> None:
    encoder = Encoder()
    encoder.send(MessageType.SET_PEER_BANDWIDTH, (9000).to_bytes(4, "big") + b"\x02")
    [message] = encoder.heard()
    assert (message.type, message.body) == (5, (9000).to_bytes(4, "big"))


def test_an_aggregate_message_is_taken_apart() -> None:
    encoder = Encoder().publishing()

    def tag(kind: int, time: int, body: bytes) -> bytes:
        head = bytes([kind]) + len(body).to_bytes(3, "big") + time.to_bytes(3, "big")
        return head + bytes(4) + body + bytes(4)

    body = tag(9, 500, b"one") + tag(22, 510, b"never nested") + tag(8, 540, b"two")
    events = encoder.send(MessageType.AGGREGATE, body, 1, time=1000)
    assert events == [Video(1000, b"one"), Audio(1040, b"two")]
    with pytest.raises(FormatError, match="aggregate"):
        encoder.send(MessageType.AGGREGATE, body[:20], 1)


def test_the_digest_handshake_is_answered_with_an_echo() -> None:
    server = ServerConnection()
    challenge = bytes(range(256)) * 6
    server.feed(b"\x03" + challenge)
    answer = b"".join(server.data_to_send())
    assert answer[1537:] == challenge
