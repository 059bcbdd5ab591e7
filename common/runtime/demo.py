"""``headwater demo``: a whole cluster on loopback, with a test stream, until told to stop."""


def main(*, edges: int, any_ports: bool, duration: float | None, as_json: bool) -> int:
    """Run the demo; return the exit code."""
    raise SystemExit("being written")
