"""Schedules: made, read, changed, deleted; what became of their due times; and what a cron expression means."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from autogpt_server.data.graph import GraphVersionNotFound, graph_exists, graph_state
from autogpt_server.data.problems import Problem
from autogpt_server.data.schedule import (
    change_schedule,
    create_schedule,
    delete_schedule,
    get_schedule,
    list_occurrences,
    list_schedules,
)
from autogpt_server.data.scheduling import Occurrence, Schedule, ScheduleFields
from autogpt_server.execution.cron_words import describe_timing, notes
from autogpt_server.execution.editing import TIMING_FIELDS, ChangedMeanwhile, ScheduleEdit
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.vetting import (
    InvalidSchedule,
    input_problems,
    never_due,
    timing_problems,
)
from autogpt_server.server.body import JsonRoute
from autogpt_server.server.context import Context, ServerContext
from autogpt_server.server.graphs import GraphIdPath
from autogpt_server.server.paging import Paged
from autogpt_server.server.presenting import MASK
from autogpt_server.server.problems import InvalidCursor, RequestError
from autogpt_server.server.responses import problems
from autogpt_server.server.schedule_documents import schedule_document, schedule_documents
from autogpt_server.server.schedule_shapes import (
    MAX_FIRE_TIMES,
    PreviewBody,
    PreviewDocument,
    ScheduleBody,
    ScheduleDocument,
    fire_times,
)
from autogpt_server.utils.clock import utc_now
from autogpt_server.utils.ids import new_id

router = APIRouter(tags=["schedules"], route_class=JsonRoute)

ScheduleIdPath = Annotated[str, Path(max_length=200, description="The schedule's id.")]
FireTimeCount = Annotated[
    int, Query(alias="fire_times", ge=0, le=MAX_FIRE_TIMES, description="How many of the next due times to list.")
]
Now = Annotated[datetime, Depends(utc_now)]

_CHANGE_TRIES = 5


class ScheduleBusy(RequestError):
    """The schedule is being changed by others; try again."""

    status = 409
    retryable = True


@router.get("/schedules", summary="List the schedules of all graphs, newest first", responses=problems(422))
async def get_all_schedules(
    context: Context, page: Paged, now: Now, count: FireTimeCount = 5
) -> list[ScheduleDocument]:
    """Each with its next due times and what is wrong with it."""
    shown = page.cut(
        await list_schedules(context.db, None, limit=page.fetch, before=page.start(str)), lambda schedule: schedule.id
    )
    return await schedule_documents(context, [schedule.id for schedule in shown], now, count)


@router.get(
    "/graphs/{graph_id}/schedules",
    summary="List a graph's schedules, newest first",
    responses=problems(404, 422),
)
async def get_schedules(
    context: Context, page: Paged, now: Now, graph_id: GraphIdPath, count: FireTimeCount = 5
) -> list[ScheduleDocument]:
    """Each with its next due times and what is wrong with it."""
    found = await list_schedules(context.db, graph_id, limit=page.fetch, before=page.start(str))
    if not found and not await graph_exists(context.db, graph_id):
        await graph_state(context.db, graph_id)  # raises: there is no such graph
    shown = page.cut(found, lambda schedule: schedule.id)
    return await schedule_documents(context, [schedule.id for schedule in shown], now, count)


@router.post("/graphs/{graph_id}/schedules", summary="Schedule a graph", responses=problems(404, 409, 413, 415, 422))
async def post_schedule(context: Context, now: Now, graph_id: GraphIdPath, body: ScheduleBody) -> ScheduleDocument:
    """Runs the graph on a cron expression, or once at a time.

    The input is checked against the graph now, and again whenever it is due. The answer lists the next due times: look whether they are the
    ones you meant.
    """
    fields = body.onto(ScheduleFields())
    found = await _input_problems(context, graph_id, fields)
    timing = _checked_timing(fields, found, schedule_id := new_id(), now)
    first = timing.next_fire(after=now) if fields.is_enabled else None
    await create_schedule(context.db, schedule_id, graph_id, fields, now=now, next_fire_at=first)
    await context.hints.schedules_changed()
    return await schedule_document(context, schedule_id, now)


@router.get("/graphs/schedules/{schedule_id}", summary="Read a schedule", responses=problems(404, 422))
async def get_one_schedule(
    context: Context, now: Now, schedule_id: ScheduleIdPath, count: FireTimeCount = 5
) -> ScheduleDocument:
    """With its next due times, and what is wrong with it."""
    return await schedule_document(context, schedule_id, now, count)


@router.put("/graphs/schedules/{schedule_id}", summary="Change a schedule", responses=problems(404, 409, 413, 415, 422))
async def put_schedule(context: Context, now: Now, schedule_id: ScheduleIdPath, body: ScheduleBody) -> ScheduleDocument:
    """Only the fields that are given change. A new timing counts from now on: nothing that it would have been due for before runs."""
    for _ in range(_CHANGE_TRIES):
        current = await get_schedule(context.db, schedule_id)
        fields = _unmasked(context, body.onto(current.fields), current)
        changed = {name for name in ScheduleFields.model_fields if getattr(fields, name) != getattr(current, name)}
        found: list[Problem] = []
        if changed & {"input_data", "graph_version"} or (fields.is_enabled and "is_enabled" in changed):
            found = await _input_problems(context, current.graph_id, fields)
        timing = _checked_timing(fields, found, schedule_id, now, may_be_over=not changed & TIMING_FIELDS)
        try:
            await change_schedule(context.db, schedule_id, ScheduleEdit(current, fields, timing, now), now=now)
        except ChangedMeanwhile:
            continue
        await context.hints.schedules_changed()
        return await schedule_document(context, schedule_id, now)
    raise ScheduleBusy


@router.delete(
    "/graphs/schedules/{schedule_id}",
    status_code=204,
    response_class=Response,
    summary="Delete a schedule",
    responses=problems(404, 422),
)
async def delete_one_schedule(context: Context, schedule_id: ScheduleIdPath) -> None:
    """Nothing of it is due any more, and its occurrences are gone; its runs stay."""
    await delete_schedule(context.db, schedule_id)
    await context.hints.schedules_changed()


@router.get(
    "/graphs/schedules/{schedule_id}/occurrences",
    summary="List what became of a schedule's due times, the latest first",
    responses=problems(404, 422),
)
async def get_occurrences(context: Context, page: Paged, schedule_id: ScheduleIdPath) -> list[Occurrence]:
    """Each due time that has come got a run, or has the reason why it got none."""
    found = await list_occurrences(context.db, schedule_id, limit=page.fetch, before=_read_moment(page.start(str)))
    if not found:
        await get_schedule(context.db, schedule_id)  # raises: there is no such schedule
    return page.cut(found, lambda occurrence: occurrence.due_at.isoformat())


@router.post("/schedules/preview", summary="See when a timing is due", responses=problems(413, 415, 422))
async def preview_schedule(now: Now, body: PreviewBody) -> PreviewDocument:
    """What a cron expression means, in plain English and as due times. Nothing is saved."""
    fields = body.onto(ScheduleFields())
    timing = _checked_timing(fields, [], "", now)
    return PreviewDocument(
        cron=fields.cron,
        at=fields.at,
        timezone=fields.timezone,
        description=describe_timing(timing),
        notes=notes(timing.cron, timing.zone, after=now) if timing.cron else [],
        next_fire_times=fire_times(timing, after=now, count=body.count),
    )


async def _input_problems(context: ServerContext, graph_id: str, fields: ScheduleFields) -> list[Problem]:
    """What keeps the graph from being started with the schedule's input. Raises `GraphNotFound`, `MissingBlock`."""
    state = await graph_state(context.db, graph_id)
    try:
        topology = await context.topologies.get(graph_id, fields.graph_version or state.current)
    except GraphVersionNotFound as error:
        return [Problem(error.code, str(error), pin="graph_version", expected=f"a version from 1 to {state.latest}")]
    return input_problems(topology, fields.input_data)


