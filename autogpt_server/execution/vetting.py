"""What is wrong with a schedule: before it is saved, all at once; and later, in words, before it is due. Pure: no clock, no I/O."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from autogpt_server.data.models import ErrorInfo, JsonObject
from autogpt_server.data.problems import InvalidContent, Problem
from autogpt_server.data.scheduling import DueSchedule, Occurrence, OccurrenceStatus, ScheduleFields
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.cron import InvalidCron, parse
from autogpt_server.execution.occurrences import CHANGED, MISSED_AFTER, PAUSED
from autogpt_server.execution.start import start_inputs
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.topology import Topology
from autogpt_server.execution.zones import UnknownTimeZone, time_zone
from autogpt_server.utils.errors import AutoGPTServerError

MAX_JITTER_S = 86_400.0


class InvalidSchedule(InvalidContent):
    """The schedule is not valid."""

    code = "invalid_schedule"


def timing_problems(fields: ScheduleFields) -> list[Problem]:
    """What is wrong with when a schedule is due. `pin` is the name of the field. Whether that is ever is for `timing_of` to find."""
    found: list[Problem] = []
    if (fields.cron is None) == (fields.at is None):
        which = "neither `cron` nor `at`" if fields.cron is None else "both `cron` and `at`"
        expected = "a cron expression, such as 0 9 * * 1-5, or a time in `at`"
        found.append(
            Problem("cron_or_at", f"The schedule has {which}; give one of them.", pin="cron", expected=expected)
        )
    if fields.cron is not None:
        try:
            parse(fields.cron)
        except InvalidCron as error:
            found.append(Problem(error.code, str(error), pin="cron", expected=error.expected))
    try:
        time_zone(fields.timezone)
    except UnknownTimeZone as error:
        found.append(Problem(error.code, str(error), pin="timezone", expected="a name of the IANA time zone database"))
    if fields.starts_at is not None and fields.ends_at is not None and fields.ends_at < fields.starts_at:
        found.append(
            Problem("ends_before_start", "`ends_at` is before `starts_at`.", pin="ends_at", expected="a later time")
        )
    if not math.isfinite(fields.jitter_s) or not 0 <= fields.jitter_s <= MAX_JITTER_S:
        expected = f"seconds from 0 to {MAX_JITTER_S:.0f}"
        found.append(Problem("invalid_jitter", f"`jitter_s` must be {expected}.", pin="jitter_s", expected=expected))
    return found


def never_due(timing: Timing, *, after: datetime) -> Problem | None:
    """The problem of a schedule that is not due at any time after an instant."""
    if timing.next_due(after=after) is not None:
        return None
    if timing.at is not None and timing.at <= after:
        return Problem(
            "at_is_past", f"The time in `at`, {_text(timing.at)}, has passed.", pin="at", expected="a later time"
        )
    return Problem(
        "never_due",
        "The schedule is never due between now, or `starts_at`, and `ends_at`.",
        pin="at" if timing.cron is None else "ends_at",
        expected="a later end",
    )


def input_problems(topology: Topology, given: JsonObject) -> list[Problem]:
    """What keeps a run from being started with this input."""
    try:
        start_inputs(topology, given)
    except InvalidContent as error:
        return error.problems
    return []


def standing_problems(
    due: DueSchedule, topology: Topology | AutoGPTServerError | None, last: Occurrence | None, *, now: datetime
) -> list[ErrorInfo]:
    """What is wrong with a stored schedule today.

    `topology`: of the version that its next run would get, or why there is none; None if its graph is gone. `last`: its latest occurrence.
    """
    schedule = due.schedule
    found = [ErrorInfo(code=problem.code, message=problem.message) for problem in timing_problems(schedule)]
    found += _graph_problems(due, topology)
    if schedule.is_enabled and not found:
        found += _timing_now(due, now)
    if last is not None and last.status is OccurrenceStatus.SKIPPED and last.code not in (CHANGED, PAUSED):
        found.append(
            ErrorInfo(
                code="last_skipped",
                message=f"It was due at {_text(last.due_at)} and did not run. {last.reason or ''}".strip(),
            )
        )
    elif last is not None and last.run_status == RunStatus.FAILED:
        found.append(
            ErrorInfo(code="last_failed", message=f"Its latest run {last.run_id}, due at {_text(last.due_at)}, FAILED.")
        )
    return found


def _graph_problems(due: DueSchedule, topology: Topology | AutoGPTServerError | None) -> list[ErrorInfo]:
    schedule = due.schedule
    if topology is None:
        version = "" if schedule.graph_version is None else f" or has no version {schedule.graph_version}"
        return [
            ErrorInfo(
                code="graph_unavailable", message=f"The graph {schedule.graph_id} was deleted{version}: it cannot run."
            )
        ]
    if isinstance(topology, AutoGPTServerError):
        return [
            ErrorInfo(
                code=topology.code, message=f"Version {due.runnable_version} of the graph cannot be run: {topology}"
            )
        ]
    return [
        ErrorInfo(
            code=problem.code,
            message=f"Version {due.runnable_version} of the graph cannot be started: {problem.message}",
        )
        for problem in input_problems(topology, schedule.input_data)
    ]


def _timing_now(due: DueSchedule, now: datetime) -> list[ErrorInfo]:
    schedule = due.schedule
    if schedule.accounted_until > now + MISSED_AFTER:
        message = f"Its due times until {_text(schedule.accounted_until)} are accounted for: the machine's clock was put back. It goes on after that."
        return [ErrorInfo(code="clock_put_back", message=message)]
    if schedule.next_fire_at is not None and now - schedule.next_fire_at > MISSED_AFTER:
        late = timedelta(seconds=round((now - schedule.next_fire_at).total_seconds()))
        message = f"It should have fired {late} ago: the scheduler is not running, or cannot keep up."
        return [ErrorInfo(code="overdue", message=message)]
    if schedule.next_fire_at is None and schedule.cron is not None:
        return [ErrorInfo(code="over", message="It is not due any more: its last time has passed.")]
    return []


def _text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
