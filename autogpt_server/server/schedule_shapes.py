"""Schedules as clients send them and see them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import pydantic

from autogpt_server.data.lateness import Lateness
from autogpt_server.data.models import ErrorInfo, JsonObject
from autogpt_server.data.scheduling import CatchUp, Occurrence, Overlap, ScheduleFields
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.vetting import MAX_JITTER_S
from autogpt_server.execution.zones import UnknownTimeZone, instant_of, time_zone

MAX_FIRE_TIMES = 100


def _as_text(moment: object) -> object:
    # pydantic would take a number, also one in text, for seconds or milliseconds since 1970.
    if not isinstance(moment, str) or "-" not in moment[1:]:
        raise ValueError("must be text such as 2026-11-22T09:00:00+01:00")
    return moment


def _in_range(moment: datetime) -> datetime:
    if not 1970 <= moment.year < 2199:
        raise ValueError("must be a time between the years 1970 and 2198")
    return moment


Moment = Annotated[datetime, pydantic.BeforeValidator(_as_text), pydantic.AfterValidator(_in_range)]
"""With an offset, or without one: then it is a local time of the schedule's zone."""


class TimingBody(pydantic.BaseModel):
    """When something is due: `cron` or `at`."""

    model_config = pydantic.ConfigDict(populate_by_name=True)

    cron: str | None = pydantic.Field(
        None,
        validation_alias=pydantic.AliasChoices("cron", "schedule"),
        description="Minute, hour, day of month, month, day of week, as in Vixie cron; with six fields, seconds first.",
        examples=["0 9 * * 1-5"],
    )
    at: Moment | None = pydantic.Field(
        None, description="Instead of `cron`: one time; without an offset, a local time of `timezone`.", examples=[None]
    )
    timezone: str = pydantic.Field("UTC", max_length=200, description="An IANA time zone.", examples=["Europe/Berlin"])
    starts_at: Moment | None = pydantic.Field(None, description="Not due before this time.", examples=[None])
    ends_at: Moment | None = pydantic.Field(None, description="Not due after this time.", examples=[None])
    jitter_s: pydantic.StrictFloat = pydantic.Field(
        0.0,
        ge=0,
        le=MAX_JITTER_S,
        allow_inf_nan=False,
        description="Each occurrence starts later by a part of so many seconds, but before the next one is due.",
    )

    def onto(self, fields: ScheduleFields) -> ScheduleFields:
        """`fields` with what was given here. `cron` takes the place of `at`, and the other way round."""
        given: dict[str, Any] = {
            name: getattr(self, name) for name in self.model_fields_set if name in ScheduleFields.model_fields
        }
        if given.get("cron") is not None and "at" not in given:
            given["at"] = None
        if given.get("at") is not None and "cron" not in given:
            given["cron"] = None
        zone_name = given.get("timezone", fields.timezone)
        for name in ("at", "starts_at", "ends_at"):
            if given.get(name) is not None:
                given[name] = _instant(given[name], zone_name)
        return fields.model_copy(update=given)


class ScheduleBody(TimingBody):
    """A schedule as it is posted; in a PUT, only the fields that shall change. Other fields are ignored."""

    model_config = pydantic.ConfigDict(
        populate_by_name=True,
        json_schema_extra={
            "examples": [{"cron": "0 9 * * 1-5", "timezone": "Europe/Berlin", "input_data": {"who": "World"}}]
        },
    )

    name: str = pydantic.Field("", max_length=200, description="For people.")
    graph_version: pydantic.StrictInt | None = pydantic.Field(
        None, ge=1, le=2**31 - 1, description="Run this version; null: the one that is active when it is due."
    )
    input_data: JsonObject = pydantic.Field(
        default_factory=dict, description="The input of each run, as for `POST /graphs/{graph_id}/execute`."
    )
    is_enabled: pydantic.StrictBool = pydantic.Field(
        True, description="False: paused. What was due in between does not run later."
    )
    catch_up: CatchUp = pydantic.Field(
        CatchUp.LATEST, description="What is done about occurrences that were missed while the server was down."
    )
    overlap: Overlap = pydantic.Field(
        Overlap.SKIP, description="What is done when it is due while a run of this schedule has not ended."
    )


class PreviewBody(TimingBody):
    """A timing to look at; nothing is saved. Other fields of a schedule are ignored."""

    count: pydantic.StrictInt = pydantic.Field(5, ge=0, le=MAX_FIRE_TIMES, description="How many due times to list.")


class FireTime(pydantic.BaseModel):
    """A due time, as the clocks of the schedule's zone show it and in UTC."""

    local: datetime = pydantic.Field(examples=["2026-11-23T09:00:00+01:00"])
    utc: datetime = pydantic.Field(examples=["2026-11-23T08:00:00Z"])


class PreviewDocument(pydantic.BaseModel):
    """When a timing is due."""

    cron: str | None
    at: datetime | None
    timezone: str
    description: str = pydantic.Field(examples=["At 09:00, Monday to Friday (Europe/Berlin)."])
    notes: list[str] = pydantic.Field(
        description="What may not be as meant, such as what happens when the clocks change."
    )
    next_fire_times: list[FireTime]


class ScheduleDocument(ScheduleFields):
    """A stored schedule."""

    id: str
    graph_id: str
    description: str = pydantic.Field(
        description="When it is due, in words.", examples=["At 09:00, Monday to Friday (Europe/Berlin)."]
    )
    next_fire_times: list[FireTime] = pydantic.Field(description="When it is due next; empty while it is paused.")
    problems: list[ErrorInfo] = pydantic.Field(description="What is wrong with it at present.")
    last_occurrence: Occurrence | None = pydantic.Field(description="What became of the latest time it was due.")
    lateness: Lateness | None = pydantic.Field(description="How late its latest runs were; null if there are none.")
    created_at: datetime
    updated_at: datetime


def fire_times(timing: Timing, *, after: datetime, count: int) -> list[FireTime]:
    """The next due times."""
    return [
        FireTime(local=due.astimezone(timing.zone), utc=due) for due in timing.next_due_times(after=after, count=count)
    ]


def _instant(moment: datetime, zone_name: str) -> datetime:
    """A time as it was given, in UTC, with the precision that the database keeps."""
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    if moment.tzinfo is not None:
        return moment.astimezone(UTC)
    try:
        return instant_of(moment, time_zone(zone_name))
    except UnknownTimeZone:  # found and said when the schedule is checked
        return moment.replace(tzinfo=UTC)
