"""TLS: certificates that change, and connections that take little memory."""

import asyncio
import inspect
import os
import ssl
import subprocess
import warnings
from asyncio import sslproto
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.errors import ConfigError, FormatError
from common.runtime import door, lean_tls, listen, tls
from common.runtime.door import Crowd, Door
from common.runtime.tls import Certificate, TlsSettings
from tests.harness import certificates

SOON = 5.0


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return certificates.make(tmp_path, "first")


def settings(files: tuple[Path, Path]) -> TlsSettings:
    return TlsSettings("[::]:8443", str(files[0]), str(files[1]))


def replaced(found: Certificate) -> bool:
    """Look until the files have not changed since the look before."""
    return found.look() or found.look()


def test_the_end_of_a_certificate_is_what_openssl_says(files: tuple[Path, Path]) -> None:
    said = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate", "-in", str(files[0])],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ends = ssl.cert_time_to_seconds(said.strip().partition("=")[2])
    assert tls.expiry(files[0].read_text()) == ends
    assert Certificate(settings(files), "edge.tls").ends == ends


def test_an_end_after_2049_is_read_too(tmp_path: Path) -> None:
    certificate, _ = certificates.make(tmp_path, "late", days=365 * 60)
    assert tls.expiry(certificate.read_text()) > ssl.cert_time_to_seconds("Jan 1 0:0:0 2080 GMT")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\nMAAwAA==\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\nMIMwMIMw\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_certificate_is_a_format_error(text: str) -> None:
    with pytest.raises(FormatError):
        tls.expiry(text)


