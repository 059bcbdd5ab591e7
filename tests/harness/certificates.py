"""Certificates made by openssl, and clients that trust them."""

import os
import ssl
import subprocess
from pathlib import Path

EC = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
RSA = ("rsa:2048",)


def make(
    folder: Path, name: str, *, days: int = 30, kind: tuple[str, ...] = EC
) -> tuple[Path, Path]:
    """Make a self-signed certificate for 127.0.0.1 and its key; return both files."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-newkey", *kind, "-days", str(days)),
            *("-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def install(source: Path, target: Path) -> None:
    """Put a file where another one is, in one step."""
    fresh = target.with_suffix(".new")
    fresh.write_bytes(source.read_bytes())
    os.replace(fresh, target)


def client(*trusted: Path) -> ssl.SSLContext:
    """Return the context of a client that trusts these certificates alone."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for path in trusted:
        made.load_verify_locations(path)
    return made
