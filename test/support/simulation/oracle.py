"""Compares runs that ended undisturbed with what `support.kahn` says must come of their graphs: it knows no events, attempts or crashes."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from typing import Any, cast

from autogpt_server.utils import json
from support.kahn import ERROR, Outcome, solve
from support.simulation.blocks import Plan
from support.simulation.watch import Broken

_DISTURBED = (
    "outcome_unknown",
    "worker_died",
    "limit_exceeded",
    "not_pure",
    "timeout",
)


def compare(connection: sqlite3.Connection, run_id: str, plan: Plan, solved: dict[str, Outcome]) -> bool:
    """Raise `Broken` unless the run came to what it must; False if something has disturbed it, so that nobody can tell."""
    if not (plan.has_oracle and plan.is_mild) or _is_disturbed(connection, run_id):
        return False
    if plan.id not in solved:
        solved[plan.id] = solve(plan.spec)
    expected, found = solved[plan.id], _read(connection, run_id)
    for node in plan.spec.nodes:
        firings = expected.firings[node.name]
        _same(
            f"{run_id} {node.name} inputs",
            [row["inputs"] for row in found[node.name, True]],
            [f.inputs for f in firings],
        )
        _same(
            f"{run_id} {node.name} outputs",
            [row["outputs"] for row in found[node.name, True]],
            [f.outputs for f in firings],
        )
        _same(
            f"{run_id} {node.name} failed",
            [row["failed"] for row in found[node.name, True]],
            [f.failed for f in firings],
        )
        _same(
            f"{run_id} {node.name} mixed", [row["mixed"] for row in found[node.name, True]], [f.mixed for f in firings]
        )
        incomplete = sorted((row["inputs"] for row in found[node.name, False]), key=_order)
        _same(f"{run_id} {node.name} incomplete", incomplete, sorted(expected.incomplete[node.name], key=_order))
    status, stats = connection.execute(
        'SELECT "status", "stats" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
    ).fetchone()
    _same(f"{run_id} unhandled", cast("dict[str, Any]", json.loads(stats))["unhandled"], len(expected.unhandled))
    _same(f"{run_id} status", status, "FAILED" if expected.unhandled else "COMPLETED")
    return True


def _same(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise Broken(f"{what}: {found} and not {expected}")


def _order(inputs: dict[str, Any]) -> str:
    return json.dumps(dict(sorted(inputs.items())))


def _is_disturbed(connection: sqlite3.Connection, run_id: str) -> bool:
    """Whether somebody had a say in the run, or its outcome is not known in part."""
    (canceled, closing) = connection.execute(
        'SELECT "cancelRequestedAt", "closing" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
    ).fetchone()
    if canceled is not None or closing is not None:
        return True
    ended = connection.execute(
        'SELECT DISTINCT "status", "errorCode" FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ?', (run_id,)
    ).fetchall()
    attempts = connection.execute(
        'SELECT DISTINCT a."outcome" FROM "AgentNodeExecutionAttempt" a JOIN "AgentNodeExecution" e ON e."id" = a."agentNodeExecutionId" '
        'WHERE e."agentGraphExecutionId" = ?',
        (run_id,),
    ).fetchall()
    return (
        any(status in ("SKIPPED", "CANCELED") or code in _DISTURBED for status, code in ended)
        or ("INTERRUPTED",) in attempts
    )


def _read(connection: sqlite3.Connection, run_id: str) -> dict[tuple[str, bool], list[dict[str, Any]]]:
    """(node, whether it was queued) -> its executions: queued ones by number, the others as they were made."""
    outputs: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for execution_id, pin, text in connection.execute(
        'SELECT v."agentNodeExecutionId", v."name", v."data" FROM "AgentNodeExecutionInputOutput" v JOIN "AgentNodeExecution" e '
        'ON e."id" = v."agentNodeExecutionId" WHERE e."agentGraphExecutionId" = ? AND v."role" = \'output\' ORDER BY 1, v."ordinal"',
        (run_id,),
    ):
        outputs[execution_id].append((pin, cast("Any", json.loads(text))))
    inputs: dict[str, dict[str, Any]] = defaultdict(dict)
    for execution_id, slot, source_id, ordinal, part in connection.execute(
        'SELECT v."agentNodeExecutionId", v."name", v."sourceExecutionId", v."sourceOrdinal", v."sourcePart" FROM "AgentNodeExecutionInputOutput" v '
        'JOIN "AgentNodeExecution" e ON e."id" = v."agentNodeExecutionId" WHERE e."agentGraphExecutionId" = ? AND v."role" = \'input\'',
        (run_id,),
    ):
        value = cast("Any", outputs[source_id][ordinal][1])
        inputs[execution_id][slot] = _without_words(value["k"] if part else value)
    found: dict[tuple[str, bool], list[dict[str, Any]]] = defaultdict(list)
    for execution_id, node, status, ordinal, mixed in connection.execute(
        'SELECT "id", "agentNodeId", "status", "ordinal", "mixedOrigin" FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? '
        'ORDER BY "ordinal", "addedSeq", "id"',
        (run_id,),
    ):
        found[node, ordinal is not None].append(
            {
                "inputs": inputs[execution_id],
                "outputs": [(pin, _without_words(value)) for pin, value in outputs[execution_id]],
                "failed": status == "FAILED",
                "mixed": bool(mixed),
            }
        )
    return found


def _without_words(value: Any) -> Any:
    """Messages of executions that failed before they began are the server's own."""
    return ERROR if isinstance(value, str) and not value[0].isdigit() else value
