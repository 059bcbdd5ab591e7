"""Logs for journald, and which style fits where."""

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.runtime import journal, logs
from common.runtime.logs import BURST, Log, configure


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_words_and_a_file_gets_json() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        configure("info", "auto", stream)
        Log("x").info("opened", extra={"n": 1})
    assert terminal.getvalue().endswith("INFO x opened n=1\n")
    assert json.loads(file.getvalue())["n"] == 1


def test_journald_gets_fields_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "socket")
    monkeypatch.setattr(journal, "SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(5)
        with (tmp_path / "log").open("w") as stream:
            found = os.fstat(stream.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
            assert journal.connected(stream)
            handler = journal.JournalHandler(path)
            logging.basicConfig(level="INFO", handlers=[handler], force=True)
            Log("edge").warning("page gone", extra={"stream": "live", "token": "CANARY"})
            fields = dict(row.split(b"=", 1) for row in server.recv(65536).splitlines())
            assert fields[b"MESSAGE"] == b"page gone stream=live token=***"
            assert fields[b"PRIORITY"] == b"4"
            assert fields[b"HEADWATER_STREAM"] == b"live"
            assert fields[b"HEADWATER_TOKEN"] == b"***"
            try:
                raise KeyError("oops")
            except KeyError:
                Log("edge").exception("bug")
            assert b"MESSAGE\n" in server.recv(65536)


def test_what_journald_does_not_take_goes_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = journal.JournalHandler(str(tmp_path / "nobody"))
    logging.basicConfig(level="INFO", handlers=[handler], force=True)
    Log("x").info("opened", extra={"n": 1})
    assert capsys.readouterr().err == "opened n=1\n"


def test_other_streams_do_not_lead_to_journald(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert not journal.connected(io.StringIO())


@pytest.mark.parametrize(
    "text",
    [
        "GET /~CANARY/cmaf/live/index.m3u8",
        "authorization: Bearer CANARY",
        "http://h/x?TOKEN=CANARY&a=1",
        "password=CANARY",
    ],
)
def test_secrets_are_hidden_wherever_they_stand(text: str) -> None:
    assert "CANARY" not in logs.redact(text)


def test_a_value_of_a_secret_name_is_hidden_whatever_it_is() -> None:
    out = io.StringIO()
    configure("info", "json", out)
    Log("x").info("opened", extra={"key": "CANARY", "stream": "live"})
    assert "CANARY" not in out.getvalue()


def test_a_flood_of_one_event_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    configure("info", "json", out)
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    for _ in range(BURST + 5):
        Log("x").info("dropped")
    Log("x").error("broken")
    assert len(out.getvalue().splitlines()) == BURST + 1
    now[0] = 1001.0
    Log("x").info("dropped")
    assert json.loads(out.getvalue().splitlines()[-1])["held"] == 5
