"""What log lines look like."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from common.runtime.logs import Limited, Log, configure


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_text_line_has_event_and_context() -> None:
    out = io.StringIO()
    configure("info", "text", out)
    Log("edge.hls", stream="live").bind(node="e1").info("session opened", extra={"note": "a b"})
    _, rest = out.getvalue().split(" ", 1)
    assert rest == 'INFO edge.hls session opened stream=live node=e1 note="a b"\n'


def test_a_json_line_is_one_object() -> None:
    out = io.StringIO()
    configure("info", "json", out)
    Log("edge").warning("page gone", extra={"track": 3})
    entry = json.loads(out.getvalue())
    assert (entry["event"], entry["level"], entry["track"]) == ("page gone", "warning", 3)


@pytest.mark.parametrize("style", ["text", "json"])
def test_keys_and_tokens_do_not_reach_the_log(style: str) -> None:
    out = io.StringIO()
    configure("info", style, out)
    Log("x").info("opened", extra={"url": "rtmp://h/live?key=CANARY&token=CANARY2", "n": 1})
    assert "CANARY" not in out.getvalue()
    assert "key=***" in out.getvalue()


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_traceback_is_kept(style: str) -> None:
    out = io.StringIO()
    configure("info", style, out)
    try:
        raise KeyError("oops")
    except KeyError:
        Log("x").exception("bug")
    assert "KeyError" in out.getvalue()


def test_less_important_events_are_hidden() -> None:
    out = io.StringIO()
    configure("warning", "text", out)
    log = Log("x")
    log.info("hidden")
    assert out.getvalue() == ""
    assert not log.debugging


def test_a_repeated_warning_is_held_back_and_counted() -> None:
    out = io.StringIO()
    configure("info", "text", out)
    now = [0.0]
    limited = Limited(Log("x"), seconds=1, clock=lambda: now[0])
    for cause in ("a", "a", "b", "a"):
        limited.warning("dropped", cause, {"cause": cause})
    now[0] = 1.5
    limited.warning("dropped", "a", {"cause": "a"})
    lines = [line.split(" ", 3)[3] for line in out.getvalue().splitlines()]
    assert lines == ["dropped cause=a", "dropped cause=b", "dropped cause=a repeated=2"]


def test_the_memory_of_repeated_warnings_is_bounded() -> None:
    configure("error", "text", io.StringIO())
    limited = Limited(Log("x"), clock=lambda: 0.0)
    for number in range(5000):
        limited.warning("dropped", str(number))
    assert len(limited._said) <= 1001
