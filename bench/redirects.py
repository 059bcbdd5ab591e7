"""How many redirects a second a core answers over HTTP: ``python -m bench.redirects [EDGES]``.

The balancer's application runs in a child process; connections are kept and used one request after
the other. What counts is the CPU time of the child: the asking is done by this process.
"""

import asyncio
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection

from balancer.api import Redirector, routes
from balancer.director import Director
from balancer.nodes import NodeTable, Registration
from common.runtime import http, listen
from common.wire.gossip import Gossip

REQUESTS = 8000
CONNECTIONS = 16
ASK = b"GET /cmaf/live/index.m3u8 HTTP/1.1\r\nHost: balancer\r\n\r\n"


def main(edges: int) -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs, edges))
    server.start()
    port = ours.recv()
    began = time.perf_counter()
    asyncio.run(ask(port))
    took = time.perf_counter() - began
    ours.send("stop")
    used = ours.recv()
    server.join()
    print(
        f"{edges} edges: {REQUESTS / used:.0f} redirects per second of CPU time, "
        f"{REQUESTS / took:.0f} by the clock"
    )


def serve(pipe: Connection, edges: int) -> None:
    asyncio.run(_serve(pipe, edges))


async def _serve(pipe: Connection, edges: int) -> None:
    table = NodeTable()
    for number in range(edges):
        name = f"edge{number}"
        table.register(Registration(name, f"http://{name}:8080", 1e13, 1e9), 0.0)
        table.deliver(Gossip(name, 1, 1, 0, 1e6, 1, 0.1, 0.2, streams=("live",)), 0.0)
    director = Director(table, lambda: 2, lambda: 1.0)
    listener = listen.bind("127.0.0.1:0")
    runner = await http.serve(http.application(routes(Redirector(director))), listener)
    pipe.send(listener.getsockname()[1])
    began = time.process_time()
    await asyncio.to_thread(pipe.recv)
    pipe.send(time.process_time() - began)
    await runner.cleanup()


async def ask(port: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_client(port))


async def _client(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(REQUESTS // CONNECTIONS):
        writer.write(ASK)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 307"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
