"""One look of the scheduler at its schedules: read what is due, decide, commit occurrences with their runs (rule S1).

Nothing is remembered between two looks: what was accounted for is in the database, so it does not matter when the last look was, which process took
it, or how it ended. The clock is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from autogpt_server.data.db import Database, DatabaseUnavailable
from autogpt_server.data.firing import (
    Firing,
    FiringOutcome,
    FiringResult,
    Release,
    SchedulesUnavailable,
    commit_firings,
    commit_releases,
    due_schedules,
    enabled_schedules,
    next_fire_at,
    postpone,
    releasable_schedules,
    translated,
)
from autogpt_server.data.problems import InvalidContent
from autogpt_server.data.run_rows import NewRun
from autogpt_server.data.scheduling import DueSchedule, NewOccurrence, OccurrenceStatus, Schedule
from autogpt_server.execution.cron import InvalidCron
from autogpt_server.execution.occurrences import GRAPH_UNAVAILABLE, MISSED, Outcome, Situation, account
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.start import plan_start, run_limits, start_inputs
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.topologies import Topologies
from autogpt_server.execution.topology import Topology
from autogpt_server.execution.zones import UnknownTimeZone
from autogpt_server.utils import faults
from autogpt_server.utils.clock import Clock
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.logging import get_logger
from autogpt_server.utils.settings import Settings

log = get_logger(__name__)

BATCH = 200
"""Schedules whose occurrences are committed together."""

POSTPONED_BY = timedelta(seconds=30)
"""When a schedule whose occurrence could not be committed is tried again."""


@dataclass(slots=True)
class Tick:
    """What one look has done, and when the next is due."""

    run_ids: list[str] = field(default_factory=list[str])
    next_fire_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Unfit:
    """Why a schedule can start no run at present."""

    code: str
    reason: str


class Ticker:
    """Accounts for due times. Two of them on one database do no harm: each step is committed only by the first."""

    def __init__(
        self,
        db: Database,
        topologies: Topologies,
        clock: Clock,
        settings: Settings,
        *,
        on_commit: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        """`on_commit` is called with the ids of runs that have just been committed; it must not block."""
        self._on_commit = on_commit
        self._db = db
        self._topologies = topologies
        self._clock = clock
        self._limits = run_limits(settings)
        self._inline_value_bytes = settings.inline_value_bytes

    async def tick(self) -> Tick:
        """Account for everything that is due by now. Raises `SchedulesUnavailable`; what was committed before stays."""
        done = Tick()
        while due := await due_schedules(self._db, self._clock.now(), limit=BATCH):
            done.run_ids += await self._fire(due)
        while released := await releasable_schedules(self._db, limit=BATCH):
            results = await self._release(released)
            done.run_ids += self._announce(results)
            if len(released) < BATCH or not any(result.outcome is FiringOutcome.DONE for result in results):
                break
        done.next_fire_at = await next_fire_at(self._db)
        return done

    async def rearm(self) -> int:
        """Work out again when each enabled schedule is due next; how many were off. To be done once after a start.

        Since it was worked out last, the time zone database may have been updated, or the server.
        """
        count, after_id = 0, ""
        while page := await enabled_schedules(self._db, after_id=after_id, limit=BATCH):
            after_id = page[-1].id
            firings = [firing for schedule in page if (firing := _rearmed(schedule)) is not None]
            if firings:
                results = await commit_firings(self._db, firings, now=self._clock.now())
                count += sum(result.outcome is FiringOutcome.DONE for result in results)
        return count

    def _announce(self, results: Sequence[FiringResult]) -> list[str]:
        run_ids = [run_id for result in results for run_id in result.run_ids]
        if run_ids:
            log.info("runs scheduled", runs=len(run_ids))
            self._on_commit(run_ids)
            faults.reach("scheduler.hinted")
        return run_ids

    async def _fire(self, due: Sequence[DueSchedule]) -> list[str]:
        now = self._clock.now()
        firings: list[Firing] = []
        for entry in due:
            firing = await self._decide(entry, now)
            if firing is None:
                await postpone(self._db, entry.schedule.id, revision=entry.schedule.revision, until=None)
            else:
                firings.append(firing)
        faults.reach("scheduler.decided")
        results = await commit_firings(self._db, firings, now=now)
        faults.reach("scheduler.committed")
        for firing, result in zip(firings, results, strict=True):
            if result.outcome is FiringOutcome.FAILED:
                log.error("occurrence not committed", schedule_id=firing.schedule_id, error=str(result.error))
                await postpone(self._db, firing.schedule_id, revision=firing.revision, until=now + POSTPONED_BY)
        return self._announce(results)

    async def _decide(self, due: DueSchedule, now: datetime) -> Firing | None:
        """The next step of a schedule; None if it cannot be told when it is due."""
        schedule = due.schedule
        try:
            timing = Timing.of(schedule.id, schedule)
        except (InvalidCron, UnknownTimeZone) as error:
            # It was valid when it was saved: another version of the server, or of the time zone database.
            log.error("schedule not understood", schedule_id=schedule.id, error=str(error))  # noqa: TRY400
            return None
        situation = Situation(schedule.catch_up, schedule.overlap, due.active_run_id, due.waiting)
        accounting = account(timing, situation, after=schedule.accounted_until, now=now)
        occurrences, runs = await self._carry_out(due, accounting.outcomes, now)
        return Firing(
            schedule.id,
            schedule.revision,
            schedule.accounted_until,
            accounting.accounted_until,
            accounting.next_fire,
            occurrences,
            runs,
        )

    async def _carry_out(
        self, due: DueSchedule, outcomes: Sequence[Outcome], now: datetime
    ) -> tuple[list[NewOccurrence], list[tuple[datetime, NewRun]]]:
        """The occurrences without a run, and the runs of the others."""
        occurrences: list[NewOccurrence] = []
        runs: list[tuple[datetime, NewRun]] = []
        if not outcomes:
            return occurrences, runs
        topology = await self._topology(due)
        for outcome in outcomes:
            if isinstance(topology, _Unfit):
                occurrences.append(_without_run(outcome, topology))
            elif outcome.status is OccurrenceStatus.STARTED:
                runs.append((outcome.due, self._new_run(due, topology, now)))
            else:
                occurrences.append(NewOccurrence(outcome.due, outcome.status, outcome.code, outcome.reason))
        if occurrences:
            log.debug(
                "due without a run", schedule_id=due.schedule.id, count=len(occurrences), last=occurrences[-1].code
            )
        return occurrences, runs

    async def _release(self, waiting: Sequence[DueSchedule]) -> list[FiringResult]:
        now = self._clock.now()
        releases: list[Release] = []
        for entry in waiting:
            if entry.waiting_since is None:
                continue
            schedule, topology = entry.schedule, await self._topology(entry)
            if isinstance(topology, _Unfit):
                releases.append(
                    Release(schedule.id, schedule.revision, entry.waiting_since, None, topology.code, topology.reason)
                )
            else:
                releases.append(
                    Release(schedule.id, schedule.revision, entry.waiting_since, self._new_run(entry, topology, now))
                )
        return await commit_releases(self._db, releases, now=now)

    async def _topology(self, due: DueSchedule) -> Topology | _Unfit:
        """The graph version that a run of this schedule gets, if the schedule's input fits it today."""
        schedule = due.schedule
        if due.runnable_version is None:
            pinned = "" if schedule.graph_version is None else f", or it has no version {schedule.graph_version}"
            return _Unfit(GRAPH_UNAVAILABLE, f"Skipped: the graph {schedule.graph_id} was deleted{pinned}.")
        try:
            with translated():
                topology = await self._topologies.get(schedule.graph_id, due.runnable_version)
            start_inputs(topology, schedule.input_data)
        except InvalidContent as error:
            details = " ".join(problem.message for problem in error.problems[:5])
            return _Unfit(
                error.code, f"Skipped: version {due.runnable_version} of the graph cannot be started. {error} {details}"
            )
        except (SchedulesUnavailable, DatabaseUnavailable) as error:  # says nothing about the graph
            raise SchedulesUnavailable(str(error)) from error
        except AutoGPTServerError as error:
            return _Unfit(
                error.code, f"Skipped: version {due.runnable_version} of the graph cannot be started. {error}"
            )
        return topology

    def _new_run(self, due: DueSchedule, topology: Topology, now: datetime) -> NewRun:
        schedule = due.schedule
        state = plan_start(topology, new_id(), schedule.input_data, new_id=new_id, limits=self._limits, at=now)
        return new_run(
            state,
            schedule.input_data,
            created_at=now,
            inline_value_bytes=self._inline_value_bytes,
            schedule_id=schedule.id,
        )


def _rearmed(schedule: Schedule) -> Firing | None:
    """The step that corrects when a schedule is looked at next; None if that is right, or cannot be told."""
    try:
        timing = Timing.of(schedule.id, schedule)
    except (InvalidCron, UnknownTimeZone):
        return None
    next_fire = timing.next_fire(after=schedule.accounted_until)
    if next_fire == schedule.next_fire_at:
        return None
    return Firing(schedule.id, schedule.revision, schedule.accounted_until, schedule.accounted_until, next_fire)


def _without_run(outcome: Outcome, unfit: _Unfit) -> NewOccurrence:
    """An occurrence where no run can be started: what was missed is missed, everything else is skipped for this reason."""
    code, reason = (outcome.code, outcome.reason) if outcome.code == MISSED else (unfit.code, unfit.reason)
    return NewOccurrence(outcome.due, OccurrenceStatus.SKIPPED, code, reason)
