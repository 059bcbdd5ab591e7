"""What a node that takes streams in answers to its siblings: joins and pulls, from its own pages.

An edge publishes nothing. When the origin is gone, or has not got a record any more, the other
edges may still be helped by what it holds; it fetches nothing for them.
"""

import socket
from collections.abc import Callable

from common.bus.access import Access, Rules
from common.bus.answers import Reach
from common.bus.backfill import Run
from common.bus.controls import Controls
from common.bus.intake import Intake
from common.runtime.curve import PLAIN, Authenticator, Guard
from common.runtime.machine import HERE, Machine

PRUNE_US = 1_000_000


class Desk:
    """The control socket of an edge, in the running event loop."""

    def __init__(
        self,
        address: str | socket.socket,
        intake: Intake,
        *,
        node: str,
        rate: int,
        guard: Guard = PLAIN,
        rules_of: Callable[[str], Rules] = lambda _: (),
        machine: Machine = HERE,
    ) -> None:
        """Listen on ``address``, or on a socket that listens already; ``rate``: bytes a second.

        ``rules_of`` tells which nodes may have a stream, as at its origin.

        Raises:
            ListenError: If the address cannot be bound.
        """
        self._intake = intake
        self._prune_due_us = 0
        self._now = machine.mono_us
        self._context = machine.context(1)
        self._authenticator = Authenticator(self._context, guard, machine.address_of)
        try:
            self._controls = Controls(
                self._context,
                address,
                intake.find,
                self._authenticator,
                node=node,
                rate=rate,
                now_us=self._now,
                beyond=self,
                setting="edge.control",
                access=Access(guard, rules_of),
            )
        except BaseException:
            self._authenticator.close()
            self._context.destroy(linger=0)
            raise
        self.port = self._controls.port

    def awaited(self, stream: str) -> bool:
        """Return whether the stream is about to be here: a sibling does not wait for it."""
        return False

    def reach(self, stream: str) -> Reach:
        """Return where the tracks are of which nothing is held yet."""
        receiver = self._intake.receiver(stream)
        places = receiver.reach() if receiver is not None else {}
        return {track: (head, head) for track, (_, head) in places.items()}

    def fetch(self, stream: str, run: Run) -> bool:
        """Return whether records will come: nothing is fetched for a sibling."""
        return False

    def tick(self) -> None:
        """Forget who has gone: call it now and then."""
        if self._now() >= self._prune_due_us:
            self._prune_due_us = self._now() + PRUNE_US
            self._controls.prune()

    def close(self) -> None:
        """Stop answering."""
        self._controls.close()
        self._authenticator.close()
        self._context.destroy(linger=0)
