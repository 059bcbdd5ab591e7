"""Signals, waiting, and child processes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE

import pytest

from common.runtime import tasks
from common.runtime.embedded import start_time
from common.runtime.tasks import (
    Adopted,
    Backoff,
    run_until_signalled,
    spawn_child,
    stop_child,
    stop_children,
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_cancels_and_lets_clean_up(number: signal.Signals) -> None:
    steps = []

    async def role() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned")

    await run_until_signalled(role())
    assert steps == ["cleaned"]


async def test_a_role_that_ends_by_itself_ends_the_wait() -> None:
    async def role() -> None:
        await asyncio.sleep(0)

    await run_until_signalled(role())


async def test_an_error_of_a_role_is_passed_on() -> None:
    async def role() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await run_until_signalled(role())


def test_the_second_signal_ends_at_once_with_130() -> None:
    program = (
        "import asyncio, sys\n"
        "from common.runtime.tasks import run_until_signalled\n"
        "async def role():\n"
        "    print('up', flush=True)\n"
        "    try:\n"
        "        await asyncio.Event().wait()\n"
        "    finally:\n"
        "        print('stopping', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(run_until_signalled(role()))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for said in (b"up\n", b"stopping\n"):
            assert process.stdout.readline() == said
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == tasks.INTERRUPTED


def test_a_role_that_has_ended_leaves_nothing_to_look_through() -> None:
    """The interpreter's last collections took seconds on a busy machine, of a stop that has few."""
    program = (
        "import gc, sys\n"
        "from common.runtime import cli\n"
        "code = cli.main(['balancer'])\n"
        "print(code, len(gc.get_objects()))\n"
    )
    checked = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HEADWATER_CHECK": "{}"},
        capture_output=True,
        check=True,
    )
    code, left = map(int, checked.stdout.split())
    assert code == 0
    assert left < 1000, "some hundred thousand without it"


def test_waits_double_up_to_the_longest_and_start_again_after_calm() -> None:
    now = [0.0]
    backoff = Backoff(0.1, 0.5, calm=30, clock=lambda: now[0], chance=lambda: 0.5)
    assert [round(backoff.next(), 3) for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    now[0] += 31
    assert round(backoff.next(), 3) == 0.1


def test_waits_vary_so_that_not_all_come_back_at_once() -> None:
    low = Backoff(1, clock=lambda: 0.0, chance=lambda: 0.0).next()
    high = Backoff(1, clock=lambda: 0.0, chance=lambda: 1.0).next()
    assert (low, high) == (0.75, 1.25)


async def test_a_wait_takes_its_time() -> None:
    backoff = Backoff(0.001)
    await backoff.wait()
    assert backoff.next() > 0.001


async def test_a_child_gets_the_descriptors_and_variables_it_is_given() -> None:
    read, write = os.pipe()
    program = f"import os; os.write({write}, os.environ['GREETING'].encode())"
    child = await spawn_child(
        [sys.executable, "-c", program], pass_fds=[write], environment={"GREETING": "hello"}
    )
    assert await child.wait() == 0
    os.close(write)
    assert os.read(read, 100) == b"hello"
    os.close(read)


async def test_a_child_is_stopped_by_sigterm() -> None:
    child = await spawn_child(["sleep", "1000"])
    assert await stop_child(child) == -signal.SIGTERM
    assert await stop_child(child) == -signal.SIGTERM  # again does no harm


async def test_a_stubborn_child_is_killed() -> None:
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True)\n"
        "time.sleep(1000)\n"
    )
    child = await spawn_child([sys.executable, "-c", program], stdout=PIPE)
    assert child.stdout is not None
    await child.stdout.readline()
    await stop_children([child], grace=0.05)
    assert child.returncode == -signal.SIGKILL
    await child.stdout.read()


async def test_limits_are_set_in_the_child_alone() -> None:
    program = "import os; print(os.nice(0))"
    child = await spawn_child(
        [sys.executable, "-c", program], stdout=PIPE, prepare=lambda: _nicer()
    )
    out, _ = await child.communicate()
    assert int(out) == os.nice(0) + 1


def _nicer() -> None:
    os.nice(1)


def test_children_die_with_their_parent() -> None:
    program = (
        "import asyncio, sys\n"
        "from common.runtime.tasks import spawn_child\n"
        "async def main():\n"
        "    child = await spawn_child(['sleep', '1000'])\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        born = start_time(child)
        assert born
        watch = os.pidfd_open(child)
        parent.kill()
    with contextlib.closing(os.fdopen(watch)) as file:
        import select

        assert select.select([file], [], [], 10)[0]  # readable: it has ended


def started(program: str) -> int:
    return os.posix_spawn(sys.executable, [sys.executable, "-c", program], os.environ)


async def test_a_child_of_an_earlier_image_is_ended_and_collected() -> None:
    pid = started("import time; time.sleep(60)")
    adopted = Adopted(pid)
    assert await stop_child(adopted) == -signal.SIGTERM
    assert adopted.returncode == -signal.SIGTERM
    assert not os.path.exists(f"/proc/{pid}")
    assert await tasks.ended(adopted) == -signal.SIGTERM


async def test_the_exit_code_of_an_adopted_child_that_ended_by_itself_is_known() -> None:
    assert await tasks.ended(Adopted(started("exit(5)"))) == 5
