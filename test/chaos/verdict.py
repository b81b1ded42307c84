"""Looks at what is left in the database and in the outside world, and says what is wrong with it: lost, doubled, or a lie.

It reads rows with plain SQL and works out what they have to be from the steps of the scripts; nothing of the server's own code takes part.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from autogpt_server.utils import json
from chaos.shapes import DEADLY, PURE, Shape
from chaos.traffic import Record
from support.runtime_blocks import AsyncScriptBlock, JoinBlock, ScriptBlock

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELED"})
_OVER = ENDED | {"SKIPPED"}
_SCRIPTS = frozenset({ScriptBlock.id, AsyncScriptBlock.id})
_ANYTHING = object()
_ERROR = "error"


@dataclass
class Judgement:
    """What was found."""

    violations: list[str] = field(default_factory=list[str])
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """(kind of run, outcome) -> how many."""
    effects: Counter[str] = field(default_factory=Counter[str])
    """Class of effects -> how often the outside world was touched."""
    executions: int = 0
    repeated: int = 0
    """Attempts beyond the first."""
    by_chance: int = 0
    """Runs that lost so many workers in a row that the server took them for what killed them (rule D3b)."""


@dataclass
class _Output:
    ordinal: int
    pin: str
    value: Any
    released: int | None


@dataclass
class _Execution:
    id: str
    run: str
    node: str
    status: str
    attempt: int
    error_code: str | None
    error: str | None
    not_before: str | None
    retries: int
    added_seq: int
    seq: int
    first_output: int
    repeats: str | None
    """The execution of a former run whose outcome was kept."""
    outputs: list[_Output] = field(default_factory=list[_Output])
    inputs: dict[str, tuple[Any, str | None, int | None]] = field(
        default_factory=dict[str, tuple[Any, "str | None", "int | None"]]
    )
    """Pin -> (value given with the run, or execution and ordinal that it came from)."""
    attempts: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


@dataclass
class _Node:
    name: str
    block: str
    defaults: dict[str, Any]


@dataclass
class _Run:
    id: str
    graph: str
    status: str
    reason: str | None
    error_code: str | None
    stats: dict[str, Any]
    parent_execution: str | None
    parent_attempt: int | None
    schedule: str | None
    cancel_requested: str | None
    seq: int
    executions: list[_Execution] = field(default_factory=list[_Execution])


def judge(database: str, world: Mapping[str, int], record: Record) -> Judgement:
    """Judge everything that there is, once the server has come to rest."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return _Judge(connection, world, record).judge()
    finally:
        connection.close()


