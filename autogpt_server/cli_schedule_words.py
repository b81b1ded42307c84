"""What `cli schedule` prints: schedules, due times and what became of them in words, from the documents of the API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from autogpt_server.cli_words import table, time_text
from autogpt_server.utils import json


def listed(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Schedules, each with what is wrong with it."""
    if not found:
        yield "There are no such schedules; `cli schedule add` makes one."
        return
    rows: list[tuple[str, ...]] = []
    for schedule in found:
        name = f"{schedule['name']}: " if schedule["name"] else ""
        rows.append(
            (schedule["id"], schedule["graph_id"], _state(schedule), _next(schedule), name + schedule["description"])
        )
        rows += [("", "", "", "", f"! {problem['message']}") for problem in schedule["problems"]]
    yield from table(("SCHEDULE", "GRAPH", "STATE", "NEXT", ""), rows)


def shown(schedule: dict[str, Any]) -> Iterator[str]:
    """A schedule, its next due times and what is wrong with it."""
    yield f"schedule {schedule['id']}"
    if schedule["name"]:
        yield f"name     {schedule['name']}"
    version = schedule["graph_version"]
    yield f"graph    {schedule['graph_id']} {'the active version' if version is None else f'v{version}'}"
    yield f"when     {schedule['description']}"
    yield f"state    {_state(schedule)}"
    yield f"missed   catch_up {schedule['catch_up']}, overlap {schedule['overlap']}"
    if schedule["input_data"]:
        yield f"input    {json.dumps(schedule['input_data'])}"
    if last := schedule["last_occurrence"]:
        yield f"last     {time_text(last['due_at'])} {became(last)}"
    if late := schedule["lateness"]:
        times = ", ".join(f"{name} {seconds_text(late[f'{name}_s'])}" for name in ("p50", "p99", "max"))
        yield f"late     {times} (of {late['runs']} {'run' if late['runs'] == 1 else 'runs'})"
    for problem in schedule["problems"]:
        yield f"problem  {problem['message']}"
    yield from due_times(schedule["next_fire_times"], "It is not due at any time." if schedule["is_enabled"] else "")


def due_times(found: Sequence[dict[str, str]], otherwise: str) -> Iterator[str]:
    """Due times on the clocks of the zone and in UTC; `otherwise`: what is said if there are none."""
    if found:
        yield ""
        rows = [(_local_text(moment["local"]), time_text(moment["utc"])) for moment in found]
        yield from table(("DUE", "UTC"), rows)
    elif otherwise:
        yield otherwise


def previewed(found: dict[str, Any]) -> Iterator[str]:
    """What a timing means."""
    yield found["description"]
    for note in found["notes"]:
        yield f"- {note}"
    yield from due_times(found["next_fire_times"], "")


def paused(schedule: dict[str, Any]) -> Iterator[str]:
    """That a schedule does nothing for now."""
    yield f"paused; nothing of it is due until `cli schedule resume {schedule['id']}`"


def resumed(schedule: dict[str, Any]) -> Iterator[str]:
    """That a schedule goes on, and whether it will run."""
    yield f"goes on; due next: {_next(schedule) or 'never'}"
    for problem in schedule["problems"]:
        yield f"! {problem['message']}"


def occurred(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Occurrences with their runs, or the reasons why they have none."""
    if not found:
        yield "It has not been due yet."
        return
    rows = [
        (
            time_text(occurrence["due_at"]),
            occurrence["status"],
            late_text(occurrence),
            occurrence["run_id"] or "",
            occurrence["reason"] or occurrence["run_status"] or "",
        )
        for occurrence in found
    ]
    yield from table(("DUE", "STATUS", "LATE", "RUN", ""), rows)


def became(occurrence: dict[str, Any]) -> str:
    """What became of a due time."""
    if occurrence["run_id"]:
        return f"run {occurrence['run_id']} {occurrence['run_status']}"
    return f"{occurrence['status']}{f': {reason}' if (reason := occurrence['reason']) else ''}"


def late_text(occurrence: dict[str, Any]) -> str:
    """How long after its due time a run was committed."""
    if occurrence["started_at"] is None:
        return ""
    late = datetime.fromisoformat(occurrence["started_at"]) - datetime.fromisoformat(occurrence["due_at"])
    return seconds_text(late.total_seconds())


def seconds_text(seconds: float) -> str:
    """A duration, to the precision that matters at its size."""
    return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.0f} s"


def _state(schedule: dict[str, Any]) -> str:
    if not schedule["is_enabled"]:
        return "paused"
    return "PROBLEM" if schedule["problems"] else "on"


def _next(schedule: dict[str, Any]) -> str:
    times = schedule["next_fire_times"]
    return _local_text(times[0]["local"]) if times else ""


def _local_text(text: str) -> str:
    """A local time of the API with its offset, to the second."""
    moment = datetime.fromisoformat(text)
    return moment.replace(microsecond=0).isoformat(" ")
