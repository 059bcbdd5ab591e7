"""An origin and the gossip of an edge in one process, with keys, that watches how it is doing.

``python -m tests.harness.victim FOLDER`` prints its ports as a line of JSON; each line it gets is
answered with the longest time, in seconds, that its event loop was late since the line before. What
it waited for a processor is not counted: other programs of the machine decide on that.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from common.bus.broadcast import Broadcast
from common.bus.gossip import Gossiper
from common.bus.gossip import Load as Report
from common.runtime.config import NodeSettings
from common.runtime.curve import guarded
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registries import node_entry
from tests.harness.bus import FPS, VIDEO, Source, catalog

STEP = 0.005


class Watch:
    """How late the event loop is at worst."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, waited = loop.time() + STEP, waited_for_cpu()
            await asyncio.sleep(STEP)
            late = loop.time() - due - (waited_for_cpu() - waited)
            self.worst = max(self.worst, late)

    def take(self) -> float:
        worst, self.worst = self.worst, 0.0
        return worst


def waited_for_cpu(task: str = "thread-self") -> float:
    """Return how long a thread was ready to run and did not, in seconds: ``PID/task/TID``."""
    return int(Path(f"/proc/{task}/schedstat").read_text().split()[1]) / 1e9


async def publish(broadcast: Broadcast, source: Source, gossiper: Gossiper) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        for item in source.next(time.time_ns() // 1000):
            broadcast.record("live", *item, flush=item.track == VIDEO)
        gossiper.send(Report())
        due += 1 / FPS
        await asyncio.sleep(due - loop.time())


async def main() -> None:
    folder = Path(sys.argv[1])
    registry = EmbeddedRegistry(folder / "registry")
    node = NodeSettings(name="origin", keys=str(folder / "origin.key"), bus_security="curve")
    async with guarded(node, registry, {"bus": "127.0.0.1:0"}) as guard:
        broadcast = Broadcast("127.0.0.1:0", "127.0.0.1:0", node="origin", guard=guard)
        gossiper = Gossiper("origin", "127.0.0.1:0", guard)
        source = Source(folder / "pages", catalog(), size=8000)
        broadcast.attach(source.writer)
        broadcast.catalog(source.catalog)
        await registry.register(node_entry(node, "origin", broadcast.endpoints()))
        watch, lines = Watch(), asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        tasks = [
            asyncio.create_task(publish(broadcast, source, gossiper)),
            asyncio.create_task(watch.run()),
        ]
        said = {**broadcast.endpoints(), "gossip": gossiper.authority}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        while await lines.readline():
            sys.stdout.write(f"{watch.take()}\n")
            sys.stdout.flush()
        for task in tasks:
            task.cancel()
        gossiper.close()
        broadcast.close()


if __name__ == "__main__":
    asyncio.run(main())
