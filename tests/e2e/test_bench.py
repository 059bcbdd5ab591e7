"""The benchmarks at reduced size; what is gated on is far from its target on a busy machine too.

Each gate is a target of docs/performance.md as it is. Rows that miss theirs have no gate here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

GATES = {
    # What was seen on two cores that others used as well, where the gate was set.
    "wake-up p99 of 500 parked viewers, of the C server's": "1.5 to 2.0 of 2.5",
    "memory per progressive viewer": "5 of 20 kB",
    "join on a warm edge, to the first keyframe": "4 to 12 of 100 ms",
}


def test_what_is_comfortably_met_stays_met(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--out", str(tmp_path)]
    made = subprocess.run(
        [*command, "wakes", "memory", "joins"],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    print(made.stdout, made.stderr)
    found = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["item"]: row for row in found["rows"]}
    missed = {
        item: (rows[item]["figure"], rows[item]["target"])
        for item in GATES
        if rows[item]["figure"] > rows[item]["target"]
    }
    assert missed == {}
