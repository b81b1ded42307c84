"""Logs: one event a line, its name first and its ids as fields, as text for people or JSON for machines.

Modules log with the standard library (`logging.getLogger(__name__)`) or, better, with `get_logger(__name__)`, which takes
the fields of an event as keyword arguments. Inputs and outputs of blocks are never logged: they may hold credentials.
"""

import io
import json as stdlib_json
import logging
import os
import re
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

_FIELDS = "event_fields"
_HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:key|keys|secret|password|passwd|token|authorization|cookie|credentials|creds)$", re.IGNORECASE
)


class EventLogger:
    """Logs events with fields: `log.info("run claimed", run_id=run_id)`."""

    def __init__(self, logger: logging.Logger, fields: dict[str, Any]) -> None:
        self._logger = logger
        self._fields = fields

    def bind(self, **fields: Any) -> "EventLogger":
        """A logger that adds these fields to each event."""
        return EventLogger(self._logger, self._fields | fields)

    def debug(self, event: str, /, **fields: Any) -> None:
        """Log what helps to find a defect."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """Log what the people who run the server want to know."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Log what went wrong and was dealt with."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Log what went wrong and needs somebody."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """As `error`, with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: dict[str, Any], *, exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            extra = {_FIELDS: self._fields | fields}
            self._logger.log(level, "%s", event, extra=extra, exc_info=exc_info, stacklevel=3)


def get_logger(name: str) -> EventLogger:
    """The logger of the module `name`."""
    return EventLogger(logging.getLogger(name), {})


@dataclass(frozen=True)
class LogSetup:
    """How a process logs. Travels to child processes."""

    format: Literal["text", "json"] = "text"
    level: str = "INFO"
    file: Path | None = None
    """A file to log to besides standard error; every process of the server appends to the same one."""


def setup_logging(setup: LogSetup, process_name: str) -> None:
    """Make this process log as `setup` says, in place of whatever was set up before."""
    formatter = JsonFormatter(process_name) if setup.format == "json" else TextFormatter(process_name)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if setup.file is not None:
        setup.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Opened for appending, so lines of several processes do not overwrite each other, and truncating it
        # (see `rotate`) needs nobody to open it anew.
        handlers.append(_PrivateFileHandler(setup.file, mode="a", encoding="utf-8"))
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(setup.level)
    logging.captureWarnings(capture=True)
    for noisy in (
        "asyncio",
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "openai",
        "prawcore",
        "urllib3",
        "apscheduler",
        "uvicorn.access",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def rotate(file: Path, max_bytes: int, keep: int = 5) -> bool:
    """Copy a log that has grown beyond `max_bytes` to `<file>.1` and empty it; older ones move up, `keep` stay.

    Copied and emptied rather than renamed, because other processes hold it open, some as their standard output. Lines
    written between the two steps are lost. Returns whether it was time.
    """
    try:
        if file.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(keep - 1, 0, -1):
        older = file.with_name(f"{file.name}.{number}")
        if older.exists():
            older.replace(file.with_name(f"{file.name}.{number + 1}"))
    with file.open("rb+") as source, _open_private(file.with_name(f"{file.name}.1"), "wb") as target:
        while chunk := source.read(1024 * 1024):
            target.write(chunk)
        source.truncate(0)
    return True


class _PrivateFileHandler(logging.FileHandler):
    """Makes a file that other users cannot read: events may name what they should not know."""

    def _open(self) -> io.TextIOWrapper:
        return cast("io.TextIOWrapper", _open_private(Path(self.baseFilename), self.mode, self.encoding))


def _open_private(path: Path, mode: str, encoding: str | None = None) -> IO[Any]:
    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600)

    return open(path, mode, encoding=encoding, opener=opener)


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO  ExecutionManager run claimed run_id=... | execution.manager`"""

    def __init__(self, process_name: str) -> None:
        super().__init__()
        self._process_name = process_name

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback where there is one."""
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        line = (
            f"{_timestamp(record)} {record.levelname:<7} {self._process_name} {_one_line(record.getMessage())}{fields}"
        )
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, process, logger, event, the fields of the event, and error if there is one."""

    def __init__(self, process_name: str) -> None:
        super().__init__()
        self._process_name = process_name

    def format(self, record: logging.LogRecord) -> str:
        """The object, without line breaks."""
        entry: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname,
            "process": self._process_name,
            "pid": record.process,
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry.update({name: value for name, value in _fields(record).items() if name not in entry})
        if record.exc_info and record.exc_info[0] is not None:
            entry["error"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return stdlib_json.dumps(entry, ensure_ascii=True, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, _FIELDS, {})
    return {name: _HIDDEN if _SECRET_NAME.search(name) else value for name, value in fields.items()}


def _timestamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03}Z"


def _plain(value: object) -> str:
    text = str(value)
    return stdlib_json.dumps(text, ensure_ascii=False) if not text or re.search(r"[\s\"=]", text) else text


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")
