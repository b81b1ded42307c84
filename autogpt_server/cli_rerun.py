"""`cli run rerun`: runs a part of an ended run again."""

from __future__ import annotations

import click

from autogpt_server.cli_api import Api
from autogpt_server.cli_group import ApiContext
from autogpt_server.utils.ids import new_id


@click.command()
@click.argument("run_id")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.option(
    "--graph-version", type=click.IntRange(min=1), help="A repaired version of the graph; else the run's own is used."
)
@click.option("--key", help="An Idempotency-Key: the same key starts one run, however often it is sent.")
@click.pass_obj
def rerun(context: ApiContext, run_id: str, nodes: tuple[str, ...], graph_version: int | None, key: str | None) -> None:
    """Run an ended run again from some of its nodes on, as a new run.

    What these nodes do not reach is kept, and not done or paid for again. A NODE is the id of a node in the run's version of the graph or in
    --graph-version, or of one of its node executions, as `cli run show` lists them. Prints the new run's id.
    """
    with context.api() as api:
        body = {"node_ids": _node_ids(api, run_id, nodes), "graph_version": graph_version}
        headers = {"Idempotency-Key": key or new_id()}
        started = api.call("POST", f"/executions/{run_id}/rerun", body, headers=headers)
    context.tell(started, [str(started["id"])])


def _node_ids(api: Api, run_id: str, given: tuple[str, ...]) -> list[str]:
    """Nodes by their ids, where they are named by one of their executions."""
    run = api.call("GET", f"/executions/{run_id}")
    node_of: dict[str, str] = {}
    unknown = set(given)
    for execution in api.items(f"/graphs/{run['graph_id']}/executions/{run_id}"):
        if execution["node_exec_id"] in unknown:
            node_of[execution["node_exec_id"]] = str(execution["node_id"])
        unknown -= {execution["node_exec_id"], execution["node_id"]}
        if not unknown:
            break
    return [node_of.get(each, each) for each in given]
