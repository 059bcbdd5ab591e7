"""The manual of the balancer names every URL and every query that it answers."""

import re

from balancer import ingest, mist
from balancer.api import Redirector
from balancer.api import routes as redirects
from balancer.director import Director
from balancer.mist import CONTROL, WEIGHTS
from balancer.nodes import NodeTable
from balancer.policy import Candidate, Weights
from common.runtime.embedded import EmbeddedRegistry
from tests.arch.sources import ROOT

MANUAL = (ROOT / "docs/reference/balancer.md").read_text()


def test_every_path_is_in_the_manual() -> None:
    director = Director(NodeTable())
    redirector = Redirector(director)
    choice = ingest.IngestChoice(director, EmbeddedRegistry(ROOT / "none"))
    routes = [
        *redirects(redirector),
        *ingest.routes(ingest.IngestApi(choice)),
        *mist.routes(mist.Mist(redirector, choice, "")),
    ]
    fixed = {route.path for route in routes if "{" not in route.path}
    assert len(fixed) >= 7
    assert [path for path in sorted(fixed) if f"GET {path}" not in MANUAL] == []


def test_every_query_and_weight_is_in_the_manual() -> None:
    queries = {
        *("weights", "lstserver", "viewers", "streamstats", "stream", "source", "ingest", "host"),
        *("addserver", "delserver", "key", "as", *CONTROL),
    }
    words = {*re.findall(r"[a-z_]+", MANUAL)}
    assert queries - words == set()
    assert WEIGHTS.keys() - words == set()
    assert {*Weights.__dataclass_fields__} == {*WEIGHTS.values()}
    assert {"slow", "carrier", "geography", "tags", "errors"} <= words & {
        word for field in Candidate._fields for word in field.split("_")
    }
