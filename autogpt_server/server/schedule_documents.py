"""Stored schedules as they are shown: with their next due times, what became of the latest one, and what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from autogpt_server.data.firing import situations
from autogpt_server.data.lateness import Lateness, lateness
from autogpt_server.data.schedule import ScheduleNotFound, last_occurrences
from autogpt_server.data.scheduling import DueSchedule, Occurrence
from autogpt_server.execution.cron import InvalidCron
from autogpt_server.execution.cron_words import describe_timing
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.topology import Topology
from autogpt_server.execution.vetting import standing_problems
from autogpt_server.execution.zones import UnknownTimeZone
from autogpt_server.server.context import ServerContext
from autogpt_server.server.presenting import Presenter
from autogpt_server.server.schedule_shapes import FireTime, ScheduleDocument, fire_times
from autogpt_server.utils.errors import AutoGPTServerError


async def schedule_document(
    context: ServerContext, schedule_id: str, now: datetime, count: int = 5
) -> ScheduleDocument:
    """One schedule, with `count` due times; `ScheduleNotFound`."""
    found = await schedule_documents(context, [schedule_id], now, count)
    if not found:
        raise ScheduleNotFound(f"There is no schedule {schedule_id}.")
    return found[0]


async def schedule_documents(
    context: ServerContext, schedule_ids: Sequence[str], now: datetime, count: int
) -> list[ScheduleDocument]:
    """Schedules in the order of their ids, without those that do not exist."""
    found = await situations(context.db, schedule_ids)
    last = await last_occurrences(context.db, found)
    late = await lateness(context.db, found)
    runnable = {key: await _runnable(context, *key) for key in {_version(due) for due in found.values()}}
    views = [
        _View(context.presenter, due, runnable[_version(due)], last.get(schedule_id), late.get(schedule_id), now)
        for schedule_id in schedule_ids
        if (due := found.get(schedule_id)) is not None
    ]

    def build() -> list[ScheduleDocument]:
        return [view.document(count) for view in views]

    return await asyncio.to_thread(build) if len(views) > 1 else build()


@dataclass(frozen=True, slots=True)
class _View:
    """All that is shown of one schedule."""

    presenter: Presenter
    due: DueSchedule
    runnable: Topology | AutoGPTServerError | None
    last: Occurrence | None
    late: Lateness | None
    now: datetime

    def document(self, count: int) -> ScheduleDocument:
        schedule = self.due.schedule
        fields: dict[str, Any] = schedule.fields.model_dump()
        fields["input_data"] = self.presenter.run_input(schedule.input_data)
        times: list[FireTime] = []
        try:
            timing = Timing.of(schedule.id, schedule)
            description = describe_timing(timing)
            if schedule.is_enabled:
                times = fire_times(timing, after=max(self.now, schedule.accounted_until), count=count)
        except (InvalidCron, UnknownTimeZone) as error:
            description = str(error)
        return ScheduleDocument(
            **fields,
            id=schedule.id,
            graph_id=schedule.graph_id,
            description=description,
            next_fire_times=times,
            problems=standing_problems(self.due, self.runnable, self.last, now=self.now),
            last_occurrence=self.last,
            lateness=self.late,
            created_at=schedule.created_at,
            updated_at=schedule.updated_at,
        )


def _version(due: DueSchedule) -> tuple[str, int | None]:
    return due.schedule.graph_id, due.runnable_version


async def _runnable(context: ServerContext, graph_id: str, version: int | None) -> Topology | AutoGPTServerError | None:
    """The graph version that a run would get, or why it could not be run; None if there is none."""
    if version is None:
        return None
    try:
        return await context.topologies.get(graph_id, version)
    except AutoGPTServerError as error:
        return error
