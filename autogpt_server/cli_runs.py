"""`cli run`: runs of a server, over its API: started, watched, explained, canceled, decided about."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, cast

import click

from autogpt_server.cli_api import ENDED, Api, RequestFailed, ServerUnreachable, problem_line
from autogpt_server.cli_group import ApiContext, api_group, object_option
from autogpt_server.cli_rerun import rerun
from autogpt_server.cli_words import explained, shown, signal_sent, table, time_text, told, why
from autogpt_server.utils import json
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.json import InvalidJSONValue
from autogpt_server.utils.process import ExitCode

_RECONNECT_S = 1.0
"""Between two attempts to go on following a run whose server is gone."""
_STREAM_TIMEOUT_S = 60.0
"""A stream sends something every 15 seconds; after so long without a word it is taken for broken."""
_MAX_LISTED = 500
_NO_CONTENT, _UNAVAILABLE = 204, 503


run = api_group("run", "Start runs, watch them, and do something about them.")


@run.command("list")
@click.argument("graph_id")
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(["QUEUED", "RUNNING", "WAITING", "COMPLETED", "FAILED", "CANCELED"], case_sensitive=False),
    help="Only runs with this status; may be given several times.",
)
@click.option("-n", "--limit", type=click.IntRange(1, _MAX_LISTED), default=20, show_default=True, help="How many.")
@click.pass_obj
def list_runs(context: ApiContext, graph_id: str, status: tuple[str, ...], limit: int) -> None:
    """List the runs of a graph, newest first."""
    with context.api() as api:
        query = {"limit": limit, "status": list(status) or None}
        runs = api.call("GET", f"/graphs/{graph_id}/executions", params=query)
    rows = [
        (item["id"], item["status"], f"v{item['graph_version']}", time_text(item["created_at"]), why(item))
        for item in runs
    ]
    context.tell(
        runs, table(("RUN", "STATUS", "GRAPH", "CREATED", ""), rows) if rows else ["The graph has no such runs."]
    )


@run.command()
@click.argument("run_id")
@click.pass_obj
def show(context: ApiContext, run_id: str) -> None:
    """Show a run with its node executions."""
    with context.api() as api:
        found = api.call("GET", f"/executions/{run_id}")
        nodes = list(api.items(f"/graphs/{found['graph_id']}/executions/{run_id}"))
        names = {} if context.as_json else _block_names(api)
    context.tell({"run": found, "nodes": nodes}, shown(found, nodes, names))


@run.command()
@click.argument("graph_id")
@click.option(
    "-i",
    "--input",
    "run_input",
    default="{}",
    help='The input, a JSON object, as {"name": "value"}; - reads it from stdin.',
)
@click.option("--graph-version", type=click.IntRange(min=1), help="Instead of the active version.")
@click.option("--priority", type=click.IntRange(-100, 100), help="Runs with a higher one go first.")
@click.option("--key", help="An Idempotency-Key: the same key starts one run, however often it is sent.")
@click.option("-f", "--follow", "is_followed", is_flag=True, help="Print what happens, until the run has ended.")
@click.pass_context
def start(  # noqa: PLR0917 - an option each
    ctx: click.Context,
    graph_id: str,
    run_input: str,
    graph_version: int | None,
    priority: int | None,
    key: str | None,
    *,
    is_followed: bool,
) -> None:
    """Start a run of a graph, and print its id."""
    context = cast("ApiContext", ctx.obj)
    text = sys.stdin.read() if run_input == "-" else run_input
    given = object_option(text, "--input")
    with context.api() as api:
        started = api.call(
            "POST",
            f"/graphs/{graph_id}/execute",
            given,
            params={"graph_version": graph_version, "priority": priority},
            # Without a key of its own a request whose answer is lost could not be told from one that never arrived.
            headers={"Idempotency-Key": key or new_id()},
        )
        if not is_followed:
            context.tell(started, [str(started["id"])])
            return
        _follow(ctx, api, str(started["id"]))


@run.command()
@click.argument("run_id")
@click.pass_obj
def cancel(context: ApiContext, run_id: str) -> None:
    """End a run early. It is CANCELED when everything in it has stopped; `cli run follow` shows when."""
    with context.api() as api:
        found = api.call("POST", f"/executions/{run_id}/cancel")
    context.tell(found, [f"asked for at {time_text(found['cancel_requested_at'])}; the run is {found['status']}"])


@run.command()
@click.argument("run_id")
@click.pass_obj
def explain(context: ApiContext, run_id: str) -> None:
    """Say why a run does not get on, and what can be done about it."""
    with context.api() as api:
        found = api.call("GET", f"/executions/{run_id}/explain")
    context.tell(found, explained(found))


@run.command(short_help="Decide about a node execution that is INTERRUPTED.")
@click.argument("run_id")
@click.argument("node_exec_id")
@click.argument("action", type=click.Choice(["retry", "skip", "fail"]))
@click.option("--attempt", type=click.IntRange(min=1), help="The attempt that is meant; by default the latest.")
@click.pass_obj
def resolve(context: ApiContext, run_id: str, node_exec_id: str, action: str, attempt: int | None) -> None:
    """Decide about a node execution that is INTERRUPTED: nobody knows what it has done outside.

    retry: call the block again. skip: keep what came and go on without the rest. fail: take it for failed.
    """
    with context.api() as api:
        body = {"action": action, "attempt": attempt}
        found = api.call("POST", f"/executions/{run_id}/nodes/{node_exec_id}/resolve", body)
    context.tell(found, [f"decided: {action}"])


@run.command(short_help="Send a signal to a node execution.")
@click.argument("run_id")
@click.argument("node_exec_id")
@click.argument("name")
@click.option("--value", default="null", help="What the block is given; JSON, or text as it is.")
@click.option("--key", help="The same key is one signal, however often it is sent; by default a new one.")
@click.pass_obj
def signal(  # noqa: PLR0917 - an argument or option each
    context: ApiContext, run_id: str, node_exec_id: str, name: str, value: str, key: str | None
) -> None:
    """Send the signal NAME to a node execution that waits for it, or will."""
    try:
        given = json.loads(value)
    except InvalidJSONValue:
        given = value
    body = {"name": name, "key": key or new_id(), "value": given}
    with context.api() as api:
        found = api.call("POST", f"/executions/{run_id}/nodes/{node_exec_id}/signal", body)
    context.tell(found, signal_sent(found, name, str(body["key"])))


@run.command()
@click.argument("run_id")
@click.pass_context
def follow(ctx: click.Context, run_id: str) -> None:
    """Print what happens in a run, until it has ended. Exit code 4: it has not COMPLETED.

    Goes on when the server comes back after it was gone.
    """
    with cast("ApiContext", ctx.obj).api() as api:
        _follow(ctx, api, run_id)


def _follow(ctx: click.Context, api: Api, run_id: str) -> None:
    context = cast("ApiContext", ctx.obj)
    names: dict[str, str] = {} if context.as_json else _block_names(api)
    status = ""
    for name, data in _events(api, run_id):
        context.tell({"event": name, "data": data}, told(name, data, names))
        found = data["run"] if name == "snapshot" else data
        if name != "node":
            status = str(found["status"])
    if status != "COMPLETED":
        ctx.exit(ExitCode.RUN_NOT_COMPLETED)


def _events(api: Api, run_id: str) -> Iterator[tuple[str, Any]]:
    """(name, data) of each event of a run until its end, over as many connections as it takes."""
    import httpx  # noqa: PLC0415 - `cli --help` need not wait for it

    last = ""  # the id of the last event that came
    is_lost = False
    while True:
        try:
            with api.client.stream(
                "GET",
                f"/executions/{run_id}/events",
                headers={"Last-Event-ID": last} if last else {},
                timeout=_STREAM_TIMEOUT_S,
            ) as response:
                if response.is_error:
                    response.read()
                    if not (last and response.status_code == _UNAVAILABLE):
                        raise RequestFailed(f"GET {api.url}/executions/{run_id}/events: {problem_line(response)}")
                elif response.status_code == _NO_CONTENT:
                    yield "run", api.call("GET", f"/executions/{run_id}")
                    return
                else:
                    is_lost = False
                    for event_id, name, data in _parsed(response.iter_lines()):
                        last = event_id
                        yield name, data
                        if name == "run" and data["status"] in ENDED:
                            return
        except httpx.ConnectError as error:
            if not last:
                raise ServerUnreachable(f"There is no server at {api.url}; start one with `poetry run app`.") from error
        except httpx.HTTPError as error:
            if not last:
                raise RequestFailed(f"GET {api.url}/executions/{run_id}/events failed: {error}.") from error
        if not is_lost:
            click.echo("the connection is lost; trying to go on", err=True)
            is_lost = True
        time.sleep(_RECONNECT_S)


def _parsed(lines: Iterable[str]) -> Iterator[tuple[str, str, Any]]:
    """(id, name, data) of server-sent events."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


def _block_names(api: Api) -> dict[str, str]:
    return {block["id"]: block["name"] for block in api.call("GET", "/blocks")}


run.add_command(rerun)
