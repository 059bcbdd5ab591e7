"""One cluster for all tests that only watch; tests that break things start their own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cluster import Cluster, demo

FIELDS = "X-Forwarded-For,X-Forwarded-Proto,X-Mst-Path"

TOOLS = ["ffmpeg", "ffprobe", "chromium", "gst-launch-1.0", "promtool", "node"]


@pytest.fixture(scope="session", autouse=True)
def tools() -> None:
    """Fail, not skip, where a peer is missing."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"missing: {', '.join(missing)}; install them with `make peers`"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what is shared started by one of two processes that run tests, not by both."""
    for item in items:
        shared = {"cluster", "both"} & set(getattr(item, "fixturenames", ()))
        for name in shared:
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two edges that nothing bad happens to; publishers that left are gone after two seconds.

    Proxies on 127.0.0.1 are believed, and those on 127.0.0.9 begin with a PROXY header.
    """
    log = Path(tmp_path_factory.mktemp("cluster")) / "demo.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWATER_STREAMS__LIVE__RECONNECT", "2s")
        for role in ("EDGE", "BALANCER"):
            patch.setenv(f"HEADWATER_{role}__PROXIES__TRUSTED", "127.0.0.1")
            patch.setenv(f"HEADWATER_{role}__PROXIES__PROTOCOL", "127.0.0.9")
        patch.setenv("HEADWATER_EDGE__PROXIES__FIELDS", FIELDS)
        with demo(log) as running:
            yield running
