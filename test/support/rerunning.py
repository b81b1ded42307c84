"""Re-runs in tests of the planner: written to a database and read back, as the server and a worker do it.

A repaired version of a graph is written like any other graph; its nodes are the same as those of that name before, and are called `A'`, `B'`, ...
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from autogpt_server.data.execution import insert_run
from autogpt_server.data.former import read_former_run
from autogpt_server.data.hidden import HiddenRun
from autogpt_server.data.hidden import written as without_written
from autogpt_server.data.models import Graph
from autogpt_server.data.pins import parse_parts, pick
from autogpt_server.data.run_rows import CommitOutcome, NewRun
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.flow import RunLimits
from autogpt_server.execution.rerun import choose_nodes, plan_rerun
from autogpt_server.execution.rows import new_run
from autogpt_server.execution.topology import Topology, build_topology
from autogpt_server.utils import json
from support.ledger import INLINE_BYTES, Ledger, open_memory, store_graph
from support.planning import BLOCKS, EPOCH, LIMITS, Game, numbered_ids, parse_graph, topology_of
from support.world import check_counters


def repaired(text: str) -> Topology:
    """The second version of a graph."""
    graph = parse_graph(text)
    nodes = [node.model_copy(update={"id": f"{node.id}'"}) for node in graph.nodes]
    links = [
        link.model_copy(update={"source_id": f"{link.source_id}'", "sink_id": f"{link.sink_id}'"})
        for link in graph.links
    ]
    return build_topology(Graph(id=graph.id, version=2, nodes=nodes, links=links), BLOCKS)


def planned(
    connection: sqlite3.Connection,
    topology: Topology,
    chosen: Collection[str],
    *,
    former_id: str = "run",
    run_id: str = "rerun",
    limits: RunLimits = LIMITS,
    new_id: Callable[[], str] | None = None,
) -> NewRun:
    """Plan a re-run."""
    former, scope, outcomes = read_former_run(
        connection, former_id, topology.version, lambda found, nodes: choose_nodes(topology, nodes, found, chosen)
    )
    return plan_rerun(
        scope,
        former,
        outcomes,
        run_id,
        new_id=new_id or numbered_ids(f"{run_id}-"),
        limits=limits,
        at=EPOCH,
        inline_value_bytes=INLINE_BYTES,
    )


def rerun(connection: sqlite3.Connection, topology: Topology, chosen: Collection[str], **options: Any) -> NewRun:
    """Plan a re-run and write it. Options as of `planned`."""
    run = planned(connection, topology, chosen, **options)
    for _ in slices(connection, run):
        pass
    with transaction(connection):
        insert_run(connection, without_written(run))
    return run


def slices(connection: sqlite3.Connection, run: NewRun) -> Iterator[int]:
    """Write a run hidden, in as many transactions as possible; yields how many rows there are after each."""
    writing = HiddenRun(run)
    place: int | None = 0
    while place is not None:
        with transaction(connection):
            place = writing.write_from(connection, place, slice_s=0)
        if place is not None:
            yield place


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def written(connection: sqlite3.Connection, run_id: str) -> list[str]:
    """The run's executions as lines of text, by node and number; `kept` marks those that were taken over."""
    rows = connection.execute(
        'SELECT e."id", e."agentNodeId", e."ordinal", e."status", e."replayOfId" IS NOT NULL, e."mixedOrigin", e."errorCode" '
        'FROM "AgentNodeExecution" e JOIN "AgentNode" n ON n."id" = e."agentNodeId" WHERE e."agentGraphExecutionId" = ? '
        'ORDER BY n."position", e."ordinal" IS NULL, e."ordinal", e."id"',
        (run_id,),
    ).fetchall()
    lines: list[str] = []
    for execution_id, node, ordinal, status, is_kept, is_mixed, error_code in rows:
        words = [f"{node}{'?' if ordinal is None else ordinal}", *["kept"] * is_kept, status, *["mixed"] * is_mixed]
        words += [error_code] if error_code else []
        words += [f"{slot}={json.dumps(value)}" for slot, value in sorted(_inputs(connection, execution_id).items())]
        lines.append(" ".join(words))
    return lines


