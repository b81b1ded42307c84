"""What the services say to each other. Every call here is a hint: the database is the queue, and a lost hint only costs a second."""

from __future__ import annotations

from dataclasses import dataclass, field

from autogpt_server.utils.service import expose


@dataclass(frozen=True, slots=True)
class Assignment:
    """Runs for a worker."""

    number: int
    """Counts the assignments to one worker, from 1; the worker confirms it by naming it when it asks again."""
    run_ids: list[str]
    suspects: list[str]
    """Those of them that were with a worker when it died: they may have killed it."""
    owners: dict[str, str] = field(default_factory=dict[str, str])
    """Run -> the worker on record, which has given the run up or is dead. Whoever finds another one on record must leave the run alone."""
    nudged: list[str] = field(default_factory=list[str])
    """Runs that the worker holds already, and that have something new in their inbox."""


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Where some runs stand with the manager."""

    workers: list[str]
    """The workers that are ready."""
    holders: dict[str, str]
    """Run -> the worker that holds it, for those that are held."""
    ahead: dict[str, int]
    """Run -> how many others are given to workers before it, for those that wait."""


class ManagerInterface:
    """The ExecutionManager, as seen by whoever has committed a run, and by its own workers."""

    service_name = "ExecutionManager"

    @expose(oneway=True)
    async def run_created(self, run_id: str, priority: int) -> None:
        """A run has just been committed: it waits for a worker, and has had none."""
        raise NotImplementedError

    @expose(oneway=True)
    async def run_waits(self, run_id: str) -> None:
        """Something has come up for a run: it waits for a worker, or it has one and there is something new in its inbox."""
        raise NotImplementedError

    @expose()
    async def next_runs(self, worker_id: str, received: int, done: list[str], room: int) -> Assignment:
        """Called by a worker: `done` are runs it no longer holds. Answers up to `room` runs to perform, after at most a second.

        `received` is the number of the last assignment that has arrived; one that was lost on its way is thereby known to be.
        """
        raise NotImplementedError

    @expose()
    async def queue_report(self, run_ids: list[str]) -> QueueReport:
        """Where these runs stand; what the manager has not come across yet is in neither place."""
        raise NotImplementedError

    @expose()
    async def replace_worker(self, worker_id: str) -> None:
        """Called by a worker that has to end: start another one in its place now."""
        raise NotImplementedError


class LiveInterface:
    """The AgentServer, as seen by workers: it shows people what happens."""

    service_name = "AgentServer"

    @expose(oneway=True)
    async def runs_reached(self, reached: list[tuple[str, str, int]]) -> None:
        """Events have been committed: (run id, graph id, seq) of each run."""
        raise NotImplementedError


class SchedulerInterface:
    """The ExecutionScheduler, as seen by whoever changes schedules."""

    service_name = "ExecutionScheduler"

    @expose(oneway=True)
    async def schedules_changed(self) -> None:
        """A schedule was added, changed or removed."""
        raise NotImplementedError
