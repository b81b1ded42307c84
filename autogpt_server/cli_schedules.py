"""`cli schedule`: schedules of a server, over its API: looked at, made, paused, and what became of their due times."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

import click

from autogpt_server.cli_group import ApiContext, api_group, object_option
from autogpt_server.cli_schedule_words import listed, occurred, paused, previewed, resumed, shown

_MAX_LISTED = 500
_Command = TypeVar("_Command", bound=Callable[..., Any])

schedule = api_group("schedule", "Schedule graphs, and see when they are due and what became of it.")


def _timing_options(command: _Command) -> _Command:
    """The options that say when something is due."""
    options = (
        click.option(
            "--cron",
            help='Minute, hour, day of month, month, day of week, as in "0 9 * * 1-5"; six fields: seconds first.',
        ),
        click.option(
            "--at", help="Once, at a time as 2026-12-24T18:00; a local time of --timezone, or with an offset."
        ),
        click.option("--timezone", metavar="ZONE", help="An IANA time zone, as Europe/Berlin; by default UTC."),
        click.option("--starts-at", metavar="TIME", help="Not due before this time."),
        click.option("--ends-at", metavar="TIME", help="Not due after this time."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _timing(given: dict[str, Any]) -> dict[str, Any]:
    """The fields that were given; what was left out has the server's default."""
    if (given["cron"] is None) == (given["at"] is None):
        raise click.UsageError("Say when it is due: give either --cron EXPRESSION or --at TIME.")
    return {name: value for name, value in given.items() if value is not None}


@schedule.command("list")
@click.argument("graph_id", required=False)
@click.option("--problems", "only_problems", is_flag=True, help="Only those with which something is wrong.")
@click.option("-n", "--limit", type=click.IntRange(1, _MAX_LISTED), default=50, show_default=True, help="How many.")
@click.pass_obj
def list_schedules(context: ApiContext, graph_id: str | None, limit: int, *, only_problems: bool) -> None:
    """List the schedules of a graph, or of all graphs, newest first, with what is wrong with them."""
    path = "/schedules" if graph_id is None else f"/graphs/{graph_id}/schedules"
    with context.api() as api:
        every = (item for item in api.items(f"{path}?fire_times=1") if item["problems"] or not only_problems)
        found = list(islice(every, limit))
    context.tell(found, listed(found))


@schedule.command()
@click.argument("schedule_id")
@click.pass_obj
def show(context: ApiContext, schedule_id: str) -> None:
    """Show a schedule: its next due times, how late it was, and what is wrong with it."""
    with context.api() as api:
        found = api.call("GET", f"/graphs/schedules/{schedule_id}")
    context.tell(found, shown(found))


@schedule.command(short_help="Schedule a graph.")
@click.argument("graph_id")
@_timing_options
@click.option(
    "-i", "--input", "run_input", default="{}", help="The input of each run, a JSON object; - reads it from stdin."
)
@click.option("--name", help="For people.")
@click.option("--graph-version", type=click.IntRange(min=1), help="Run this version, not the one that is active then.")
@click.option(
    "--catch-up",
    type=click.Choice(["latest", "all", "none"]),
    help="What was missed while the server was down; by default the latest runs.",
)
@click.option(
    "--overlap",
    type=click.Choice(["skip", "queue", "allow"]),
    help="When it is due while a run of it has not ended; by default it is skipped.",
)
@click.option("--jitter", "jitter_s", type=click.FloatRange(0), metavar="SECONDS", help="Start later by a part of it.")
@click.option("--paused", "is_paused", is_flag=True, help="Do nothing before `cli schedule resume`.")
@click.pass_obj
def add(context: ApiContext, graph_id: str, run_input: str, *, is_paused: bool, **given: Any) -> None:
    """Run a graph on a cron expression, or once at a time.

    Prints the schedule with its next due times: look whether they are the ones you meant.
    """
    body = _timing(given)
    body["input_data"] = object_option(sys.stdin.read() if run_input == "-" else run_input, "--input")
    body["is_enabled"] = not is_paused
    with context.api() as api:
        found = api.call("POST", f"/graphs/{graph_id}/schedules", body)
    context.tell(found, shown(found))


@schedule.command()
@click.argument("schedule_id")
@click.pass_obj
def pause(context: ApiContext, schedule_id: str) -> None:
    """Stop a schedule for now. What would be due meanwhile does not run later."""
    with context.api() as api:
        found = api.call("PUT", f"/graphs/schedules/{schedule_id}", {"is_enabled": False})
    context.tell(found, paused(found))


@schedule.command()
@click.argument("schedule_id")
@click.pass_obj
def resume(context: ApiContext, schedule_id: str) -> None:
    """Have a paused schedule go on from now. Refused if it cannot run: its input is checked against the graph."""
    with context.api() as api:
        found = api.call("PUT", f"/graphs/schedules/{schedule_id}", {"is_enabled": True})
    context.tell(found, resumed(found))


@schedule.command()
@_timing_options
@click.option("-n", "--count", type=click.IntRange(0, 100), default=5, show_default=True, help="How many due times.")
@click.pass_obj
def preview(context: ApiContext, **given: Any) -> None:
    """Say in words what an expression means, and when it is due. Nothing is saved."""
    body = _timing(given)
    with context.api() as api:
        found = api.call("POST", "/schedules/preview", body)
    context.tell(found, previewed(found))


@schedule.command()
@click.argument("schedule_id")
@click.option("-n", "--limit", type=click.IntRange(1, _MAX_LISTED), default=20, show_default=True, help="How many.")
@click.pass_obj
def occurrences(context: ApiContext, schedule_id: str, limit: int) -> None:
    """List what became of a schedule's due times, the latest first: the run, or why there is none."""
    with context.api() as api:
        found = api.call("GET", f"/graphs/schedules/{schedule_id}/occurrences", params={"limit": limit})
    context.tell(found, occurred(found))
