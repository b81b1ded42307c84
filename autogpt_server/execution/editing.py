"""What a user's change of a schedule makes of its due times. Pure: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from autogpt_server.data.scheduling import NewOccurrence, Schedule, ScheduleChange, ScheduleFields
from autogpt_server.execution.cron import InvalidCron
from autogpt_server.execution.occurrences import CHANGED, PAUSED, abandon
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.zones import UnknownTimeZone

TIMING_FIELDS = frozenset({"cron", "at", "timezone", "starts_at", "ends_at", "jitter_s"})
"""The fields of a schedule that say when it is due."""


class ChangedMeanwhile(Exception):
    """Somebody else changed the schedule between the check and the change."""


@dataclass(frozen=True, slots=True)
class ScheduleEdit:
    """A user's change, applied to the schedule that it was worked out for. Raises `ChangedMeanwhile` for any other."""

    expected: Schedule
    fields: ScheduleFields
    timing: Timing
    """Of `fields`."""
    now: datetime

    def __call__(self, current: Schedule) -> ScheduleChange:
        if current.revision != self.expected.revision:
            raise ChangedMeanwhile
        is_new_timing = any(getattr(self.fields, name) != getattr(current, name) for name in TIMING_FIELDS)
        stops = current.is_enabled and not self.fields.is_enabled
        accounted_until = current.accounted_until
        if is_new_timing or self.fields.is_enabled != current.is_enabled:
            accounted_until = max(accounted_until, self.now)
        return ScheduleChange(
            self.fields,
            accounted_until,
            self.timing.next_fire(after=accounted_until) if self.fields.is_enabled else None,
            left_behind(current, PAUSED if stops else CHANGED, now=self.now) if is_new_timing or stops else (),
        )


def left_behind(schedule: Schedule, code: str, *, now: datetime) -> list[NewOccurrence]:
    """What a schedule was due for by now and nobody has accounted for, as skipped for the reason that `code` names (see `abandon`)."""
    if not schedule.is_enabled:
        return []
    try:
        timing = Timing.of(schedule.id, schedule)
    except (InvalidCron, UnknownTimeZone):
        return []
    left = abandon(timing, after=schedule.accounted_until, now=now, code=code)
    return [NewOccurrence(outcome.due, outcome.status, outcome.code, outcome.reason) for outcome in left]
