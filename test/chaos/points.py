"""All fault points of the package, and what has to happen for a process to come to each of them."""

from __future__ import annotations

import re
from enum import Enum, auto
from pathlib import Path

import autogpt_server
from chaos.server import Kind

_REACH = re.compile(r"faults\.reach\(\s*\"([^\"]+)\"")


def points_in_the_code() -> set[str]:
    """The names of the points, found in the source."""
    root = Path(autogpt_server.__file__).parent
    return {name for path in root.rglob("*.py") for name in _REACH.findall(path.read_text(encoding="utf-8"))}


class Provocation(Enum):
    """What brings a process to a point."""

    RUNS = auto()
    """Runs are started, watched, signaled and canceled, and a schedule is due: what happens all the time."""
    DEATH_OF_A_WORKER = auto()
    DEATH_OF_THE_MANAGER = auto()
    DEATH_OF_A_SERVICE = auto()
    START = auto()
    """The server is started."""
    RERUN = auto()
    """A run that has ended is run again from one of its nodes on."""
    STUBBORN_BLOCK = auto()
    """A block goes on after its time."""
    POISON = auto()
    """A block kills each worker that calls it."""


# Point -> the kinds of process that come to it, and why they do.
POINTS: dict[str, tuple[tuple[Kind, ...], Provocation]] = {
    **dict.fromkeys(
        (
            "attempt.call.before",
            "attempt.yield.after",
            "attempt.end.before",
            "commit.child.ended",
            "commit.child.written",
            "commit.run.advanced",
            "committer.write.after",
            "committer.write.before",
            "worker.child.prepared",
            "worker.launch.before",
            "worker.news.before",
            "worker.release.after",
            "worker.take_up.after",
            "worker.take_up.before",
        ),
        ((Kind.WORKER,), Provocation.RUNS),
    ),
    **dict.fromkeys(
        ("sqlite.commit.before", "sqlite.commit.after"), ((Kind.WORKER, Kind.SERVER, Kind.SCHEDULER), Provocation.RUNS)
    ),
    "inbox.put.numbered": ((Kind.WORKER, Kind.SERVER), Provocation.RUNS),
    **dict.fromkeys(
        (
            "operations.hint.before",
            "server.execute.planned",
            "server.execute.committed",
            "server.execute.hinted",
            "server.stream.before",
        ),
        ((Kind.SERVER,), Provocation.RUNS),
    ),
    **dict.fromkeys(
        ("manager.assign.after", "manager.created.before", "manager.hints.before", "manager.sweep.before"),
        ((Kind.MANAGER,), Provocation.RUNS),
    ),
    **dict.fromkeys(
        ("scheduler.decided", "scheduler.committed", "scheduler.hinted"), ((Kind.SCHEDULER,), Provocation.RUNS)
    ),
    **dict.fromkeys(
        ("server.rerun.planned", "server.rerun.slice", "server.rerun.written", "server.rerun.committed"),
        ((Kind.SERVER,), Provocation.RERUN),
    ),
    "worker.drain.begun": ((Kind.WORKER,), Provocation.DEATH_OF_THE_MANAGER),
    "worker.retire.replaced": ((Kind.WORKER,), Provocation.STUBBORN_BLOCK),
    "manager.replace.before": ((Kind.MANAGER,), Provocation.STUBBORN_BLOCK),
    "manager.solo.before": ((Kind.MANAGER,), Provocation.POISON),
    "manager.worker_lost.before": ((Kind.MANAGER,), Provocation.DEATH_OF_A_WORKER),
    "supervisor.migrate.before": ((Kind.SUPERVISOR,), Provocation.START),
    "supervisor.child.ready": ((Kind.SUPERVISOR,), Provocation.DEATH_OF_A_SERVICE),
    "supervisor.child.died": ((Kind.SUPERVISOR,), Provocation.DEATH_OF_A_SERVICE),
    "supervisor.start.after": ((Kind.SUPERVISOR, Kind.MANAGER), Provocation.START),
    "process.ready.before": ((Kind.SERVER, Kind.MANAGER, Kind.SCHEDULER, Kind.WORKER), Provocation.START),
}
