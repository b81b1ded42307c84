"""A run that has ended, read for a re-run of it (rule D9). Plain SQL inside `Database.read_aside`, one snapshot for all of it.

First what decides which nodes run again (`load_former_run`), then, of the other nodes alone, what is taken over (`load_outcomes`). Values stay in the
database, where they are copied: read are only those that travel on, to nodes that run again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from autogpt_server.data.block import ERROR_PIN
from autogpt_server.data.db import Database
from autogpt_server.data.run_rows import CONVERTED, INPUT
from autogpt_server.data.runs import RunNotFound, RunStillActive
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.utils import json


@dataclass(frozen=True, slots=True)
class FormerNode:
    """A node of a graph version, as far as it can be found again in another one."""

    id: str
    key: str
    block_id: str
    defaults: Mapping[str, Any]
    metadata: Mapping[str, Any]


class Standing(NamedTuple):
    """A status that executions of a node have."""

    node_id: str
    status: NodeStatus
    was_queued: bool


class OwedPin(NamedTuple):
    """Values of this pin never travelled, or may not have reached every node that they should: the run was ended before."""

    node_id: str
    pin: str
    status: NodeStatus
    """Of the executions that yielded them."""


@dataclass(frozen=True, slots=True)
class FormerRun:
    """A run that has ended, in short."""

    id: str
    graph_id: str
    graph_version: int
    input: str
    """JSON object."""
    priority: int
    nodes: list[FormerNode]
    standings: list[Standing]
    owed: list[OwedPin]


class FormerExecution(NamedTuple):
    """A node execution of a former run."""

    id: str
    node_id: str
    status: NodeStatus
    ordinal: int | None
    queued_seq: int | None
    error_code: str | None
    error: str | None


class FormerInput(NamedTuple):
    """A value that entered a former execution."""

    execution_id: str
    ordinal: int
    slot: str
    source_id: str | None
    source_ordinal: int | None


class FormerOutput(NamedTuple):
    """A value that a former execution yielded."""

    execution_id: str
    ordinal: int
    pin: str
    size_bytes: int
    released_seq: int | None


@dataclass(slots=True)
class Outcomes:
    """What came of some nodes in a former run."""

    executions: list[FormerExecution]
    """Oldest first."""
    inputs: list[FormerInput] = field(default_factory=list[FormerInput])
    converted: list[tuple[str, int, str]] = field(default_factory=list[tuple[str, int, str]])
    """(execution id, ordinal, pin) of what conversion made of inputs."""
    outputs: list[FormerOutput] = field(default_factory=list[FormerOutput])
    texts: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    """(execution id, ordinal) -> JSON, of the outputs that travel on."""
    orphans: dict[tuple[str, int], tuple[str, str | None]] = field(
        default_factory=dict[tuple[str, int], tuple[str, str | None]]
    )
    """(execution id, ordinal) -> JSON, and which part of it travelled, of inputs that came from executions of other nodes."""


_OF_NODES = ' WHERE e."agentGraphExecutionId" = :run AND e."agentNodeId" IN (SELECT "value" FROM json_each(:nodes)) '
_SELECT_EXECUTIONS = (
    'SELECT e."id", e."agentNodeId", e."status", e."ordinal", e."queuedSeq", e."errorCode", e."error" FROM "AgentNodeExecution" e'  # noqa: S608 - constants alone
    + _OF_NODES
    + 'ORDER BY e."id"'
)
_SELECT_VALUES = (
    'SELECT e."id", v."role", v."ordinal", v."name", v."sourceExecutionId", v."sourceOrdinal", v."releasedSeq", '  # noqa: S608 - constants alone
    'coalesce(big."sizeBytes", length(CAST(v."data" AS BLOB)), 0) FROM "AgentNodeExecution" e '
    'CROSS JOIN "AgentNodeExecutionInputOutput" v ON v."agentNodeExecutionId" = e."id" LEFT JOIN "AgentValue" big ON big."hash" = v."valueHash"'
    + _OF_NODES
    + 'ORDER BY e."id", v."role", v."ordinal"'
)


class Choice(Protocol):
    """Which nodes of a former run are kept, and what of them travels on."""

    @property
    def kept(self) -> Mapping[str, Any]:
        """By their ids."""
        ...

    @property
    def sent(self) -> Collection[tuple[str, str]]:
        """(node id, pin)."""
        ...


T = TypeVar("T")
ChoiceT = TypeVar("ChoiceT", bound=Choice)


def read_former_run(
    connection: sqlite3.Connection, run_id: str, version: int, choose: Callable[[FormerRun, list[FormerNode]], ChoiceT]
) -> tuple[FormerRun, ChoiceT, Outcomes]:
    """Read a run that has ended. `choose` decides what is kept, seeing the nodes of `version` of the graph. Raises `RunNotFound`, `RunStillActive`."""
    former = load_former_run(connection, run_id)
    choice = choose(former, load_nodes(connection, former.graph_id, version))
    return former, choice, load_outcomes(connection, former.id, choice.kept, choice.sent)


async def plan_from(
    db: Database,
    run_id: str,
    version: int,
    choose: Callable[[FormerRun, list[FormerNode]], ChoiceT],
    plan: Callable[[FormerRun, ChoiceT, Outcomes], T],
) -> T:
    """What `plan` makes of what `read_former_run` reads, as one snapshot. Both happen in a thread of their own: of a large run it takes seconds."""
    return await db.read_aside(lambda connection: plan(*read_former_run(connection, run_id, version, choose)))


def load_nodes(connection: sqlite3.Connection, graph_id: str, version: int) -> list[FormerNode]:
    """The nodes of a graph version, in its order."""
    rows = connection.execute(
        'SELECT "id", "key", "agentBlockId", "constantInput", "metadata" FROM "AgentNode" WHERE "agentGraphId" = ? AND "agentGraphVersion" = ? ORDER BY "position"',
        (graph_id, version),
    )
    return [
        FormerNode(node_id, key, block_id, _object(defaults), _object(metadata))
        for node_id, key, block_id, defaults, metadata in rows
    ]


def _object(text: str) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(text))


def load_former_run(connection: sqlite3.Connection, run_id: str) -> FormerRun:
    """Read a run that has ended. Raises `RunNotFound`, `RunStillActive`."""
    row = connection.execute(
        'SELECT "agentGraphId", "agentGraphVersion", "input", "priority", "status", "errorCode" FROM "AgentGraphExecution" WHERE "id" = ?',
        (run_id,),
    ).fetchone()
    if row is None:
        raise RunNotFound(f"There is no run {run_id}.")
    graph_id, version, run_input, priority, status, error_code = row
    if not RunStatus(status).is_terminal:
        raise RunStillActive(f"The run {run_id} has not ended yet. Cancel it, or wait until it ends.")
    standings = connection.execute(
        'SELECT DISTINCT "agentNodeId", "status", "queuedAt" IS NOT NULL FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ?',
        (run_id,),
    )
    return FormerRun(
        run_id,
        graph_id,
        version,
        run_input,
        priority,
        load_nodes(connection, graph_id, version),
        [Standing(node_id, NodeStatus(state), bool(queued)) for node_id, state, queued in standings],
        [] if status == RunStatus.COMPLETED else _load_owed(connection, run_id, error_code),
    )


def _load_owed(connection: sqlite3.Connection, run_id: str, error_code: str | None) -> list[OwedPin]:
    outputs = (
        'SELECT DISTINCT e."agentNodeId", o."name", e."status" FROM "AgentNodeExecution" e CROSS JOIN "AgentNodeExecutionInputOutput" o '
        'ON o."agentNodeExecutionId" = e."id" AND o."role" = \'output\' WHERE e."agentGraphExecutionId" = :run AND '
    )
    rows = connection.execute(f'{outputs} o."releasedSeq" IS NULL', {"run": run_id}).fetchall()
    # A run that could not be carried on with has failures that were never sent.
    rows += connection.execute(
        'SELECT DISTINCT e."agentNodeId", :error, e."status" FROM "AgentNodeExecution" e WHERE e."agentGraphExecutionId" = :run '
        'AND e."status" = \'FAILED\' AND NOT EXISTS (SELECT 1 FROM "AgentNodeExecutionInputOutput" o WHERE '
        'o."agentNodeExecutionId" = e."id" AND o."role" = \'output\' AND o."name" = :error)',
        {"run": run_id, "error": ERROR_PIN},
    ).fetchall()
    if error_code == "limit_exceeded":
        # The limit was reached while values were being delivered: those released last may not have come everywhere.
        (last,) = connection.execute(
            'SELECT max(o."releasedSeq") FROM "AgentNodeExecution" e CROSS JOIN "AgentNodeExecutionInputOutput" o '
            'ON o."agentNodeExecutionId" = e."id" WHERE e."agentGraphExecutionId" = ?',
            (run_id,),
        ).fetchone()
        rows += connection.execute(f'{outputs} o."releasedSeq" = :last', {"run": run_id, "last": last}).fetchall()
    return [OwedPin(node_id, pin, NodeStatus(status)) for node_id, pin, status in rows]


def load_outcomes(
    connection: sqlite3.Connection, run_id: str, node_ids: Iterable[str], sent: Collection[tuple[str, str]]
) -> Outcomes:
    """What came of these nodes. `sent`: (node id, pin) of the outputs that travel on."""
    nodes = {"run": run_id, "nodes": json.dumps(list(node_ids))}
    found = Outcomes(
        [
            FormerExecution(execution_id, node_id, NodeStatus(status), *rest)
            for execution_id, node_id, status, *rest in connection.execute(_SELECT_EXECUTIONS, nodes)
        ]
    )
    owners = {execution.id: execution for execution in found.executions}
    rows = connection.execute(_SELECT_VALUES, nodes)
    for execution_id, role, ordinal, name, source_id, source_ordinal, released_seq, size in rows:
        owner = owners[execution_id]  # its id is kept once, not once for each value
        if role == CONVERTED:
            found.converted.append((owner.id, ordinal, name))
        elif role == INPUT:
            source = owners.get(source_id)
            if source_id is not None and source is None:
                found.orphans[owner.id, ordinal] = _orphan(connection, owner.id, ordinal)
            found.inputs.append(
                FormerInput(owner.id, ordinal, name, None if source is None else source.id, source_ordinal)
            )
        else:
            found.outputs.append(FormerOutput(owner.id, ordinal, name, size, released_seq))
            if (owner.node_id, name) in sent:
                found.texts[owner.id, ordinal] = _text(connection, owner.id, ordinal)
    return found


def _text(connection: sqlite3.Connection, execution_id: str, ordinal: int) -> str:
    (text,) = connection.execute(
        'SELECT coalesce(o."data", big."data") FROM "AgentNodeExecutionInputOutput" o LEFT JOIN "AgentValue" big ON big."hash" = o."valueHash" '
        'WHERE o."agentNodeExecutionId" = ? AND o."role" = \'output\' AND o."ordinal" = ?',
        (execution_id, ordinal),
    ).fetchone()
    return text


def _orphan(connection: sqlite3.Connection, execution_id: str, ordinal: int) -> tuple[str, str | None]:
    source_id, source_ordinal, part = connection.execute(
        'SELECT "sourceExecutionId", "sourceOrdinal", "sourcePart" FROM "AgentNodeExecutionInputOutput" '
        'WHERE "agentNodeExecutionId" = ? AND "role" = \'input\' AND "ordinal" = ?',
        (execution_id, ordinal),
    ).fetchone()
    return _text(connection, source_id, source_ordinal), part