def _checked_timing(
    fields: ScheduleFields, found: Sequence[Problem], seed: str, now: datetime, *, may_be_over: bool = False
) -> Timing:
    """The timing of a schedule; `InvalidSchedule` with what is wrong with it and what was found before."""
    wrong = timing_problems(fields)
    timing = None if wrong else Timing.of(seed, fields)
    if timing is not None and not may_be_over and (problem := never_due(timing, after=now)) is not None:
        wrong.append(problem)
    wrong.extend(found)
    if timing is None or wrong:
        others = f" (and {len(wrong) - 1} more in `errors`)" if len(wrong) > 1 else ""
        raise InvalidSchedule(f"The schedule is not valid: {wrong[0].message}{others}", wrong)
    return timing


def _unmasked(context: ServerContext, fields: ScheduleFields, current: Schedule) -> ScheduleFields:
    """Secrets that come back as they were shown stay what they are."""
    shown = context.presenter.run_input(current.input_data)
    kept = {
        name: current.input_data[name]
        for name, value in fields.input_data.items()
        if value == MASK and shown.get(name) == MASK
    }
    return fields.model_copy(update={"input_data": fields.input_data | kept}) if kept else fields


def _read_moment(text: str | None) -> datetime | None:
    """The position in a list of occurrences. Raises `InvalidCursor`."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidCursor from None
