"""Named points in the code where a test can make a process die, stop or fail: what a crash at the worst moment does can be tried out.

Off unless the environment variable AUTOGPT_FAULTS names a folder when the process starts; then a point costs one comparison. In that folder a
test arms a point by a file named after it, with the action as its text (`kill`, `stop`, `fail`), and with the processes it is meant for, if not for
any (`kill worker`: those whose names begin so; the supervisor's is `MainProcess`). The file is removed before the action is performed, so each
fires once, in whichever process gets there first, and may be armed again at any time.
"""

import logging
import multiprocessing
import os
import signal
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLE = "AUTOGPT_FAULTS"
"""The environment variable that names the folder."""


def _folder() -> Path | None:
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


_FIRED = ".fired"


# Read when the module is imported, unlike settings: it is none, and a point must cost nothing where it is not wanted.
_FOLDER = _folder()


def reach(point: str) -> bool:
    """The code has come to `point`. Answers whether it shall fail there, in whatever way is natural to it."""
    return _FOLDER is not None and _fire(_FOLDER / point)


def _fire(armed: Path) -> bool:
    try:
        action, _, where = armed.read_text(encoding="utf-8").strip().partition(" ")
        if not multiprocessing.current_process().name.startswith(where):
            return False
        armed.unlink()
    except OSError:  # not armed, or another process was faster; or this one can open no more files
        return False
    with (armed.parent / _FIRED).open("a", encoding="utf-8") as record:
        record.write(f"{armed.name} {multiprocessing.current_process().name}\n")
    log.warning("fault %s: %s", armed.name, action)
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "fail":
            return True
        case _:
            raise ValueError(f"{armed}: the action {action!r} is none of kill, stop, fail")
    return False


def arm(folder: Path, point: str, action: str, process: str = "") -> None:
    """Have the action performed when a process that was started with this folder, and whose name begins with `process`, comes to `point`."""
    partial = folder / f".{point}"
    partial.write_text(f"{action} {process}", encoding="utf-8")
    partial.rename(folder / point)


def fired(folder: Path) -> list[tuple[str, str]]:
    """What has come to pass so far: (point, name of the process)."""
    try:
        lines = (folder / _FIRED).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [(point, process) for point, _, process in (line.partition(" ") for line in lines)]
