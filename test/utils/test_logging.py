"""Logs."""

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Generator
from pathlib import Path

import pytest

from autogpt_server.utils.logging import LogSetup, get_logger, rotate, setup_logging


class Written:
    """What was written to standard error so far."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Generator[Written]:
    """What is written to standard error; the logging of pytest is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield Written(capsys)
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)


def test_text_is_one_line_with_fields(stderr: Written) -> None:
    setup_logging(LogSetup(), "worker-1")
    get_logger("some.module").bind(run_id="r1").info("run claimed", title="two words", count=3, empty="")
    line = stderr.getvalue()
    assert line.endswith('INFO    worker-1 run claimed run_id=r1 title="two words" count=3 empty=""\n')
    assert line[:2] == "20"
    assert line[19:25].endswith("Z ")


def test_json_is_one_object_a_line(stderr: Written) -> None:
    setup_logging(LogSetup(format="json"), "worker-1")
    get_logger("some.module").warning("odd\nthing", run_id="r1", path=Path("/x"))
    logging.getLogger("another").error("plain %s", "words")
    first, second = [json.loads(line) for line in stderr.getvalue().splitlines()]
    assert first["event"] == "odd\nthing"
    assert (first["level"], first["process"], first["logger"]) == ("WARNING", "worker-1", "some.module")
    assert (first["run_id"], first["path"]) == ("r1", "/x")
    assert second["event"] == "plain words"


def test_an_event_with_line_breaks_stays_one_line(stderr: Written) -> None:
    setup_logging(LogSetup(), "x")
    get_logger("m").info("first\nsecond\r", value="a\nb")
    assert stderr.getvalue().count("\n") == 1


@pytest.mark.parametrize("name", ["api_key", "password", "access_token", "client_secret", "API_KEYS", "creds"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_fields_that_hold_secrets_are_hidden(stderr: Written, name: str, form: str) -> None:
    setup_logging(LogSetup(format="json" if form == "json" else "text"), "x")
    get_logger("m").info("event", **{name: "hunter2", "idempotency_key_name": "shown"})
    assert "hunter2" not in stderr.getvalue()
    assert "***" in stderr.getvalue()
    assert "shown" in stderr.getvalue()


def test_the_level_holds_and_debug_costs_nothing(stderr: Written) -> None:
    setup_logging(LogSetup(level="WARNING"), "x")
    get_logger("m").info("not shown")
    get_logger("m").error("shown")
    assert "not shown" not in stderr.getvalue()
    assert "shown" in stderr.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_has_its_traceback(stderr: Written, form: str) -> None:
    setup_logging(LogSetup(format="json" if form == "json" else "text"), "x")
    try:
        raise KeyError("lost")
    except KeyError:
        get_logger("m").exception("event failed")
    assert "KeyError: 'lost'" in stderr.getvalue()
    assert "test_an_exception_has_its_traceback" in stderr.getvalue()


def test_warnings_are_logged(stderr: Written) -> None:
    setup_logging(LogSetup(), "x")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("look here", stacklevel=1)
    assert "look here" in stderr.getvalue()


def test_several_processes_append_to_one_file(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "server.log"
    code = (
        "import sys; from pathlib import Path; from autogpt_server.utils.logging import *\n"
        "setup_logging(LogSetup(file=Path(sys.argv[1])), sys.argv[2])\n"
        "log = get_logger('m')\n"
        "for number in range(500): log.info('event', number=number, filler='x' * 200)"
    )
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(file), f"p{n}"], cwd=root, stderr=subprocess.DEVNULL)
        for n in range(3)
    ]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    lines = file.read_text().splitlines()
    assert len(lines) == 1500
    assert all(line.endswith("x" * 200) for line in lines)
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_log_that_has_grown_is_moved_and_writers_go_on(tmp_path: Path, stderr: Written) -> None:
    file = tmp_path / "server.log"
    setup_logging(LogSetup(file=file), "x")
    log = get_logger("m")
    assert not rotate(file, 100)
    for round_number in range(7):
        log.info("event", round=round_number, filler="y" * 200)
        assert rotate(file, 100, keep=3)
        assert file.stat().st_size == 0
        assert file.with_name("server.log.1").stat().st_mode & 0o777 == 0o600
    log.info("last")
    assert "last" in file.read_text()
    assert [f"round={n}" in file.with_name(f"server.log.{7 - n}").read_text() for n in (6, 5, 4)] == [True] * 3
    assert not file.with_name("server.log.4").exists()
    assert stderr.getvalue().count("event") == 7


def test_there_may_be_no_log_to_rotate(tmp_path: Path) -> None:
    assert not rotate(tmp_path / "none.log", 100)
