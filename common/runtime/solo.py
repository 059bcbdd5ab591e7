"""``headwater solo``: origin, edge and balancer of one configuration file on one machine."""

from collections.abc import Sequence
from pathlib import Path


def main(path: Path | None, pairs: Sequence[str]) -> int:
    """Run the three roles; return the exit code."""
    raise SystemExit("being written")