def test_settings_that_do_not_fit_say_what_to_change(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    certificate, key = map(str, files)
    _, other = certificates.make(tmp_path, "other")
    wrong = {
        "edge.tls.listen: is needed": TlsSettings("", certificate, key),
        "edge.tls.certificate: is needed": TlsSettings("[::]:8443"),
        "is not there, or this user may not read it": TlsSettings(":8443", "/no/file"),
        "is not that of the certificate": TlsSettings(":8443", certificate, str(other)),
        "cannot be used": TlsSettings(":8443", key),
    }
    for words, one in wrong.items():
        with pytest.raises(ConfigError) as raised:
            one.check("edge.tls")
        assert words in str(raised.value)
    TlsSettings().check("edge.tls")


def test_a_new_certificate_is_taken_and_a_broken_one_is_not(
    tmp_path: Path, files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    found = Certificate(settings(files), "edge.tls")
    before = found.context
    assert not replaced(found)
    good, key = certificates.make(tmp_path, "second", days=90)
    certificates.install(good, files[0])
    assert not replaced(found), "with the key of another certificate"
    assert "certificate not loaded" in caplog.text
    assert not replaced(found)
    assert caplog.text.count("certificate not loaded") == 1, "once is enough"
    assert found.context is before
    certificates.install(key, files[1])
    assert replaced(found)
    assert found.context is not before
    assert found.ends == tls.expiry(good.read_text())
    before = found.context
    files[0].write_text("half a cert")
    assert not replaced(found)
    files[1].unlink()
    assert not replaced(found)
    assert found.context is before


def test_what_is_still_being_written_is_not_loaded(files: tuple[Path, Path]) -> None:
    found = Certificate(settings(files), "edge.tls")
    for moment in (1, 2, 3):
        os.utime(files[0], ns=(moment, moment))
        assert not found.look()
    assert found.look()


@dataclass
class Echo(asyncio.Protocol):
    """Answers with what it was sent, ``times`` as often."""

    visit: door.Visit
    times: int = 1
    transport: asyncio.Transport = field(init=False)
    lost: bool = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for _ in range(self.times):
            self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.visit.end()


@dataclass
class Place:
    """A door over TLS, and who came in."""

    door: Door
    crowd: Crowd
    guests: list[Echo]
    certificate: Certificate
    address: tuple[str, int]

    async def visit(
        self, context: ssl.SSLContext, limit: int = 2**16
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address, ssl=context, limit=limit)


@asynccontextmanager
async def place(files: tuple[Path, Path], times: int = 1) -> AsyncIterator[Place]:
    listener = listen.bind("127.0.0.1:0")
    crowd = door.Crowd(100)
    guests: list[Echo] = []

    def guest(visit: door.Visit) -> Echo:
        guests.append(Echo(visit, times))
        return guests[-1]

    certificate = Certificate(settings(files), "edge.tls")
    address = listener.getsockname()
    made = door.Door(listener, guest, crowd, certificate)
    try:
        yield Place(made, crowd, guests, certificate, address)
    finally:
        made.close()
        for one in guests:
            if hasattr(one, "transport"):
                one.transport.abort()
        await until(lambda: not crowd.here)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not true():  # noqa: ASYNC110 - state of the event loop
            await asyncio.sleep(0.005)


async def test_a_connection_gets_the_newest_certificate_and_keeps_its_own(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    first, second = tmp_path / "one.crt", certificates.make(tmp_path, "two", kind=certificates.RSA)
    first.write_bytes(files[0].read_bytes())
    async with place(files) as here:
        reader, writer = await here.visit(certificates.client(first))
        for source, target in zip(second, files, strict=True):
            certificates.install(source, target)
        assert replaced(here.certificate)
        _, other = await here.visit(certificates.client(second[0]))
        with pytest.raises(ssl.SSLCertVerificationError):
            await here.visit(certificates.client(first))
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        writer.close()
        other.close()


async def test_old_versions_of_tls_are_refused(files: tuple[Path, Path]) -> None:
    old = certificates.client(files[0])
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with place(files) as here:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await here.visit(old)
        await until(lambda: not here.crowd.here)
        assert not here.door.pending


async def test_who_says_nothing_instead_of_a_handshake_is_cut(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "HANDSHAKE", 0.05)
    async with place(files) as here:
        reader, writer = await asyncio.open_connection(*here.address)
        await until(lambda: here.crowd.here == 1)
        async with asyncio.timeout(SOON):
            assert await reader.read() == b""
        await until(lambda: not here.crowd.here)
        writer.close()


async def test_what_is_written_arrives_however_slowly_it_is_read(files: tuple[Path, Path]) -> None:
    """8 MB through a socket that takes a little at a time, and as much the other way."""
    sent = os.urandom(1 << 20)
    async with place(files, times=8) as here:
        reader, writer = await here.visit(certificates.client(files[0]), limit=4096)
        writer.write(sent)
        got = bytearray()
        while len(got) < 8 * len(sent):
            piece = await reader.read(65536)
            assert piece
            got += piece
        assert sorted(got) == sorted(sent * 8)
        writer.close()


async def test_what_waits_for_a_viewer_is_shared_plaintext(files: tuple[Path, Path]) -> None:
    async with place(files) as here:
        reader, writer = await here.visit(certificates.client(files[0]), limit=1)
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        writer.write(b"x")
        await until(lambda: bool(here.guests and hasattr(here.guests[0], "transport")))
        transport = here.guests[0].transport
        body = bytes(64 << 20)
        transport.write(body)
        transport.write(body)
        protocol = transport._ssl_protocol  # type: ignore[attr-defined]
        assert protocol._outgoing.pending == 0
        assert protocol._write_backlog[-1] is body
        assert transport.get_write_buffer_size() > len(body)
        writer.transport.abort()
        assert reader is not None


async def test_all_connections_read_into_one_buffer(files: tuple[Path, Path]) -> None:
    async with place(files) as here:
        guests = [await here.visit(certificates.client(files[0])) for _ in range(3)]
        await until(lambda: all(hasattr(one, "transport") for one in here.guests))
        held = {
            id(one.transport._ssl_protocol._ssl_buffer)  # type: ignore[attr-defined]
            for one in here.guests
        }
        assert len(held) == 1
        for number, (reader, writer) in enumerate(guests):
            writer.write(b"%d" % number)
            assert await reader.readexactly(1) == b"%d" % number
            writer.close()


def test_asyncio_still_has_what_the_lean_protocol_uses() -> None:
    """If this fails, Python has changed: adapt LeanProtocol in common/runtime/lean_tls.py."""
    source = inspect.getsource(sslproto.SSLProtocol)
    for name in (
        *("_ssl_buffer", "_ssl_buffer_view", "_ssl_writing_paused", "_write_backlog", "_outgoing"),
        *("_sslobj", "_write_buffer_size", "_transport", "max_size"),
    ):
        assert name in source, f"SSLProtocol has no {name} any more"
    for name in ("_do_write", "_process_outgoing", "resume_writing", "buffer_updated"):
        assert callable(getattr(sslproto.SSLProtocol, name, None)), f"no {name} any more"
    assert "self._incoming.write(self._ssl_buffer_view[:nbytes])" in source
    assert sslproto.SSLProtocol.max_size > lean_tls.RECORD
