"""What `explain` says of a simulated run is held against its rows, and against what the processes really do."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

from autogpt_server.data.progress import RunFacts, facts_of
from autogpt_server.execution.explain import Cause, CauseCode, Circumstances, Explainer
from autogpt_server.execution.interfaces import QueueReport
from autogpt_server.execution.restore import static_pins
from autogpt_server.execution.topology import Topology
from support.simulation.watch import Broken

_STATUS = {
    CauseCode.RUNNING: "RUNNING",
    CauseCode.STOPPING: "RUNNING",
    CauseCode.QUEUED: "QUEUED",
    CauseCode.MAX_PARALLEL: "QUEUED",
    CauseCode.FAR_AHEAD: "QUEUED",
    CauseCode.BACKING_OFF: "QUEUED",
    CauseCode.NEEDS_DECISION: "INTERRUPTED",
    CauseCode.WAITS_FOR_SIGNAL: "WAITING",
    CauseCode.WAITS_FOR_CHILD: "WAITING",
    CauseCode.WAITS_FOR_TIME: "WAITING",
    CauseCode.INCOMPLETE: "INCOMPLETE",
}


def check_explanations(
    connection: sqlite3.Connection,
    topologies: Mapping[str, Topology],
    queue: QueueReport | None,
    is_alive: Callable[[str], bool],
    now: datetime,
) -> int:
    """Explain every run, and raise `Broken` where something said is not so. Answers how many causes were looked at."""
    runs: dict[str, RunFacts] = {}
    for run_id, graph_id in connection.execute('SELECT "id", "agentGraphId" FROM "AgentGraphExecution"').fetchall():
        facts = facts_of(connection, run_id, static_pins(topologies[graph_id]))
        if facts is not None:
            runs[run_id] = facts
    explainer = Explainer(
        runs,
        {(graph_id, topology.version): topology for graph_id, topology in topologies.items()},
        Circumstances(queue),
        now,
    )
    looked_at = 0
    for run_id, facts in runs.items():
        told = explainer.explain(run_id)
        try:
            _check_run(
                connection, run_id, facts.worker_id, told.causes, is_progressing=told.is_progressing, is_alive=is_alive
            )
        except AssertionError as error:
            raise Broken(f"of {run_id} it is said: {told.summary} {told.causes}; {error}") from error
        looked_at += len(told.causes)
    return looked_at


def _check_run(
    connection: sqlite3.Connection,
    run_id: str,
    worker_id: str | None,
    causes: list[Cause],
    *,
    is_progressing: bool,
    is_alive: Callable[[str], bool],
) -> None:
    status, ended_at, has_news = connection.execute(
        'SELECT "status", "endedAt", "inboxLast" > "inboxDone" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
    ).fetchone()
    rows = {
        row[0]: row
        for row in connection.execute(
            'SELECT "id", "status", "notBefore", "waitsFor", "childRunId", "errorCode" FROM "AgentNodeExecution" '
            'WHERE "agentGraphExecutionId" = ? AND "endedAt" IS NULL',
            (run_id,),
        )
    }
    codes = {cause.code for cause in causes}
    told = Counter(cause.node_exec_id for cause in causes if cause.node_exec_id in rows)
    assert causes, "nothing is said"
    assert set(told.values()) <= {1}, f"said twice: {told}"
    if ended_at is not None:
        assert not is_progressing
        assert CauseCode.ENDED in codes
        return
    assert set(rows) == set(told), f"nothing is said of {set(rows) - set(told)}"
    assert (CauseCode.HAS_NEWS in codes) == bool(has_news)
    assert not (is_progressing and status == "WAITING"), "it is WAITING and said to progress"
    if CauseCode.OWNER_GONE in codes:
        assert worker_id is not None
        assert not is_alive(worker_id), f"{worker_id} lives, and its manager, too"
    for cause in causes:
        if cause.node_exec_id in rows:
            _check_cause(connection, cause, rows[cause.node_exec_id], has_news=bool(has_news))


def _check_cause(
    connection: sqlite3.Connection,
    cause: Cause,
    row: tuple[str, str, str | None, str | None, str | None, str | None],
    *,
    has_news: bool,
) -> None:
    execution_id, status, not_before, waits_for, child_id, _ = row
    expected = _STATUS.get(cause.code)
    assert expected is None or status == expected, f"{execution_id} is {status}"
    match cause.code:
        case CauseCode.BACKING_OFF | CauseCode.WAITS_FOR_TIME:
            assert not_before is not None
            assert cause.until == datetime.fromisoformat(not_before)
        case CauseCode.WAITS_FOR_SIGNAL:
            assert cause.data["name"] == waits_for
        case CauseCode.WAITS_FOR_CHILD:
            assert cause.data["child_run_id"] == child_id
            (ended_at,) = connection.execute(
                'SELECT "endedAt" FROM "AgentGraphExecution" WHERE "id" = ?', (child_id,)
            ).fetchone()
            assert ended_at is None or has_news, "its child has ended, and nobody is told"
        case _:
            pass
