"""How full the memory is, as the kernel says."""

import mmap
import os
from pathlib import Path

import pytest

from common.runtime.memory import memory_used, private_bytes

MEGABYTE = 2**20


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    made = tmp_path / "proc"
    (made / "self").mkdir(parents=True)
    (made / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 250 kB\n")
    (made / "self/cgroup").write_text("4:memory:/old\n0::/system.slice/edge.service\n")
    return made


def group(path: Path, most: str, current: int, **stat: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(f"{most}\n")
    (path / "memory.current").write_text(f"{current}\n")
    (path / "memory.stat").write_text("".join(f"{name} {size}\n" for name, size in stat.items()))


def test_without_control_groups_it_is_the_machine_that_counts(proc: Path, tmp_path: Path) -> None:
    assert memory_used(proc, tmp_path / "none") == pytest.approx(0.75)
    (proc / "self/cgroup").unlink()
    assert memory_used(proc, tmp_path / "none") == pytest.approx(0.75)


def test_the_fullest_control_group_counts_without_copies_of_files(
    proc: Path, tmp_path: Path
) -> None:
    groups = tmp_path / "cgroup"
    inner = groups / "system.slice/edge.service"
    group(inner, str(100 * MEGABYTE), 95 * MEGABYTE, anon=1, inactive_file=5 * MEGABYTE)
    assert memory_used(proc, groups) == pytest.approx(0.9)
    group(groups / "system.slice", str(200 * MEGABYTE), 196 * MEGABYTE)
    assert memory_used(proc, groups) == pytest.approx(0.98)
    group(groups / "system.slice", "max", 196 * MEGABYTE)
    group(inner, str(100 * MEGABYTE), 10 * MEGABYTE)
    assert memory_used(proc, groups) == pytest.approx(0.75), "the machine is fuller"


def test_what_a_process_has_of_its_own_is_read() -> None:
    before = private_bytes(os.getpid())
    with mmap.mmap(-1, 32 * MEGABYTE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(b"x" * len(held))
        assert private_bytes(os.getpid()) - before == pytest.approx(len(held), rel=0.2)
    assert private_bytes(2**22 + 1) == 0
