"""Who may publish what: keys, open streams, wildcards. Keys are kept as hashes only."""

import hmac
import secrets
from collections.abc import Mapping
from hashlib import blake2b

from common.errors import AccessDenied, FormatError, StreamNotFound
from common.names import base_name, check_name
from common.runtime.config import StreamSettings, stream_settings

MAX_KEY = 256
"""Letters of a publisher's key. A longer one is refused like a wrong one."""

_REFUSED = "the stream key is wrong, or this stream takes no publishers"


class Keyring:
    """The keys of the configured streams."""

    def __init__(self, streams: Mapping[str, StreamSettings]) -> None:
        # Under a key of this process a hash says nothing, also in a core dump.
        self._salt = secrets.token_bytes(32)
        self._streams = streams
        self._hashes: list[tuple[bytes, str]] = []
        self.refresh()

    def refresh(self) -> None:
        """Use the keys as they are now: the streams that were given have changed."""
        self._hashes = [
            (self.digest(settings.key), name)
            for name, settings in self._streams.items()
            if settings.key
        ]

    def digest(self, key: str) -> bytes:
        """Return what may be kept of a key."""
        return blake2b(key.encode(errors="replace"), key=self._salt, digest_size=32).digest()

    def settings(self, name: str) -> StreamSettings | None:
        """Return the settings of a stream: its own, or those of its base."""
        return stream_settings(self._streams, name)

    def resolve(self, name: str, key: str | None) -> str:
        """Return the stream that ``key`` may publish, asked for as ``name``.

        Raises:
            AccessDenied: If it may none.
            StreamNotFound: If the key is right and the name is not one.
        """
        if key is None:
            return _checked(name)
        if len(key) > MAX_KEY:
            raise AccessDenied(_REFUSED)
        for secret, wildcard in _readings(key):
            base = self._match(secret)
            if base is not None:
                if base_name(name) == base_name(base) and not wildcard and self.settings(name):
                    return _checked(name)
                return _checked(f"{base}+{wildcard}" if wildcard else base)
        # ``rtmp://host/live/alice`` names an open stream by its key as well as by its application.
        for candidate in (key, name):
            settings = self.settings(candidate) if candidate else None
            if settings is not None and settings.open:
                return _checked(candidate)
        raise AccessDenied(_REFUSED)

    def _match(self, key: str) -> str | None:
        """Return the stream of a key; every one is compared, in constant time."""
        digest = self.digest(key)
        found = None
        for known, name in self._hashes:
            if hmac.compare_digest(known, digest):
                found = name
        return found


def _readings(key: str) -> list[tuple[str, str]]:
    """Return ways to read ``KEY`` or ``KEY+wildcard``."""
    secret, _, wildcard = key.partition("+")
    return [(key, ""), (secret, wildcard)] if wildcard else [(key, "")]


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except FormatError as error:
        raise StreamNotFound(str(error)) from error
