"""Headers of the PROXY protocol however they are cut, and whatever they are."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import FormatError
from common.formats.proxy_protocol import MAX_BODY, MAX_LINE, SIGNATURE, Header, Reader

V4, V6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
ports = st.integers(0, 65535)
starts = st.sampled_from([b"", SIGNATURE, b"PROXY ", b"PROXY TCP4 "])
garbage = st.builds(lambda start, rest: start + rest, starts, st.binary(max_size=200))
tlvs = st.lists(st.tuples(st.integers(0, 255).filter(lambda t: t != 0x20), st.binary(max_size=40)))


def line(source: object, target: object, port: int) -> bytes:
    kind = "TCP4" if isinstance(source, ipaddress.IPv4Address) else "TCP6"
    return f"PROXY {kind} {source} {target} {port} 443\r\n".encode()


def binary(body: bytes, command: int = 0x21, kind: int = 0x11) -> bytes:
    return SIGNATURE + bytes([command, kind]) + len(body).to_bytes(2, "big") + body


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def plain(host: object) -> str:
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return str(mapped or host)


def read(data: bytes, cuts: list[int]) -> tuple[Header | None, int, bool]:
    """Return what a reader makes of pieces: the header, where it ends, whether it is none."""
    reader, end, place = Reader(), 0, 0
    for size in [*cuts, len(data)]:
        piece = data[place : place + size]
        place += len(piece)
        try:
            taken = reader.feed(piece)
        except FormatError:
            return None, 0, True
        end += taken
        if reader.header is not None:
            return reader.header, end, False
        assert taken == len(piece), "what belongs to the header is taken"
    return None, end, False


@given(
    st.one_of(st.tuples(V4, V4), st.tuples(V6, V6)),
    ports,
    st.binary(),
    st.lists(st.integers(1, 50)),
)
def test_a_line_says_who_comes_and_not_a_byte_more_is_taken(
    hosts: tuple[object, object], port: int, rest: bytes, cuts: list[int]
) -> None:
    head = line(*hosts, port)
    assert len(head) <= MAX_LINE
    assert read(head + rest, cuts) == (Header(plain(hosts[0]), port), len(head), False)


@given(
    st.one_of(V4, V6),
    ports,
    tlvs,
    st.none() | st.booleans(),
    st.binary(),
    st.lists(st.integers(1, 50)),
)
def test_so_does_a_binary_header_and_whether_it_was_over_tls(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    more: list[tuple[int, bytes]],
    secure: bool | None,
    rest: bytes,
    cuts: list[int],
) -> None:
    body = source.packed * 2 + port.to_bytes(2, "big") + b"\1\xbb"
    body += b"".join(tlv(kind, value) for kind, value in more)
    if secure is not None:
        body += tlv(0x20, bytes([secure]) + bytes(4) + tlv(0x21, b"TLSv1.3"))
    head = binary(body[:MAX_BODY], kind=0x11 if source.version == 4 else 0x21)
    if len(body) > MAX_BODY:
        return
    assert read(head + rest, cuts) == (Header(plain(source), port, bool(secure)), len(head), False)


@given(garbage, st.lists(st.integers(1, 50)))
@example(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2" + b" " * 200, [])
@example(binary(bytes(12), command=0x31), [12, 1])
def test_garbage_is_refused_or_waits_for_more_however_it_is_cut(
    data: bytes, cuts: list[int]
) -> None:
    whole = read(data, [])
    assert read(data, cuts) == whole
    header, _, refused = whole
    if header is None and not refused:
        assert len(data) < 16 + MAX_BODY


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
        b"PROXY " + b"x" * MAX_LINE,
        binary(bytes(11)),
        binary(bytes(12), command=0x22),
        binary(bytes(12), command=0x11),
        binary(bytes(12), kind=0x13),
        binary(bytes(12) + b"\x04\x00\x09x"),
        binary(bytes(12) + tlv(0x20, b"\1")),
        binary(bytes(MAX_BODY + 1)),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Reader().feed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        binary(b"", command=0x20, kind=0),
        binary(bytes(12), command=0x20),
        binary(b"", kind=0),
        binary(bytes(216), kind=0x31),
        binary(bytes(12), kind=0x12),
    ],
)
def test_who_speaks_for_itself_or_does_not_know_names_nobody(data: bytes) -> None:
    assert read(data, []) == (Header(), len(data), False)
