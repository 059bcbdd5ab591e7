"""Children that are forked from a process that has loaded their code."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest

from common.runtime.nursery import MAX_FDS, Nursery
from common.runtime.tasks import Running, ended

MODULE = "tests.harness.born"


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    made = Nursery([MODULE])
    yield made
    await made.close()


async def heard(fd: int) -> list[str]:
    return (await asyncio.to_thread(os.read, fd, 1000)).decode().split()


async def staying(nursery: Nursery, pipe: tuple[int, int]) -> tuple[Running, int, int]:
    """Start a child that stays until something comes over another pipe; return both its ends."""
    stay, leave = os.pipe()
    child = await nursery.spawn(MODULE, "stay", [pipe[1], stay])
    await heard(pipe[0])
    return child, stay, leave


@pytest.fixture
def pipe() -> tuple[int, int]:
    """Both ends, which the test closes."""
    return os.pipe()


async def test_a_child_is_ours_and_has_a_session_and_a_name_of_its_own(
    nursery: Nursery, pipe: tuple[int, int]
) -> None:
    reads, writes = pipe
    child = await nursery.spawn(MODULE, "7", [writes])
    pid, parent, session, _, name = await heard(reads)
    assert int(pid) == child.pid == int(session)
    assert int(parent) == os.getpid()
    assert name == MODULE
    assert await ended(child) == 7
    for fd in pipe:
        os.close(fd)


async def test_modules_are_loaded_once_and_before_the_first_child(
    nursery: Nursery, pipe: tuple[int, int]
) -> None:
    reads, writes = pipe
    began = time.monotonic()
    await nursery.prepare()
    children = [await nursery.spawn(MODULE, str(code), [writes]) for code in (1, 2)]
    assert [await ended(child) for child in children] == [1, 2]
    words = await heard(reads)
    loaded = {float(word) for word in words if "." in word and not word.startswith("tests")}
    assert len(loaded) == 1
    assert began < loaded.pop() < time.monotonic()
    for fd in pipe:
        os.close(fd)


async def test_a_child_has_the_descriptors_it_was_given_and_no_others(
    nursery: Nursery, pipe: tuple[int, int]
) -> None:
    writes = pipe[1]
    child, stay, leave = await staying(nursery, pipe)
    open_now = [
        os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")
    ]
    for fd in (writes, stay):
        assert os.readlink(f"/proc/self/fd/{fd}") in open_now
    assert not [one for one in open_now if one.startswith(("socket:", "/memfd:"))]
    for fd in (*pipe, stay, leave):
        os.close(fd)
    assert await ended(child) == 0


async def test_a_child_that_fails_says_why_and_costs_the_others_nothing(
    nursery: Nursery, pipe: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    failed = await nursery.spawn(MODULE, "fail", [pipe[1]])
    assert await ended(failed) == 1
    assert "LookupError: as it was told" in capfd.readouterr().err
    assert await ended(await nursery.spawn(MODULE, "3", [pipe[1]])) == 3
    for fd in pipe:
        os.close(fd)


async def test_a_nursery_that_was_killed_is_replaced_and_its_children_live(
    nursery: Nursery, pipe: tuple[int, int]
) -> None:
    writes = pipe[1]
    child, stay, leave = await staying(nursery, pipe)
    assert nursery._process is not None
    os.kill(nursery._process.pid, signal.SIGKILL)
    assert await ended(await nursery.spawn(MODULE, "4", [writes])) == 4
    assert child.returncode is None
    os.write(leave, b"x")
    assert await ended(child) == 0
    for fd in (*pipe, stay, leave):
        os.close(fd)


async def test_a_text_has_no_limit_and_descriptors_have_one(
    nursery: Nursery, pipe: tuple[int, int]
) -> None:
    text = "5".rjust(1_000_000)
    assert await ended(await nursery.spawn(MODULE, text, [pipe[1]])) == 5
    with pytest.raises(OSError, match=r"Too many|Invalid"):
        await nursery.spawn(MODULE, "6", [pipe[1]] * MAX_FDS)
    assert await ended(await nursery.spawn(MODULE, "6", [pipe[1]] * (MAX_FDS - 1))) == 6
    for fd in pipe:
        os.close(fd)


async def test_who_is_cancelled_leaves_no_answer_to_the_next(
    nursery: Nursery, pipe: tuple[int, int]
) -> None:
    waiting = asyncio.create_task(nursery.spawn(MODULE, "1", [pipe[1]]))
    while nursery._control is None:  # noqa: ASYNC110 - the task makes it
        await asyncio.sleep(0.001)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await ended(await nursery.spawn(MODULE, "2", [pipe[1]])) == 2
    for fd in pipe:
        os.close(fd)