def judge_runs(database: str, world: Mapping[str, int], record: Record, runs: set[str]) -> list[str]:
    """The violations in some runs and in those that they called."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        connection.execute("BEGIN")
        return _Judge(connection, world, record).judge_some(runs)
    finally:
        connection.close()


class _Judge:
    def __init__(self, connection: sqlite3.Connection, world: Mapping[str, int], record: Record) -> None:
        self._connection = connection
        self._world = world
        self._record = record
        self._found = Judgement()
        self._nodes: dict[str, _Node] = {}
        self._links: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        """Source node -> (output pin, sink node, input pin)."""
        self._runs: dict[str, _Run] = {}
        self._executions: dict[str, _Execution] = {}
        self._children: dict[str, list[_Run]] = defaultdict(list)
        self._read()

    def judge(self) -> Judgement:
        for (fault,) in self._connection.execute("PRAGMA integrity_check"):
            if fault != "ok":
                self._wrong("the database", fault)
        for fault in self._connection.execute("PRAGMA foreign_key_check"):
            self._wrong("the database", f"a row of {fault[0]} refers to nothing")
        self._judge_acceptance()
        for run in self._runs.values():
            self._judge_run(run)
        self._judge_world()
        self._judge_schedules()
        self._judge_watched()
        return self._found

    def judge_some(self, runs: set[str]) -> list[str]:
        wanted = list(runs)
        while wanted:
            run = self._runs.get(wanted.pop())
            if run is None:
                self._found.violations.append("lost: a run that was accepted is not there")
                continue
            self._judge_run(run)
            wanted += [child.id for execution in run.executions for child in self._children[execution.id]]
        return self._found.violations

    def _wrong(self, where: _Run | _Execution | str, what: str) -> None:
        match where:
            case _Run():
                where = f"run {where.id} ({self._shape_name(where)}, {where.status})"
            case _Execution():
                run = self._runs[where.run]
                where = f"run {where.run} ({self._shape_name(run)}, {run.status}), execution {where.id} of {self._nodes[where.node].name} ({where.status}, attempt {where.attempt})"
            case _:
                pass
        self._found.violations.append(f"{where}: {what}")

    # --- reading -------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        query = self._connection.execute
        for id_, key, block, defaults in query(
            'SELECT "id", "position", "agentBlockId", "constantInput" FROM "AgentNode"'
        ):
            self._nodes[id_] = _Node(f"node {key}", block, _object(defaults))
        for source, pin, sink, sink_pin in query(
            'SELECT "agentNodeSourceId", "sourceName", "agentNodeSinkId", "sinkName" FROM "AgentNodeLink" ORDER BY "position"'
        ):
            self._links[source].append((pin, sink, sink_pin))
        for row in query(
            'SELECT "id", "agentGraphId", "status", "reason", "errorCode", "stats", "parentExecutionId", "parentAttempt", "scheduleId", '
            '"cancelRequestedAt", "seq" FROM "AgentGraphExecution" ORDER BY "id"'
        ):
            id_, graph, status, reason, error_code, stats, *rest = row
            run = self._runs[id_] = _Run(id_, graph, status, reason, error_code, _object(stats), *rest)
            if run.parent_execution is not None:
                self._children[run.parent_execution].append(run)
        for row in query(
            'SELECT "id", "agentGraphExecutionId", "agentNodeId", "status", "attempt", "errorCode", "error", "notBefore", "retries", "addedSeq", '
            '"seq", "firstOutput", "replayOfId" FROM "AgentNodeExecution" ORDER BY "id"'
        ):
            execution = self._executions[row[0]] = _Execution(*row)
            self._runs[execution.run].executions.append(execution)
        self._read_values()

    def _read_values(self) -> None:
        for id_, role, ordinal, pin, text, large, source, source_ordinal, released in self._connection.execute(
            'SELECT "agentNodeExecutionId", "role", "ordinal", "name", io."data", v."data", "sourceExecutionId", "sourceOrdinal", "releasedSeq" '
            'FROM "AgentNodeExecutionInputOutput" io LEFT JOIN "AgentValue" v ON v."hash" = io."valueHash" '
            'ORDER BY "agentNodeExecutionId", "role", "ordinal"'
        ):
            written = text if text is not None else large
            value = None if written is None else json.loads(written)
            execution = self._executions[id_]
            if role == "output":
                execution.outputs.append(_Output(ordinal, pin, value, released))
            elif role == "input":
                if pin in execution.inputs:
                    self._wrong(execution, f"the pin {pin} has two values")
                execution.inputs[pin] = (value, source, source_ordinal)
        for id_, attempt, outcome in self._connection.execute(
            'SELECT "agentNodeExecutionId", "attempt", "outcome" FROM "AgentNodeExecutionAttempt" ORDER BY "agentNodeExecutionId", "attempt"'
        ):
            self._executions[id_].attempts.append((attempt, outcome))

    def _shape(self, run: _Run) -> Shape | None:
        return self._record.runs.get(run.id)

    def _shape_name(self, run: _Run) -> str:
        names = {graph: name for name, graph in self._record.graphs.items()}
        return names.get(run.graph, "?")

    def _value(self, given: tuple[Any, str | None, int | None]) -> Any:
        value, source, ordinal = given
        if source is None:
            return value
        outputs = {output.ordinal: output for output in self._executions[source].outputs}
        return outputs[ordinal or 0].value

    # --- nothing lost, nothing doubled: runs ---------------------------------------------------------------------

    def _judge_acceptance(self) -> None:
        for run in self._record.runs:
            if run not in self._runs:
                self._wrong(f"run {run}", "lost: it was accepted, and is not there")
        surplus: Counter[str] = Counter()
        for run in self._runs.values():
            if run.id not in self._record.runs and run.parent_execution is None and run.schedule is None:
                surplus[run.graph] += 1
        for graph, count in surplus.items():
            if count > self._record.unanswered[graph]:
                asked = self._record.unanswered[graph]
                self._wrong(
                    f"graph {graph}", f"doubled: {count} runs that nobody knows of, {asked} requests unanswered"
                )

    def _judge_schedules(self) -> None:
        for schedule in self._record.schedules:
            rows = self._connection.execute(
                'SELECT "dueAt", "status", "runId", "reasonCode" FROM "AgentScheduleOccurrence" WHERE "scheduleId" = ? ORDER BY "dueAt"',
                (schedule,),
            ).fetchall()
            dues = [datetime.fromisoformat(str(due)) for due, *_ in rows]
            for former, due in itertools.pairwise(dues):
                if due - former != timedelta(seconds=1):
                    self._wrong(f"schedule {schedule}", f"nothing is said of what was due between {former} and {due}")
            for due, status, run, reason in rows:
                if status != "STARTED" or run is None:
                    self._wrong(f"schedule {schedule}", f"what was due at {due} is {status} ({reason})")
            started = sorted(run for _, _, run, _ in rows if run is not None)
            there = sorted(run.id for run in self._runs.values() if run.schedule == schedule)
            if started != there:
                self._wrong(
                    f"schedule {schedule}", f"{len(started)} occurrences have a run, and {len(there)} runs are there"
                )

    # --- no status that lies: one run ----------------------------------------------------------------------------

    def _judge_run(self, run: _Run) -> None:
        statuses = Counter(execution.status for execution in run.executions)
        kind = "child" if run.parent_execution else "scheduled" if run.schedule else "posted"
        kind = "repeated" if run.id in self._record.reruns else kind
        outcome = run.status
        if statuses["INTERRUPTED"]:
            outcome = "WAITING: interrupted"
        self._found.outcomes[kind, outcome] += 1
        self._judge_status(run, statuses)
        if run.status in ENDED:
            self._judge_end(run, statuses)
        for execution in run.executions:
            self._found.executions += 1
            self._found.repeated += max(0, execution.attempt - 1)
            if self._nodes[execution.node].block in _SCRIPTS:
                self._judge_script(run, execution)
            elif self._nodes[execution.node].block == JoinBlock.id and execution.status == "COMPLETED":
                pair = [self._value(execution.inputs[pin]) for pin in ("left", "right")]
                if [output.value for output in execution.outputs] != [pair]:
                    self._wrong(execution, f"yielded {execution.outputs}, not {pair}")
        self._judge_deliveries(run)

    def _judge_status(self, run: _Run, statuses: Counter[str]) -> None:
        if run.status not in ENDED | {"WAITING"}:
            self._wrong(run, f"lost: it is not over, and nothing happens; executions: {dict(statuses)}")
        elif run.status == "WAITING":
            reason = run.reason or ""
            named = {"INTERRUPTED": "decision", "WAITING": "wait"}
            if not any(statuses[status] for status in named):
                self._wrong(run, f"waits for nothing: {dict(statuses)}, {reason!r}")
            for status, word in named.items():
                if bool(statuses[status]) != (word in reason) and statuses[status]:
                    self._wrong(run, f"its reason does not name what is {status}: {reason!r}")
            if statuses["RUNNING"]:
                self._wrong(run, "waits although something runs")
        for execution in run.executions:
            if execution.seq > run.seq:
                self._wrong(execution, f"is of event {execution.seq}, and the run is at {run.seq} only")

    def _judge_end(self, run: _Run, statuses: Counter[str]) -> None:
        open_ = {status: count for status, count in statuses.items() if status not in _OVER and status != "INCOMPLETE"}
        if open_:
            self._wrong(run, f"a lie: it has ended, and these have not: {open_}")
        counted = {
            name: run.stats.get(name, 0) for name in ("executions", "completed", "failed", "canceled", "skipped")
        }
        there = {
            "executions": len(run.executions),
            **{status.lower(): statuses[status] for status in ("COMPLETED", "FAILED", "CANCELED", "SKIPPED")},
        }
        if counted != there:
            self._wrong(run, f"its counters say {counted}, its rows {there}")
        unhandled = [execution for execution in run.executions if self._is_unhandled(execution)]
        if run.status == "COMPLETED" and unhandled:
            self._wrong(run, f"a lie: COMPLETED, and {len(unhandled)} failures were not handled")
        if run.status == "COMPLETED" and statuses["CANCELED"]:
            self._wrong(run, "a lie: COMPLETED with canceled executions")
        if run.status == "FAILED" and run.error_code == "internal_error":
            self._wrong(run, "the server made a mistake (its log says which)")
        if run.status == "CANCELED" and not self._was_canceled(run):
            self._wrong(run, "canceled, and nobody asked for it")
        if run.status == "COMPLETED":
            held = [output for execution in run.executions for output in execution.outputs if output.released is None]
            if held:
                self._wrong(run, f"lost: {len(held)} outputs are still held back")
        self._judge_expected_end(run, unhandled)

    def _judge_expected_end(self, run: _Run, unhandled: list[_Execution]) -> None:
        shape = self._shape(run)
        if shape is None or run.status == "CANCELED":
            return
        died = any(execution.error_code == "worker_died" for execution in unhandled)
        decided = any(self._decisions(execution) for execution in run.executions)
        child_failed = any(
            child.status != "COMPLETED" for execution in run.executions for child in self._children[execution.id]
        )
        if died and shape.name not in DEADLY:
            self._found.by_chance += 1
        elif run.status != shape.end and not decided and not child_failed and not shape.cancel:
            self._wrong(run, f"ended otherwise than its graph says ({shape.end}): {run.error_code}")

    def _is_unhandled(self, execution: _Execution) -> bool:
        if execution.status != "FAILED":
            return False
        errors = {output.ordinal for output in execution.outputs if output.pin == _ERROR}
        return not any(
            source == execution.id and ordinal in errors and other.status != "INCOMPLETE"
            for other in self._runs[execution.run].executions
            for _, source, ordinal in other.inputs.values()
        )

    def _was_canceled(self, run: _Run) -> bool:
        if run.id in self._record.canceled:
            return True
        parent = self._executions.get(run.parent_execution or "")
        return parent is not None and run.cancel_requested is not None and self._was_canceled(self._runs[parent.run])

    # --- one execution -------------------------------------------------------------------------------------------

    def _decisions(self, execution: _Execution) -> list[str]:
        return [
            action
            for attempt in range(1, execution.attempt + 1)
            for action in self._record.decisions.get(f"{execution.id}.{attempt}", [])
        ]

    def _judge_script(self, run: _Run, execution: _Execution) -> None:
        defaults = self._nodes[execution.node].defaults
        steps: list[list[Any]] = defaults["steps"]
        effects = str(defaults["effects"])
        self._judge_outputs(execution, steps)
        if execution.repeats is not None:
            if any(self._world.get(f"{execution.id}.{attempt}") for attempt in range(5)):
                self._wrong(execution, "doubled: its outcome was kept from the former run, and yet it has acted")
            return
        if any(step[0] == "act" for step in steps):
            self._judge_effects(execution, effects)
        decided = self._decisions(execution)
        if execution.status == "SKIPPED" and "skip" not in decided:
            self._wrong(execution, "skipped, and nobody decided so")
        if execution.status == "INTERRUPTED" and effects == "pure":
            self._wrong(execution, "interrupted, though a pure block can be repeated")
        if execution.status == "INTERRUPTED" and effects == "idempotent" and not self._yielded(execution):
            self._wrong(execution, "interrupted, though an idempotent block that has yielded nothing can be repeated")
        if execution.error_code in ("not_pure", "internal_error", "mixed_origin"):
            self._wrong(execution, f"failed with {execution.error_code}: {execution.error}")
        numbers = [attempt for attempt, _ in execution.attempts]
        if numbers != list(range(1, len(numbers) + 1)) or execution.attempt - len(numbers) not in (0, 1):
            self._wrong(execution, f"its former attempts on record are {execution.attempts}")

    def _yielded(self, execution: _Execution) -> list[_Output]:
        return [
            output for output in execution.outputs if output.ordinal >= execution.first_output and output.pin != _ERROR
        ]

    def _judge_outputs(self, execution: _Execution, steps: list[list[Any]]) -> None:
        """Outputs are what the steps yield, in order; fewer only where the execution did not get to its end."""
        if [output.ordinal for output in execution.outputs] != list(range(len(execution.outputs))):
            self._wrong(execution, f"its outputs are numbered {[output.ordinal for output in execution.outputs]}")
        came = [output.value for output in execution.outputs if output.pin != _ERROR]
        errors = [output for output in execution.outputs if output.pin == _ERROR]
        if bool(errors) != (execution.status == "FAILED") or len(errors) > 1:
            self._wrong(execution, f"{execution.status} with {len(errors)} errors sent")
        if execution.repeats is not None:
            former = [output.value for output in self._executions[execution.repeats].outputs if output.pin != _ERROR]
            if came != former:
                self._wrong(execution, f"keeps {came} of the execution it repeats, which yielded {former}")
            return
        if "retry" in self._decisions(execution):
            return  # what came before the decision came, and then the block was called again
        item = self._value(execution.inputs["item"]) if "item" in execution.inputs else None
        expected = list(_expected(steps, item))
        if len(came) > len(expected) or not all(map(_matches, came, expected)):
            self._wrong(execution, f"doubled or wrong: it yielded {came}, its steps say {expected}")
        elif execution.status == "COMPLETED" and len(came) < len(expected):
            self._wrong(execution, f"lost: it yielded {came}, its steps say {expected}")
        if any(step[0] == "call" for step in steps):
            self._judge_children(execution, came)

    def _judge_children(self, execution: _Execution, came: list[Any]) -> None:
        children = self._children[execution.id]
        if len(children) > 1:
            self._wrong(execution, f"doubled: it has {len(children)} child runs")
        told = [cast("dict[str, Any]", value) for value in came if isinstance(value, dict) and "run_id" in value]
        for result in told:
            child = self._runs.get(str(result["run_id"]))
            if child is None or child not in children:
                self._wrong(execution, f"was told of a child run that is not its own: {result['run_id']}")
            elif child.status != result["status"]:
                self._wrong(
                    execution, f"a lie: it was told its child was {result['status']}, and that is {child.status}"
                )
        for child in children:
            if child.status in ENDED and execution.status == "WAITING":
                self._wrong(execution, f"lost: its child {child.id} has ended, and it waits on")

    def _judge_effects(self, execution: _Execution, effects: str) -> None:
        key = f"{PURE if effects == 'pure' else ''}{execution.id}"
        counts = {n: self._world.get(f"{key}.{n}", 0) for n in range(1, execution.attempt + 3)}
        total = sum(counts.values())
        self._found.effects[effects] += total
        if execution.status == "COMPLETED" and total < 1:
            self._wrong(execution, "a lie: COMPLETED, and it has not acted")
        if effects == "pure":
            return
        for attempt, count in counts.items():
            if attempt > execution.attempt and count:
                self._wrong(execution, f"a lie: attempt {attempt} has acted, and there is no such attempt on record")
            if count > 1:
                self._wrong(execution, f"doubled: attempt {attempt} has acted {count} times")
        repeats = self._decisions(execution).count("retry")
        if effects == "unsafe" and total > 1 + repeats:
            self._wrong(execution, f"doubled: it has acted {total} times")
        if execution.status == "COMPLETED" and effects == "unsafe" and total != 1 and not repeats:
            self._wrong(execution, f"a lie: COMPLETED, and it has acted {total} times")
        is_quiet = execution.status in ("INCOMPLETE", "QUEUED") and execution.attempt == 0
        if (is_quiet or (execution.status == "CANCELED" and execution.attempt == 0)) and total:
            self._wrong(execution, "a lie: it has acted, and was never started")
        if execution.status == "CANCELED" and effects == "unsafe" and total and execution.error_code is None:
            self._wrong(execution, "a lie: it has acted, and is CANCELED as if it had not")

    def _judge_world(self) -> None:
        for key in self._world:
            execution, _, _ = key.partition(".")
            if not key.startswith(PURE) and execution not in self._executions:
                self._wrong(f"the world's {key}", "a lie: nothing in the database says that this was done")

    # --- values on their way -------------------------------------------------------------------------------------

    def _judge_deliveries(self, run: _Run) -> None:
        """What was released has arrived once along each link, in the order of its release."""
        by_node: dict[str, list[_Execution]] = defaultdict(list)
        for execution in run.executions:
            by_node[execution.node].append(execution)
        cut_short = run.status == "CANCELED" or run.error_code == "limit_exceeded" or run.cancel_requested is not None
        for source, links in self._links.items():
            if source not in by_node:
                continue
            for pin, sink, sink_pin in links:
                released = sorted(
                    (output.released, at, output.ordinal, execution.id)
                    for at, execution in enumerate(by_node[source])
                    for output in execution.outputs
                    if output.pin == pin and output.released is not None
                )
                sent = [(execution, ordinal) for _, _, ordinal, execution in released]
                takers = sorted(by_node[sink], key=lambda execution: (execution.added_seq, execution.id))
                arrived = [taker.inputs[sink_pin][1:] for taker in takers if sink_pin in taker.inputs]
                if cut_short:
                    sent = sent[: len(arrived)]
                if sent != arrived:
                    self._wrong(
                        run, f"lost or doubled on the way to {self._nodes[sink].name}: sent {sent}, arrived {arrived}"
                    )

    # --- what followers were told --------------------------------------------------------------------------------

    def _judge_watched(self) -> None:
        for run_id, watched in self._record.watched.items():
            run = self._runs.get(run_id)
            if run is None:
                continue
            for complaint in watched.complaints:
                self._wrong(run, f"its stream of events: {complaint}")
            if run.status not in ENDED:
                continue
            if watched.end != run.status:
                self._wrong(run, f"a lie: its stream of events ended with {watched.end}")
            told = watched.nodes
            there = {execution.id: execution.status for execution in run.executions}
            if told != there:
                self._wrong(run, f"a lie: its stream of events ended with {told}, and its rows say {there}")


def _object(text: str) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(text))


def _expected(steps: list[list[Any]], item: Any) -> Iterator[Any]:
    for step, *arguments in steps:
        match step:
            case "yield":
                yield arguments[0] if arguments else item
            case "wait" | "call":
                yield _ANYTHING
            case "fail":
                return
            case _:
                pass


def _matches(came: Any, expected: Any) -> bool:
    return expected is _ANYTHING or came == expected
