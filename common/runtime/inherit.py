"""Sockets and state that this process was given when it began: by systemd, or by its own past.

A socket unit of systemd passes listening sockets (``LISTEN_FDS``, sd_listen_fds(3)): one is used
for the setting that its name (``FileDescriptorName=edge.http``) or else its address fits. A node
that restarts executes itself again (:mod:`common.runtime.restart`) and passes its sockets, and what
its role wrote down, in an unnamed file whose descriptor ``HEADWATER_HANDOVER`` names. Either way no
connection is refused meanwhile: it waits in the backlog.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from common.errors import ConfigError

VARIABLE = "HEADWATER_HANDOVER"

_SYSTEMD_FIRST = 3
MAX_PASSED = 256
"""Sockets that systemd may pass. More are a mistake: the node does not start."""


class Passed(msgspec.Struct, frozen=True):
    """What was bound for one setting."""

    address: str
    """As the configuration had it: with another one it is bound anew."""

    fds: list[int] = []
    port: int = 0
    """For a socket that cannot be passed on (ZeroMQ): the port to bind again."""


class Handover(msgspec.Struct, frozen=True):
    """All that one image of a process leaves to the next."""

    sockets: dict[str, Passed] = {}
    generation: int = 0
    """How often the process has restarted."""

    state: dict[str, Any] = {}
    """What the role wrote down."""


@dataclass(slots=True)
class Estate:
    """What was inherited and is still to be claimed, and what is bound now."""

    handover: Handover = field(default_factory=Handover)
    named: dict[str, list[socket.socket]] = field(default_factory=dict)
    """From systemd, by name."""

    bound: dict[str, tuple[str, list[socket.socket], int]] = field(default_factory=dict)
    """Address, sockets and port by setting."""

    def claim(self, setting: str, address: str, target: tuple[str, int]) -> list[socket.socket]:
        """Return the listening sockets that are there for ``setting`` already, if any.

        ``target`` is host and port of ``address``; each socket is given away once.
        """
        passed = self.handover.sockets.get(setting)
        if passed is not None:
            sockets = dict(self.handover.sockets)
            del sockets[setting]
            self.handover = msgspec.structs.replace(self.handover, sockets=sockets)
            found = [socket.socket(fileno=fd) for fd in passed.fds]
            if passed.address == address and found:
                return found
            for one in found:
                one.close()
        return self.named.pop(setting, None) or self._at(target)

    def _at(self, target: tuple[str, int]) -> list[socket.socket]:
        """Return the socket of systemd's that is bound to ``target``, whatever it is called."""
        host, port = target
        for name, found in self.named.items():
            for one in found if port else ():
                bound = one.getsockname()
                if one.type == socket.SOCK_STREAM and bound[:2] == (host, port):
                    found.remove(one)
                    if not found:
                        del self.named[name]
                    return [one]
        return []

    def port(self, setting: str, address: str) -> int:
        """Return the port that ``setting`` had before, 0 if there is none to be bound again."""
        passed = self.handover.sockets.get(setting)
        return passed.port if passed is not None and passed.address == address else 0

    def note(self, setting: str, address: str, sockets: list[socket.socket], port: int = 0) -> None:
        """Remember what was bound, for :meth:`passing`."""
        self.bound[setting] = (address, sockets, port)

    def addresses(self) -> dict[str, str]:
        """Return the address of every setting that is bound."""
        return {setting: address for setting, (address, _, _) in self.bound.items()}

    def passing(self) -> dict[str, Passed]:
        """Return what the next image gets: duplicates, which outlive the sockets that are open."""
        found = {}
        for setting, (address, sockets, port) in self.bound.items():
            fds = [os.dup(one.fileno()) for one in sockets if one.fileno() >= 0]
            if fds or port:
                found[setting] = Passed(address, fds, port)
        return found


def receive(environ: MutableMapping[str, str] = os.environ) -> Estate:
    """Take what this process was given, and keep it from its children.

    Raises:
        ConfigError: If a variable names what is not there.
    """
    estate = Estate(_handover(environ), _from_systemd(environ))
    fds = [fd for passed in estate.handover.sockets.values() for fd in passed.fds]
    for fd in fds:
        os.set_inheritable(fd, False)
    return estate


def _handover(environ: MutableMapping[str, str]) -> Handover:
    text = environ.pop(VARIABLE, "")
    if not text:
        return Handover()
    try:
        with os.fdopen(int(text), "rb") as file:
            file.seek(0)
            return msgspec.json.decode(file.read(), type=Handover)
    except (ValueError, OSError, msgspec.MsgspecError) as error:
        raise ConfigError(VARIABLE, f"is set by a process that restarts itself: {error}") from error


def _from_systemd(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    given = {name: environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES")}
    if given["PID"] != str(os.getpid()):
        return {}
    try:
        count = int(given["FDS"])
        if not 0 <= count <= MAX_PASSED:
            raise ValueError(f"{count} sockets")
        names = given["FDNAMES"].split(":") if given["FDNAMES"] else []
        names += ["unknown"] * (count - len(names))
        found: dict[str, list[socket.socket]] = {}
        for fd, name in enumerate(names[:count], _SYSTEMD_FIRST):
            os.set_inheritable(fd, False)
            found.setdefault(name, []).append(socket.socket(fileno=fd))
        return found
    except (ValueError, OSError) as error:
        raise ConfigError("LISTEN_FDS", f"does not name listening sockets: {error}") from error


def leave(
    sockets: Mapping[str, Passed], state: Mapping[str, Any], generation: int, fds: list[int]
) -> int:
    """Write down what the next image gets; return the descriptor for ``VARIABLE``.

    ``fds`` are descriptors besides the sockets that it is to find open.
    """
    data = msgspec.json.encode(Handover(dict(sockets), generation, dict(state)))
    file = os.memfd_create("headwater-handover", 0)
    os.write(file, data)
    for fd in (*fds, *(fd for passed in sockets.values() for fd in passed.fds)):
        os.set_inheritable(fd, True)
    return file


_estate: Estate | None = None


def estate() -> Estate:
    """Return what this process was given, taking it at the first call."""
    global _estate  # a process has one set of inherited descriptors
    if _estate is None:
        _estate = receive()
    return _estate