def outputs(connection: sqlite3.Connection, run_id: str, node: str) -> list[tuple[str, Any]]:
    """What the executions of a node have yielded."""
    rows = connection.execute(
        'SELECT o."name", coalesce(o."data", big."data") FROM "AgentNodeExecution" e JOIN "AgentNodeExecutionInputOutput" o '
        'ON o."agentNodeExecutionId" = e."id" AND o."role" = \'output\' LEFT JOIN "AgentValue" big ON big."hash" = o."valueHash" '
        'WHERE e."agentGraphExecutionId" = ? AND e."agentNodeId" = ? ORDER BY e."ordinal", o."ordinal"',
        (run_id, node),
    )
    return [(pin, json.loads(text)) for pin, text in rows]


def _inputs(connection: sqlite3.Connection, execution_id: str) -> dict[str, Any]:
    rows = connection.execute(
        'SELECT v."name", v."sourcePart", coalesce(v."data", big."data", s."data", sbig."data") FROM "AgentNodeExecutionInputOutput" v '
        'LEFT JOIN "AgentValue" big ON big."hash" = v."valueHash" '
        'LEFT JOIN "AgentNodeExecutionInputOutput" s ON s."agentNodeExecutionId" = v."sourceExecutionId" AND s."role" = \'output\' '
        'AND s."ordinal" = v."sourceOrdinal" LEFT JOIN "AgentValue" sbig ON sbig."hash" = s."valueHash" '
        'WHERE v."agentNodeExecutionId" = ? AND v."role" = \'input\'',
        (execution_id,),
    )
    return {slot: pick(json.loads(text), parse_parts(part)) if part else json.loads(text) for slot, part, text in rows}


class Life:
    """A run and its re-runs, in one database."""

    def __init__(self, connection: Any, graph: str) -> None:
        self.connection = connection
        self.topology = topology_of(graph)
        store_graph(connection, self.topology)
        self.game = Game(self.topology)
        self.ledger = Ledger(connection, self.topology)

    def begin(self, run_input: dict[str, Any] | None = None, **limits: Any) -> None:
        self.game = Game(self.topology, replace(LIMITS, **limits))
        self.game.begin(run_input or {})
        state = self.game.state
        insert_run(self.connection, new_run(state, run_input or {}, created_at=EPOCH, inline_value_bytes=INLINE_BYTES))
        self.ledger.seq, self.ledger.epoch, self.ledger.claimed = state.seq, 1, False

    def play(self, script: str) -> None:
        """Play, and write what happened. A line `cancel` cancels the run."""
        before, is_canceled, after = script.partition("cancel")
        self.game.play(before)
        if is_canceled:
            self.game.close(RunStatus.CANCELED)
            self.game.play(after)
        self.save()

    def save(self) -> None:
        assert self.ledger.commit(self.game.state).outcome is CommitOutcome.DONE

    def rerun(self, *chosen: str, version: str | None = None, former: str = "run", **options: Any) -> NewRun:
        """Write a re-run, and have a worker take it up."""
        topology = self.topology
        if version is not None:
            topology = repaired(version)
            store_graph(self.connection, topology)
        run = rerun(self.connection, topology, chosen, former_id=former, **options)
        self.ledger = Ledger(self.connection, topology, run.id, seq=run.seq)
        if run.changes.run.ended_at is None:
            self.game = Game(topology, prefix=f"{run.id}-w")
            self.game.carry_on_with(self.ledger.take_over())
            check_counters(self.game.state)
            self.game.took(self.game.planner.resume())
        return run

    def status(self, run_id: str = "rerun") -> str:
        (status,) = self.connection.execute(
            'SELECT "status" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
        ).fetchone()
        return status

    def lines(self, run_id: str = "rerun") -> list[str]:
        return written(self.connection, run_id)


@contextmanager
def life(graph: str) -> Generator[Life]:
    with closing(open_memory()) as connection:
        yield Life(connection, graph)
