"""What must hold of every commit, whoever made it. Nothing here shares code with what it watches: triggers see each row as it changes."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from autogpt_server.data.block import BlockContext, Effects
from support.simulation.blocks import Plan

_RUN, _EXECUTION, _VALUE, _INBOX = (
    "AgentGraphExecution",
    "AgentNodeExecution",
    "AgentNodeExecutionInputOutput",
    "AgentRunInboxEntry",
)
_TERMINAL = {"COMPLETED", "FAILED", "CANCELED", "SKIPPED"}

# Several transitions may share a commit, so what can be seen is their closure. (Spelled out here: the tables of the server are what is watched.)
_LATER = {
    _RUN: {
        "QUEUED": {"RUNNING", "WAITING", *_TERMINAL},
        "RUNNING": {"WAITING", *_TERMINAL},
        "WAITING": {"RUNNING", *_TERMINAL},
    },
    _EXECUTION: {
        "INCOMPLETE": {"QUEUED", "RUNNING", "WAITING", "INTERRUPTED", *_TERMINAL},
        "QUEUED": {"RUNNING", "WAITING", "INTERRUPTED", *_TERMINAL},
        "RUNNING": {"QUEUED", "WAITING", "INTERRUPTED", *_TERMINAL},
        "WAITING": {"QUEUED", "RUNNING", "INTERRUPTED", *_TERMINAL},
        "INTERRUPTED": {"QUEUED", "RUNNING", "WAITING", *_TERMINAL},
    },
}


def _waits_for(status: str, signal: str | None, child: str | None) -> str:
    """The words that tell what an execution of a run that is WAITING waits for."""
    match status:
        case "INTERRUPTED":
            return "decision"
        case "QUEUED":
            return "tried again"
        case _:
            return "signal" if signal else "child run" if child else "for a time"


# Table -> (what happens to a row, when it must not, what is wrong then).
_NEVER = {
    _RUN: [
        ("UPDATE", 'OLD."endedAt" IS NOT NULL', "a run that had ended was changed"),
        ("UPDATE", 'NEW."seq" < OLD."seq" OR NEW."epoch" NOT IN (OLD."epoch", OLD."epoch" + 1)', "seq or epoch"),
        (
            "UPDATE",
            'NEW."seq" = OLD."seq" AND (NEW."epoch" <> OLD."epoch" OR NEW."status" <> OLD."status" OR NEW."inboxDone" <> OLD."inboxDone")',
            "a run was changed without an event",
        ),
        ("UPDATE", 'NEW."inboxDone" < OLD."inboxDone" OR NEW."inboxDone" > NEW."inboxLast"', "the inbox went back"),
        ("UPDATE", "(NEW.\"endedAt\" IS NULL) <> (NEW.\"status\" IN ('QUEUED', 'RUNNING', 'WAITING'))", "endedAt"),
        ("DELETE", "1", "a run was deleted"),
    ],
    _EXECUTION: [
        ("UPDATE", 'OLD."endedAt" IS NOT NULL', "an execution that had ended was changed"),
        ("UPDATE", 'NEW."attempt" < OLD."attempt" OR NEW."seq" < OLD."seq"', "attempt or seq went back"),
        ("UPDATE", 'OLD."ordinal" IS NOT NULL AND NEW."ordinal" IS NOT OLD."ordinal"', "another ordinal"),
        (
            "UPDATE",
            'NEW."agentNodeId" <> OLD."agentNodeId" OR NEW."agentGraphExecutionId" <> OLD."agentGraphExecutionId"',
            "it moved to another node or run",
        ),
        (
            "UPDATE",
            "(NEW.\"endedAt\" IS NULL) = (NEW.\"status\" IN ('COMPLETED', 'FAILED', 'CANCELED', 'SKIPPED'))",
            "endedAt",
        ),
        ("DELETE", "1", "an execution was deleted"),
    ],
    _VALUE: [
        ("UPDATE", 'OLD."releasedSeq" IS NOT NULL', "an output was released twice"),
        (
            "UPDATE",
            'OLD."role" <> \'output\' OR NEW."name" <> OLD."name" OR NEW."data" IS NOT OLD."data" OR NEW."seq" IS NOT OLD."seq"',
            "a value was changed",
        ),
        (
            "DELETE",
            'OLD."role" <> \'output\' OR OLD."releasedSeq" IS NOT NULL',
            "a value that had travelled was deleted",
        ),
    ],
    _INBOX: [("UPDATE", "1", "an inbox entry was changed"), ("DELETE", "1", "an inbox entry was deleted")],
    "AgentNodeExecutionAttempt": [("UPDATE", "1", "an attempt was changed"), ("DELETE", "1", "an attempt was deleted")],
}


class Broken(AssertionError):
    """An invariant does not hold."""


class Watch:
    """Watches one database."""

    def __init__(self, plans: Mapping[str, Plan]) -> None:
        self._plans = plans
        self._known_calls: Counter[tuple[str, int]] = Counter()
        self._started: set[tuple[str, int]] = set()
        """(execution, attempt) of which a commit has said that it is RUNNING."""
        self.commits = 0
        self.status: dict[str, str] = {}
        """Run -> its status after the last commit."""

    def attach(self, connection: sqlite3.Connection) -> None:
        """Begin to watch."""
        connection.execute("CREATE TEMP TABLE wrong (what TEXT, id TEXT, old TEXT, new TEXT)")
        connection.execute("CREATE TEMP TABLE touched (run TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.execute("CREATE TEMP TABLE begun (execution TEXT, attempt INTEGER)")
        connection.execute("CREATE TEMP TABLE later (kind TEXT, old TEXT, new TEXT)")
        connection.executemany(
            "INSERT INTO later VALUES (?, ?, ?)",
            [(kind, old, new) for kind, table in _LATER.items() for old, news in table.items() for new in news],
        )
        numbers = itertools.count()
        for table, rules in _NEVER.items():
            identity = 'OLD."id"' if table in (_RUN, _EXECUTION) else "json_array(OLD.rowid)"
            for event, condition, what in rules:
                # After the statement's own WHERE: what is here has been written.
                connection.execute(
                    f'CREATE TEMP TRIGGER watch_{next(numbers)} AFTER {event} ON main."{table}" WHEN {condition} '
                    f"BEGIN INSERT INTO wrong VALUES ('{what}', {identity}, NULL, NULL); END"
                )
        for table in (_RUN, _EXECUTION):
            run = 'NEW."id"' if table == _RUN else 'NEW."agentGraphExecutionId"'
            connection.execute(
                f'CREATE TEMP TRIGGER status_{table} AFTER UPDATE ON main."{table}" WHEN NEW."status" <> OLD."status" AND NOT EXISTS '
                f'(SELECT 1 FROM later WHERE kind = \'{table}\' AND old = OLD."status" AND new = NEW."status") '
                f'BEGIN INSERT INTO wrong VALUES (\'{table} status\', NEW."id", OLD."status", NEW."status"); END'
            )
            for event in ("UPDATE", "INSERT"):
                connection.execute(
                    f'CREATE TEMP TRIGGER touched_{table}_{event} AFTER {event} ON main."{table}" BEGIN INSERT OR IGNORE INTO touched VALUES ({run}); END'
                )
        for event in ("UPDATE", "INSERT"):
            connection.execute(
                f'CREATE TEMP TRIGGER begun_{event} AFTER {event} ON main."{_EXECUTION}" WHEN NEW."status" = \'RUNNING\' '
                'BEGIN INSERT INTO begun VALUES (NEW."id", NEW."attempt"); END'
            )

    # --- after each commit ---------------------------------------------------------------------------------------------

    def committed(self, connection: sqlite3.Connection) -> list[str]:
        """Check what a transaction left behind; the runs it touched."""
        self.commits += 1
        wrong = connection.execute("SELECT * FROM wrong").fetchall()
        if wrong:
            raise Broken(f"never: {wrong}")
        self._started.update(connection.execute("SELECT execution, attempt FROM begun").fetchall())
        touched = [run for (run,) in connection.execute("SELECT run FROM touched")]
        connection.execute("DELETE FROM begun")
        connection.execute("DELETE FROM touched")
        for run_id in touched:
            self._check_run(connection, run_id)
        return touched

    def _check_run(self, connection: sqlite3.Connection, run_id: str) -> None:
        status, reason, stats_text, closing, inbox_last, inbox_done, worker, wake_at, error_code, error = (
            connection.execute(
                'SELECT "status", "reason", "stats", "closing", "inboxLast", "inboxDone", "workerId", "wakeAt", "errorCode", "errorMessage" '
                'FROM "AgentGraphExecution" WHERE "id" = ?',
                (run_id,),
            ).fetchone()
        )
        self.status[run_id] = status
        if error_code == "internal_error":
            raise Broken(f"{run_id}: {error}")
        counts = Counter(
            dict(
                connection.execute(
                    'SELECT "status", count(*) FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? GROUP BY 1',
                    (run_id,),
                ).fetchall()
            )
        )
        active = {name: counts[name] for name in ("QUEUED", "RUNNING", "WAITING", "INTERRUPTED") if counts[name]}
        if status in _TERMINAL:
            if active:
                raise Broken(f"{run_id} has ended as {status} with {active}")
            if worker is not None or wake_at is not None:
                raise Broken(f"{run_id} has ended and still belongs to {worker}, wakes at {wake_at}")
            if closing is not None and status != closing:
                raise Broken(f"{run_id} was to end as {closing} and ended as {status}")
        elif not active:
            raise Broken(f"{run_id} is {status} with nothing left to do")
        elif status == "WAITING":
            self._check_waiting(connection, run_id, reason, wake_at)
            if inbox_last > inbox_done and wake_at is None:
                raise Broken(f"{run_id} waits and nobody will see its inbox")
        elif reason is not None:
            raise Broken(f"{run_id} is {status} and has a reason to wait: {reason}")
        if inbox_last > inbox_done:
            self._check_inbox(connection, run_id, inbox_done)
        self._check_stats(run_id, json.loads(stats_text), counts)
        doubled = connection.execute(
            'SELECT "agentNodeId", "ordinal" FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? AND "ordinal" IS NOT NULL '
            "GROUP BY 1, 2 HAVING count(*) > 1",
            (run_id,),
        ).fetchall()
        if doubled:
            raise Broken(f"{run_id}: two executions have the same number: {doubled}")

    @staticmethod
    def _check_waiting(
        connection: sqlite3.Connection,
        run_id: str,
        reason: str | None,
        wake_at: str | int | None,
    ) -> None:
        """What waits has something to wait for, and the run says what."""
        if not reason:
            raise Broken(f"{run_id} waits without a reason")
        rows = connection.execute(
            'SELECT e."id", e."status", e."notBefore", e."waitsFor", c."id" FROM "AgentNodeExecution" e '
            'LEFT JOIN "AgentGraphExecution" c ON c."id" = e."childRunId" AND c."parentExecutionId" = e."id" '
            'WHERE e."agentGraphExecutionId" = ? AND e."endedAt" IS NULL AND e."status" <> \'INCOMPLETE\'',
            (run_id,),
        ).fetchall()
        times = [row[2] for row in rows if row[2] is not None]
        for execution_id, status, not_before, waits_for, child in rows:
            can_move = status == "RUNNING" or (status == "QUEUED" and not_before is None)
            if can_move:
                raise Broken(f"{run_id} is WAITING, but {execution_id} is {status}")
            if status == "WAITING" and not_before is None and waits_for is None and child is None:
                raise Broken(f"{execution_id} waits for nothing")
        # What is due at once is stored as a number.
        if times and (wake_at is None or (isinstance(wake_at, str) and wake_at > min(times))):
            raise Broken(f"{run_id} waits until {wake_at}, though something is due at {min(times)}")
        waits = Counter(_waits_for(status, waits_for, child) for _, status, _, waits_for, child in rows)
        parts = reason.removeprefix("It is being ended, and waits for ").split("; ")
        is_told = [
            any(part.startswith(f"{number} ") and words in part for part in parts) for words, number in waits.items()
        ]
        if len(parts) != len(waits) or not all(is_told):
            raise Broken(f"{run_id} says {reason!r} and has {dict(waits)}")

    @staticmethod
    def _check_inbox(connection: sqlite3.Connection, run_id: str, inbox_done: int) -> None:
        """What has been applied is on record as applied."""
        applied = connection.execute(
            'SELECT i."number", i."kind" FROM "AgentRunInboxEntry" i JOIN "AgentGraphExecution" g ON g."id" = i."runId" '
            'LEFT JOIN "AgentNodeExecution" e ON e."id" = i."nodeExecutionId" WHERE i."runId" = ? AND i."number" > ? AND ('
            "(i.\"kind\" = 'cancel' AND g.\"closing\" = 'CANCELED') OR "
            '(i."kind" = \'child_ended\' AND json_extract(e."resumed", \'$.child_run_id\') = i."key") OR '
            '(i."kind" = \'resolve\' AND (e."attempt" > CAST(i."key" AS INTEGER) OR e."endedAt" IS NOT NULL AND g."closing" IS NULL)))',
            (run_id, inbox_done),
        ).fetchall()
        if applied:
            raise Broken(f"{run_id}: applied, and not on record as applied: {applied}")

    @staticmethod
    def _check_stats(run_id: str, stats: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        expected = {
            "executions": sum(counts.values()),
            **{name.lower(): counts[name] for name in ("COMPLETED", "FAILED", "CANCELED", "SKIPPED", "INCOMPLETE")},
        }
        found = {name: stats[name] for name in expected}
        if found != expected:
            raise Broken(f"{run_id} counts {found}, its rows {expected}")

    # --- what blocks do ------------------------------------------------------------------------------------------------

    def called(self, ctx: BlockContext, effects: Effects) -> None:
        """A block is called: at most once for each attempt that is on record, and only if it is on record unless the block is pure."""
        key = (ctx.node_exec_id, ctx.attempt)
        self._known_calls[key] += 1
        if effects is Effects.PURE:
            return
        if key not in self._started:
            raise Broken(f"{effects} {key} was called before its start was committed")
        if self._known_calls[key] > 1:
            raise Broken(f"{effects} {key} was called {self._known_calls[key]} times")

    # --- when all is over ----------------------------------------------------------------------------------------------

    def check_end(self, connection: sqlite3.Connection) -> None:
        """The values of every run, and why attempts were followed by others."""
        for run_id, graph_id, closing in connection.execute(
            'SELECT "id", "agentGraphId", "closing" FROM "AgentGraphExecution"'
        ).fetchall():
            self._check_values(connection, run_id, self._plans[graph_id], is_whole=closing is None)
        self._check_attempts(connection)
        self._check_victims(connection)
        self._check_children(connection)

    def _check_values(self, connection: sqlite3.Connection, run_id: str, plan: Plan, *, is_whole: bool) -> None:
        """Every output that was released went down every link exactly once, into one slot (a run that was closed: at most once)."""
        outputs = connection.execute(
            'SELECT e."agentNodeId", e."id", o."ordinal", o."name", o."data", o."releasedSeq" FROM "AgentNodeExecution" e '
            'JOIN "AgentNodeExecutionInputOutput" o ON o."agentNodeExecutionId" = e."id" AND o."role" = \'output\' '
            'WHERE e."agentGraphExecutionId" = ? ORDER BY e."id", o."ordinal"',
            (run_id,),
        ).fetchall()
        numbers: Counter[str] = Counter()
        for _, execution_id, ordinal, *_ in outputs:
            if ordinal != numbers[execution_id]:
                raise Broken(f"{execution_id}: outputs are not numbered one by one")
            numbers[execution_id] += 1
        came: dict[tuple[str, str], Counter[tuple[str, int]]] = {}
        for sink, slot, source_id, source_ordinal in connection.execute(
            'SELECT e."agentNodeId", i."name", i."sourceExecutionId", i."sourceOrdinal" FROM "AgentNodeExecution" e '
            'JOIN "AgentNodeExecutionInputOutput" i ON i."agentNodeExecutionId" = e."id" AND i."role" = \'input\' '
            'WHERE e."agentGraphExecutionId" = ?',
            (run_id,),
        ):
            came.setdefault((sink, slot), Counter())[source_id, source_ordinal] += 1
        statics = _static_slots(plan)
        for sink, slot in {(link.sink, link.slot) for link in plan.spec.links} - statics:
            into = [link for link in plan.spec.links if (link.sink, link.slot) == (sink, slot)]
            sent = Counter(
                (execution_id, ordinal)
                for link in into
                for node, execution_id, ordinal, pin, data, released in outputs
                if released is not None
                and (node, pin) == (link.source, link.pin)
                and (pin != "y" or data.startswith('{"k"'))
            )
            found = came.get((sink, slot), Counter())
            if (found != sent) if is_whole else (found - sent):
                raise Broken(f"{run_id} {sink}.{slot}: lost {sent - found}, doubled or made up {found - sent}")

    def _check_attempts(self, connection: sqlite3.Connection) -> None:
        """A block that is not pure is called again only for a reason that makes it safe, or because somebody said so."""
        decided = Counter(
            execution_id
            for execution_id, payload in connection.execute(
                'SELECT "nodeExecutionId", "payload" FROM "AgentRunInboxEntry" WHERE "kind" = \'resolve\''
            )
            if json.loads(payload)["action"] == "retry"
        )
        again: Counter[str] = Counter()
        for execution_id, graph_id, node, outcome, code in connection.execute(
            'SELECT e."id", g."agentGraphId", e."agentNodeId", a."outcome", a."errorCode" FROM "AgentNodeExecutionAttempt" a '
            'JOIN "AgentNodeExecution" e ON e."id" = a."agentNodeExecutionId" JOIN "AgentGraphExecution" g ON g."id" = e."agentGraphExecutionId"'
        ):
            manner = self._plans[graph_id].manners[node]
            if manner.effects is not Effects.UNSAFE:
                continue
            if outcome == "DIED" or (outcome == "FAILED" and code != "effect_not_started"):
                raise Broken(f"{execution_id} is unsafe, and was tried again after {outcome} {code}")
            again[execution_id] += outcome == "INTERRUPTED" and manner.on_interrupted != "retry"
        if again - decided:
            raise Broken(f"unsafe executions were tried again though nobody said so: {again - decided}")

    def _check_victims(self, connection: sqlite3.Connection) -> None:
        """Who fails for want of memory has taken it: nobody fails for what others in its process have done."""
        for execution_id, graph_id, node in connection.execute(
            'SELECT e."id", g."agentGraphId", e."agentNodeId" FROM "AgentNodeExecution" e '
            'JOIN "AgentGraphExecution" g ON g."id" = e."agentGraphExecutionId" '
            'LEFT JOIN "AgentNodeExecutionAttempt" a ON a."agentNodeExecutionId" = e."id" '
            'WHERE \'out_of_memory\' IN (e."errorCode", a."errorCode")'
        ):
            if not self._plans[graph_id].manners[node].hoards:
                raise Broken(f"{execution_id} of {node} failed because another block had taken all memory")

    @staticmethod
    def _check_children(connection: sqlite3.Connection) -> None:
        """A call makes one child; its end was told to its parent, and nothing of it is left behind when its parent ended."""
        orphans = connection.execute(
            'SELECT c."id", c."status" FROM "AgentGraphExecution" c JOIN "AgentGraphExecution" p ON p."id" = c."parentRunId" '
            'WHERE p."endedAt" IS NOT NULL AND c."endedAt" IS NULL AND c."cancelRequestedAt" IS NULL'
        ).fetchall()
        if orphans:
            raise Broken(f"child runs outlived their parents: {orphans}")
        made = connection.execute(
            'SELECT "parentExecutionId", count(*), count(DISTINCT "parentAttempt") FROM "AgentGraphExecution" '
            'WHERE "parentExecutionId" IS NOT NULL GROUP BY 1 HAVING count(*) <> count(DISTINCT "parentAttempt")'
        ).fetchall()
        if made:
            raise Broken(f"a call made several children: {made}")


def _static_slots(plan: Plan) -> set[tuple[str, str]]:
    by_slot: dict[tuple[str, str], list[bool]] = {}
    for link in plan.spec.links:
        by_slot.setdefault((link.sink, link.slot), []).append(link.is_static)
    return {slot for slot, links in by_slot.items() if all(links)}


def ended(statuses: Iterable[str]) -> bool:
    """Whether these runs have all ended."""
    return all(status in _TERMINAL for status in statuses)
