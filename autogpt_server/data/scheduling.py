"""What schedules and their occurrences look like outside the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import pydantic

from autogpt_server.data.models import JsonObject


class CatchUp(StrEnum):
    """What is done about occurrences that were missed, after an outage (rule S3)."""

    LATEST = "latest"
    """The latest one runs."""
    ALL = "all"
    """All run, up to a limit."""
    NONE = "none"
    """None of them runs."""


class Overlap(StrEnum):
    """What is done when a schedule is due while a run of it has not ended (rule S3)."""

    SKIP = "skip"
    QUEUE = "queue"
    """The occurrence waits, and runs when those before it have ended."""
    ALLOW = "allow"
    """Runs go on side by side."""


class OccurrenceStatus(StrEnum):
    """What became of an occurrence."""

    STARTED = "STARTED"
    """It got a run."""
    SKIPPED = "SKIPPED"
    """It did not, for the reason given."""
    WAITING = "WAITING"
    """It will get one when the runs before it have ended."""


class ScheduleFields(pydantic.BaseModel):
    """What a user decides about a schedule. Times are aware."""

    name: str = ""
    graph_version: int | None = None
    """None: the version that is active when an occurrence is due (rule S4)."""
    cron: str | None = None
    at: datetime | None = None
    """Instead of `cron`: the one time at which it is due."""
    timezone: str = "UTC"
    input_data: JsonObject = pydantic.Field(default_factory=dict)
    is_enabled: bool = True
    catch_up: CatchUp = CatchUp.LATEST
    overlap: Overlap = Overlap.SKIP
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    jitter_s: float = 0.0


class Schedule(ScheduleFields):
    """A stored schedule."""

    id: str
    graph_id: str
    revision: int = 0
    """Grows with each change by a user."""
    accounted_until: datetime
    """Every due time up to here has its occurrence."""
    next_fire_at: datetime | None = None
    """When the scheduler has to act next; None if it has not, and while disabled."""
    created_at: datetime
    updated_at: datetime

    @property
    def fields(self) -> ScheduleFields:
        """What a user decided about it."""
        return ScheduleFields(**{name: getattr(self, name) for name in ScheduleFields.model_fields})


class Occurrence(pydantic.BaseModel):
    """One due time of a schedule that has been accounted for."""

    due_at: datetime
    status: OccurrenceStatus
    run_id: str | None = None
    """None also when the run was deleted since."""
    run_status: str | None = None
    code: str | None = None
    reason: str | None = None
    """Why it has no run, or not yet, in words."""
    created_at: datetime
    started_at: datetime | None = None
    """When its run was committed."""


@dataclass(frozen=True, slots=True)
class NewOccurrence:
    """An occurrence without a run that is about to be recorded."""

    due: datetime
    status: OccurrenceStatus
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ScheduleChange:
    """A schedule as it shall be, and what the change makes of due times that nobody has accounted for yet."""

    fields: ScheduleFields
    accounted_until: datetime
    next_fire_at: datetime | None
    occurrences: Sequence[NewOccurrence] = field(default=())


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule with what a decision about it depends on."""

    schedule: Schedule
    runnable_version: int | None
    """The version that a run gets: the pinned one, or the active one (the latest if none is); None if it is archived or does not exist."""
    active_run_id: str | None
    """The oldest run of this schedule that has not ended."""
    waiting: int
    """Occurrences that wait for their run."""
    waiting_since: datetime | None = None
    """Due time of the first of them."""
