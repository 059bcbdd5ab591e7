"""The CURVE key pair of a node: one file, readable by its user alone.

The public half goes into the registry, so that the other nodes know whom they speak with. The
secret half leaves the file for the sockets of this process and nothing else.
"""

import contextlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from common.errors import ConfigError

LENGTH = 40
"""Letters of a key in Z85."""

SETTING = "node.keys"


@dataclass(frozen=True, slots=True)
class Keys:
    """A key pair in Z85."""

    public: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> "Keys":
        """Return a pair that nobody had before."""
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    @classmethod
    def load(cls, path: Path) -> "Keys":
        """Return the pair that a file keeps; make the file if there is none.

        Raises:
            ConfigError: If others can read the file, it is damaged, or it cannot be made.
        """
        try:
            if not path.exists():
                with contextlib.suppress(FileExistsError):  # another process was faster
                    cls.new().save(path, replace=False)
            text, mode = path.read_text(), path.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(SETTING, f"cannot use {path}: {error}") from error
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(SETTING, f"others can read {path}: run chmod 600 {path}")
        secret = text.strip()
        if not is_key(secret):
            reason = f"{path} holds no key: remove it, and the node makes a new one"
            raise ConfigError(SETTING, reason)
        return cls(zmq.curve_public(secret.encode()).decode(), secret)

    def save(self, path: Path, *, replace: bool = True) -> None:
        """Write the file whole or not at all.

        Raises:
            FileExistsError: If there is one already that is not to be replaced.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        new.unlink(missing_ok=True)
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(self.secret + "\n")
                file.flush()
                os.fsync(file.fileno())
            if replace:
                new.replace(path)
            else:
                os.link(new, path)
        finally:
            new.unlink(missing_ok=True)


def is_key(text: str) -> bool:
    """Return whether this is a key in Z85."""
    if len(text) != LENGTH or not text.isascii():
        return False
    try:
        return len(z85.decode(text.encode())) == 32
    except (ValueError, KeyError):
        return False
