"""A second process of the new version that serves while a node executes itself again.

For a role with one process and nothing to hand over but its sockets. Before it restarts it starts
its own command line as a child, on the same sockets (:func:`appoint`); when that serves, the node
lets its clients go and executes the program again; when the new image serves as well, it dismisses
the stand-in (:func:`dismiss`). A new version that cannot serve therefore never gets the word. A
stand-in (:func:`channel` is not None) does not register, and gossips nothing of itself.
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import NodeUnavailable
from common.runtime import inherit
from common.runtime.control import Channel, pair
from common.runtime.logs import Log
from common.runtime.restart import Legacy, command
from common.runtime.tasks import Adopted, ended, spawn_child, stop_child

log = Log("stand-in")

VARIABLE = "HEADWATER_STAND_IN"
TIMEOUT = 30.0
"""Seconds within which a stand-in has to serve."""

LONGEST = 30.0
"""Seconds that one which was dismissed may take to let its clients go."""


@dataclass(frozen=True, slots=True)
class StandIn:
    """A process that serves in our place."""

    pid: int
    channel: Channel

    def legacy(self, state: Mapping[str, Any]) -> Legacy:
        """Return ``state`` and what the next image has to know of it, unless it has died by now."""
        if self.channel.closed:
            return Legacy(state)
        control, _ = self.channel.leave()
        return Legacy({**state, "pid": self.pid, "control": control}, [control])


async def appoint(state: Mapping[str, Any]) -> StandIn:
    """Start a stand-in and wait until it serves; ``state`` is what it finds in its estate.

    Raises:
        NodeUnavailable: If it does not get that far.
    """
    estate = inherit.estate()
    passed = {name: one for name, one in estate.passing().items() if one.fds}
    fds = [fd for one in passed.values() for fd in one.fds]
    file = inherit.leave(passed, state, estate.handover.generation, [])
    ours, theirs = pair()
    try:
        process = await spawn_child(
            command(),
            pass_fds=[file, theirs.fileno(), *fds],
            environment={inherit.VARIABLE: str(file), VARIABLE: str(theirs.fileno())},
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        for fd in (file, *fds):
            os.close(fd)
    channel = Channel(ours)
    try:
        async with asyncio.timeout(TIMEOUT):
            if await anext(channel, None) != {"t": "ready"}:
                raise NodeUnavailable("the process that was to serve meanwhile ended; see its log")
    except BaseException as error:
        channel.close()
        await stop_child(process)
        if isinstance(error, TimeoutError):
            raise NodeUnavailable("the new version does not get ready") from error
        raise
    return StandIn(process.pid, channel)


def channel() -> Channel | None:
    """Return the channel to the process that this one stands in for, None if it is no stand-in.

    On it a stand-in says that it is ready, and stops when it is told to or when it ends.
    """
    given = os.environ.pop(VARIABLE, "")
    if not given:
        return None
    os.set_inheritable(int(given), False)
    return Channel(int(given))


async def dismiss(state: Mapping[str, Any] | None = None) -> None:
    """Let the stand-in of the earlier image go, if there is one; wait for its end."""
    state = inherit.estate().handover.state if state is None else state
    if "pid" not in state:
        return
    os.set_inheritable(int(state["control"]), False)
    control = Channel(int(state["control"]))
    control.send({"t": "stop"})
    process = Adopted(int(state["pid"]))
    try:
        async with asyncio.timeout(LONGEST):
            await ended(process)
    except TimeoutError:
        log.warning("stand-in does not end", extra={"pid": process.pid})
    finally:
        control.close()
        if process.returncode is None:
            await stop_child(process)
