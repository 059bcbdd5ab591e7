"""Asking Consul again and again for what is new, and believing what it said when it is silent."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from common.runtime import metrics
from common.runtime.consul import Answer, ConsulDenied, ConsulDown
from common.runtime.consul_entries import Health
from common.runtime.logs import Log
from common.runtime.tasks import Backoff

T = TypeVar("T")

MAX_WATCHES = 20
"""Questions of a process that may wait for news at a time; a Consul agent takes 200 connections
from one address. What is more than that is asked every ``POLL`` seconds."""

POLL = 10.0
BURST, RATE = 5.0, 2.0
"""Answers that may come at once, and that may come each second from then on."""

PER_ITEM = 0.0005
"""Seconds to wait for each item of an answer: a long list is not fetched at every change."""

log = Log("consul")


@dataclass(slots=True)
class _Belief(Generic[T]):
    value: T
    health: Health
    until: float


class Believed(Generic[T]):
    """What was last seen of some things by name, and until when it is believed.

    What Consul itself calls dead, or has forgotten because it was set up anew, is believed for
    ``hold`` seconds, in which those that live say so again. What it cannot tell about is believed
    for ``keep`` seconds.
    """

    def __init__(self, hold: float, keep: float) -> None:
        self._hold = hold
        self._keep = keep
        self._known: dict[str, _Belief[T]] = {}

    def update(self, now: float, seen: Mapping[str, tuple[T, Health]], rebuilt: bool) -> None:
        """Take in what Consul says; ``rebuilt`` if it seems to have lost its memory."""
        for name in list(self._known):
            if name not in seen:
                self._missing(name, now, rebuilt)
        for name, (value, health) in seen.items():
            known = self._known.get(name)
            if health is Health.CERTAIN:
                self._known[name] = _Belief(value, health, float("inf"))
            elif known is not None and known.health is health:
                known.value = value
            elif health is Health.DOUBTFUL or known is not None:
                span = self._keep if health is Health.DOUBTFUL else self._hold
                until = now + span if known is None else min(known.until, now + span)
                self._known[name] = _Belief(value, health, until)

    def _missing(self, name: str, now: float, rebuilt: bool) -> None:
        known = self._known[name]
        if rebuilt:
            known.health, known.until = Health.DEAD, min(known.until, now + self._hold)
        elif known.until == float("inf") or known.until <= now or known.health is Health.DOUBTFUL:
            del self._known[name]

    def put(self, name: str, value: T) -> None:
        """Note what this process knows best."""
        self._known[name] = _Belief(value, Health.CERTAIN, float("inf"))

    def drop(self, name: str) -> None:
        """Forget one."""
        self._known.pop(name, None)

    def doubt(self, until: float) -> None:
        """Believe what there is until then, unless it is seen again."""
        for belief in self._known.values():
            belief.until = min(belief.until, until)

    def all(self, now: float) -> dict[str, T]:
        """Return what is believed."""
        return {name: b.value for name, b in self._known.items() if b.until > now}

    def get(self, name: str, now: float) -> T | None:
        """Return one of them."""
        belief = self._known.get(name)
        return belief.value if belief is not None and belief.until > now else None

    def certain(self, name: str) -> bool:
        """Return whether Consul says so right now."""
        belief = self._known.get(name)
        return belief is not None and belief.health is Health.CERTAIN


class Places:
    """How many more questions may wait for news."""

    def __init__(self, most: int = MAX_WATCHES) -> None:
        self._free = most

    def take(self) -> bool:
        """Take a place; return whether there was one."""
        self._free -= 1
        return self._free >= 0


class Watch:
    """One question to Consul, asked for as long as the process runs."""

    def __init__(
        self,
        name: str,
        ask: Callable[[int, float], Awaitable[Answer]],
        changed: Callable[[Any, bool], None],
        *,
        wait: float,
        places: Places,
        memory: Path | None = None,
        loud: bool = True,
    ) -> None:
        """``changed`` gets each new answer, and whether Consul was set up anew since the last.

        ``memory`` is a file for the last answer, for whoever is started while Consul is away;
        ``loud``: to have no answer is worth a warning.
        """
        self._loud = loud
        self.name = name
        self.tried = asyncio.Event()
        """It has been asked once, with or without an answer."""
        self.answered = False
        self.error = ""
        self._ask = ask
        self._changed = changed
        self._wait = wait
        self._blocking = places.take()
        self._memory = memory
        self._newest = 0
        self._last: Any = None
        self._tokens, self._then = BURST, time.monotonic()

    def recall(self, keep: float) -> float:
        """Take in the answer of an earlier process, if there is one younger than ``keep``.

        Returns:
            The Unix time of that answer, 0 if there is none.
        """
        try:
            tree = json.loads(self._memory.read_text()) if self._memory else {}
            saved, value = float(tree["saved"]), tree["answer"]
        except (OSError, ValueError, LookupError, TypeError):
            return 0.0
        if not 0 <= time.time() - saved < keep or not isinstance(value, list):
            return 0.0
        self._changed(value, False)
        return saved

    async def run(self) -> None:
        """Ask, until cancelled."""
        backoff = Backoff(first=0.5, longest=min(10.0, max(self._wait, 0.5)))
        index = 0
        while True:
            try:
                answer = await self._ask(index, self._wait)
            except (ConsulDown, ConsulDenied) as error:
                index = 0  # the next answer is to come at once
                self._failed(str(error))
                await backoff.wait()
                continue
            index = await self._heard(answer)

    async def _heard(self, answer: Answer) -> int:
        """Take in an answer, and wait until the next may be asked for; return its index."""
        rebuilt = answer.index < self._newest
        self._newest = answer.index
        if self.error and self._loud:
            log.info("consul answers again", extra={"question": self.name})
        self.error = ""
        if rebuilt or not self.answered or answer.value != self._last:
            self.answered, self._last = True, answer.value
            self._changed(answer.value, rebuilt)
            if self._memory is not None:
                await asyncio.to_thread(_save, self._memory, answer.value)
        self.tried.set()
        pause = self._pause() if self._blocking else POLL
        await asyncio.sleep(max(pause, PER_ITEM * len(answer.value)))
        return 0 if rebuilt or not self._blocking else max(answer.index, 0)

    def _failed(self, error: str) -> None:
        if not self.error and self._loud:
            log.warning("consul does not answer", extra={"question": self.name, "error": error})
        metrics.REGISTRY_FAILURES.labels("watch").inc()
        self.error = error
        self.tried.set()

    def _pause(self) -> float:
        """Take a token; return how long to wait for it."""
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._then) * RATE) - 1
        self._then = now
        return max(0.0, -self._tokens / RATE)


def _save(path: Path, value: Any) -> None:
    new = path.with_suffix(f".{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps({"saved": time.time(), "answer": value}, default=_text)
        with open(new, "w", opener=_private) as file:
            file.write(text)
        new.replace(path)
    except OSError as error:
        log.warning("what consul said is not kept", extra={"error": str(error)})


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
