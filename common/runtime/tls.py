"""TLS of a listener: its settings, its certificate, and the newer one that takes its place.

The files are looked at all the time: a renewed certificate is used for the next connection, those
that are open go on. Each certificate gets an ``SSLContext`` of its own, so that nothing of the one
before is left (a key of another kind would be), and a broken file never comes near a listener.
"""

import asyncio
import os
import ssl
import time
from pathlib import Path

from common.errors import ConfigError, FormatError
from common.runtime import metrics
from common.runtime.loader import Settings
from common.runtime.logs import Log

log = Log("tls")

LOOK = 0.5
"""Seconds between two looks at the files. What has changed is loaded once it has not changed since
the look before: certificate and key are two files, and seldom written at the same moment."""

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of TLS 1.3 are all good."""

SOON = 14 * 86400.0
"""Seconds before its end from which a certificate is warned of."""


class TlsSettings(Settings, frozen=True):
    """``[tls]``: HTTPS besides HTTP, once there is a ``certificate``."""

    listen: str = ""
    """Where HTTPS comes in. Needed if there is a certificate; usually ``[::]:443``."""

    certificate: str = ""
    """PEM file with the certificate, and those between it and its authority. A new file is used
    within a second, without a restart; while one cannot be used, the certificate before is."""

    key: str = ""
    """PEM file with the private key; that of the certificate if not set."""

    def check(self, section: str) -> None:
        """Refuse settings that do not fit together.

        Raises:
            ConfigError: If one of address and certificate is missing, or the files are no good.
        """
        if self.certificate and not self.listen:
            raise ConfigError(f"{section}.listen", "is needed for a certificate, such as [::]:443")
        if (self.listen or self.key) and not self.certificate:
            raise ConfigError(f"{section}.certificate", "is needed for HTTPS: the path of a file")
        if self.certificate:
            Certificate(self, section)


class Certificate:
    """The certificate of a listener, always the newest good one."""

    def __init__(self, settings: TlsSettings, section: str) -> None:
        """Load it.

        Raises:
            ConfigError: If it cannot be used.
        """
        self._paths = [settings.certificate, settings.key or settings.certificate]
        self._seen = self._tried = self._look()
        try:
            self.context, self.ends = self._load()
        except (OSError, FormatError) as error:
            raise ConfigError(f"{section}.certificate", self._explain(error)) from error

    async def follow(self) -> None:
        """Use newer files as they come, until cancelled."""
        self._use()
        while True:
            await asyncio.sleep(LOOK)
            self.look()

    def look(self) -> bool:
        """Load the files if they are others, and whole; return whether they are used now."""
        before, self._seen = self._seen, self._look()
        if self._seen == self._tried or self._seen != before:
            return False
        self._tried = self._seen
        try:
            self.context, self.ends = self._load()
        except (OSError, FormatError) as error:
            metrics.TLS_RELOADS.labels("failed").inc()
            why = f"{self._explain(error)}; the one before is used on"
            log.error("certificate not loaded", extra={"error": why})
            return False
        metrics.TLS_RELOADS.labels("loaded").inc()
        log.info("certificate loaded", extra={"file": self._paths[0]})
        self._use()
        return True

    def _use(self) -> None:
        metrics.TLS_EXPIRY.set(self.ends)
        left = self.ends - time.time()
        if left < SOON:
            extra = {"file": self._paths[0], "days": round(left / 86400, 1)}
            log.warning(
                "certificate ends soon" if left > 0 else "certificate has ended", extra=extra
            )

    def _look(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                status = os.stat(path)
            except OSError:
                found.append(None)
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found

    def _load(self) -> tuple[ssl.SSLContext, float]:
        fresh = context()
        certificate, key = self._paths
        fresh.load_cert_chain(certificate, key, _no_password)
        return fresh, expiry(Path(self._paths[0]).read_text("ascii", "replace"))

    def _explain(self, error: Exception) -> str:
        missing = next((path for path in self._paths if not os.access(path, os.R_OK)), None)
        if missing is not None:
            return f"{missing} is not there, or this user may not read it"
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            return f"the key in {self._paths[1]} is not that of the certificate"
        return f"{self._paths[0]} and {self._paths[1]} cannot be used: {error}"


def _no_password() -> str:
    """A key with a password would have OpenSSL ask for it on the terminal."""
    return ""


def context() -> ssl.SSLContext:
    """Return a server's context without a certificate: TLS 1.2 and 1.3, for HTTP/1.1."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(CIPHERS)
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    made.set_alpn_protocols(["http/1.1"])
    return made


def expiry(pem: str) -> float:
    """Return the Unix time at which the first certificate of a PEM text ends (RFC 5280, 4.1.2.5).

    Raises:
        FormatError: If there is none.
    """
    begin = pem.find(ssl.PEM_HEADER)
    end = pem.find(ssl.PEM_FOOTER, begin)
    try:
        der = ssl.PEM_cert_to_DER_cert(pem[begin : end + len(ssl.PEM_FOOTER)])
        body = _inside(_inside(der)[0])  # Certificate, TBSCertificate
        fields = body[1:] if der and body[0][:1] == b"\xa0" else body  # without the version
        last = _inside(fields[3])[1]  # validity, notAfter
        text = last[2:].decode("ascii")
        year = text if last[0] == _GENERALIZED_TIME else ("19" if text >= "50" else "20") + text
        return ssl.cert_time_to_seconds(_as_printed(year))
    except (ValueError, IndexError) as error:
        raise FormatError(f"no certificate in PEM: {error}") from error


_GENERALIZED_TIME = 0x18
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _as_printed(digits: str) -> str:
    """Return ``YYYYMMDDHHMMSSZ`` as OpenSSL prints it."""
    year, month, day, clock = digits[:4], int(digits[4:6]), digits[6:8], digits[8:14]
    return f"{_MONTHS[month - 1]} {day} {clock[:2]}:{clock[2:4]}:{clock[4:]} {year} GMT"


def _inside(der: bytes) -> list[bytes]:
    """Return the elements within a constructed DER element (X.690, 8.1), each with its header."""
    content, found = der[_header(der) :], []
    while content:
        size = _header(content) + _length(content)
        found.append(content[:size])
        content = content[size:]
    return found


def _header(der: bytes) -> int:
    return 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)


def _length(der: bytes) -> int:
    return der[1] if der[1] < 0x80 else int.from_bytes(der[2 : _header(der)])
