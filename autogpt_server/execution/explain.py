"""Why a run does not get on, in words and in data (rule D8). Pure: from what is on record and what the manager says of its queue.

Every cause names what it speaks of: a cause about an execution is true of that execution's row, one about the server of what the manager has answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import pydantic

from autogpt_server.data.execution import MAX_TAKEOVERS
from autogpt_server.data.progress import HeldBack, Kind, LiveExecution, RunFacts
from autogpt_server.data.snapshot import StaticPin
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.execution.events import Resolution
from autogpt_server.execution.flow import MAX_AHEAD
from autogpt_server.execution.interfaces import QueueReport
from autogpt_server.execution.state import TIMEOUT
from autogpt_server.execution.topology import PlannedNode, Topology


class CauseCode(StrEnum):
    """What a run may be waiting for. Stable: clients may rely on it."""

    ENDED = "ended"
    DATABASE_UNWRITABLE = "database_unwritable"
    MANAGER_UNREACHABLE = "manager_unreachable"
    NO_WORKER_READY = "no_worker_ready"
    OWNER_GONE = "owner_gone"
    WAITS_FOR_WORKER = "waits_for_worker"
    TAKEN_UP = "taken_up"
    HAS_NEWS = "has_news"
    BEING_CANCELED = "being_canceled"
    BEING_ENDED = "being_ended"
    RUNNING = "running"
    STOPPING = "stopping"
    QUEUED = "queued"
    MAX_PARALLEL = "max_parallel"
    FAR_AHEAD = "far_ahead"
    BACKING_OFF = "backing_off"
    NEEDS_DECISION = "needs_decision"
    WAITS_FOR_SIGNAL = "waits_for_signal"
    WAITS_FOR_CHILD = "waits_for_child"
    WAITS_FOR_TIME = "waits_for_time"
    HELD_BACK = "held_back"
    INCOMPLETE = "incomplete"


STANDSTILL = frozenset({CauseCode.DATABASE_UNWRITABLE, CauseCode.MANAGER_UNREACHABLE, CauseCode.NO_WORKER_READY})
"""While one of these is there nothing of the run moves, or it is not known whether it does."""


def _always(words: str) -> tuple[str, str]:
    """For what there is only one of."""
    return words, words


_IN_SHORT: Mapping[CauseCode, tuple[str, str]] = {
    CauseCode.DATABASE_UNWRITABLE: _always("the database cannot be written"),
    CauseCode.MANAGER_UNREACHABLE: _always("the manager does not answer"),
    CauseCode.NO_WORKER_READY: _always("no worker is ready"),
    CauseCode.OWNER_GONE: _always("its worker is gone or about to end, and it is being taken over"),
    CauseCode.WAITS_FOR_WORKER: _always("it waits for a worker"),
    CauseCode.TAKEN_UP: _always("a worker is taking it up"),
    CauseCode.HAS_NEWS: _always("something that happened to it is about to be applied"),
    CauseCode.BEING_CANCELED: ("it is being canceled", "it is being canceled, and {n} executions have not stopped yet"),
    CauseCode.BEING_ENDED: _always("it has reached a limit and is being ended"),
    CauseCode.NEEDS_DECISION: (
        "1 interrupted execution needs a decision",
        "{n} interrupted executions need a decision",
    ),
    CauseCode.RUNNING: ("1 execution is running", "{n} executions are running"),
    CauseCode.STOPPING: ("1 execution took too long and is being stopped", "{n} took too long and are being stopped"),
    CauseCode.WAITS_FOR_SIGNAL: ("1 execution waits for a signal", "{n} executions wait for signals"),
    CauseCode.WAITS_FOR_CHILD: ("1 execution waits for a child run", "{n} executions wait for child runs"),
    CauseCode.WAITS_FOR_TIME: ("1 execution waits for a time", "{n} executions wait for a time"),
    CauseCode.BACKING_OFF: (
        "1 execution waits before it is tried again",
        "{n} executions wait before they are tried again",
    ),
    CauseCode.QUEUED: ("1 execution is queued", "{n} executions are queued"),
    CauseCode.MAX_PARALLEL: (
        "1 execution waits for others of its node to end",
        "{n} executions wait for others of their nodes to end",
    ),
    CauseCode.FAR_AHEAD: (
        "1 execution waits for an earlier one of its node to end",
        "{n} executions wait for earlier ones of their nodes to end",
    ),
    CauseCode.HELD_BACK: ("1 holds its outputs back until an earlier one ends", "{n} hold their outputs back"),
}
"""How a summary tells of one cause, and of several of its kind; the most important ones first."""

_REASONS_TO_BE_QUEUED = frozenset({CauseCode.QUEUED, CauseCode.MAX_PARALLEL, CauseCode.FAR_AHEAD})

_SUMMARY_PARTS = 3


class Cause(pydantic.BaseModel):
    """One thing that a run waits for, or is doing."""

    code: CauseCode
    message: str
    node_exec_id: str | None = None
    node_id: str | None = None
    block: str | None = None
    """The name of the node's block."""
    since: datetime | None = None
    until: datetime | None = None
    missing_pins: list[str] = pydantic.Field(default_factory=list[str])
    """INCOMPLETE executions: the pins that no value has come for."""
    data: dict[str, Any] = pydantic.Field(default_factory=dict)
    """What a program needs to act on it."""


class Explanation(pydantic.BaseModel):
    """Where a run stands, and why."""

    run_id: str
    status: RunStatus
    summary: str
    is_progressing: bool
    """Whether it moves without time to come and without a person, and nothing keeps the server from its work."""
    causes: list[Cause]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What keeps the server, or does not, from performing runs."""

    queue: QueueReport | None
    """What the manager says; None if it does not answer."""
    database: str | None = None
    """Why the database cannot be written; None if it can."""


class Explainer:
    """Explains a run, and with it the child runs that it waits for."""

    def __init__(
        self,
        runs: Mapping[str, RunFacts],
        topologies: Mapping[tuple[str, int], Topology],
        circumstances: Circumstances,
        now: datetime,
    ) -> None:
        """`topologies`: (graph id, version) -> the topology, for those that could be made."""
        self._runs = runs
        self._topologies = topologies
        self._queue = circumstances.queue
        self._database = circumstances.database
        self._now = now

    def explain(self, run_id: str) -> Explanation:
        """The explanation of one of the runs."""
        run = self._runs[run_id]
        if run.status.is_terminal:
            causes = [_ended(run), *self._incomplete(run)]
            return Explanation(
                run_id=run.id, status=run.status, summary=causes[0].message, is_progressing=False, causes=causes
            )
        causes = [
            *self._of_server(run),
            *self._of_closing(run),
            *self._of_executions(run),
            *self._of_held(run),
            *self._incomplete(run),
        ]
        moves = run.status in (RunStatus.QUEUED, RunStatus.RUNNING)
        return Explanation(
            run_id=run.id,
            status=run.status,
            summary=_summary(run, causes),
            is_progressing=moves and STANDSTILL.isdisjoint(cause.code for cause in causes),
            causes=causes,
        )

    # --- the server ----------------------------------------------------------------------------------------------

    def _of_server(self, run: RunFacts) -> Iterator[Cause]:
        if self._database is not None:
            yield Cause(
                code=CauseCode.DATABASE_UNWRITABLE,
                message=f"The database cannot be written at the moment, and nothing goes on until it can: {self._database}.",
            )
        is_due = run.has_news or (run.wake_at is not None and run.wake_at <= self._now)
        if run.has_news:
            yield Cause(
                code=CauseCode.HAS_NEWS,
                message="Something has been asked of the run, or has happened to it, that its worker has not applied yet.",
            )
        if run.status is not RunStatus.WAITING or is_due:
            yield from self._of_worker(run)

    def _of_worker(self, run: RunFacts) -> Iterator[Cause]:
        """What keeps a run that wants a worker from having one."""
        queue = self._queue
        if queue is None:
            yield Cause(
                code=CauseCode.MANAGER_UNREACHABLE,
                message="The ExecutionManager does not answer; it is started again when it is gone, and then finds the run by itself.",
            )
        elif not queue.workers:
            yield Cause(
                code=CauseCode.NO_WORKER_READY,
                message="No worker is ready at the moment; they are started again when they are gone.",
            )
        elif run.id in queue.holders:
            if run.status is RunStatus.QUEUED:
                yield Cause(
                    code=CauseCode.TAKEN_UP,
                    message="A worker has been given the run and is about to begin.",
                    data={"worker": queue.holders[run.id]},
                )
        else:
            yield _without_worker(run, queue)

    # --- what is asked of it -------------------------------------------------------------------------------------

    def _of_closing(self, run: RunFacts) -> Iterator[Cause]:
        if run.closing is None and run.cancel_requested_at is not None:
            yield Cause(
                code=CauseCode.BEING_CANCELED,
                message="It was asked to cancel the run; its worker will stop what runs.",
                since=run.cancel_requested_at,
            )

    def _still_stopping(self, run: RunFacts, execution: LiveExecution) -> Cause:
        """An execution of a run that is being ended, and that has not stopped yet."""
        is_canceled = run.closing is RunStatus.CANCELED
        waits = execution.child_run_id is not None
        why = "The run is being canceled" if is_canceled else f"The run is being ended ({run.error_message})"
        what = "waits for the end of its child run" if waits else "was told to stop and has not stopped yet"
        return self._about(
            run,
            execution,
            CauseCode.BEING_CANCELED if is_canceled else CauseCode.BEING_ENDED,
            f"{why}: {{block}} {what}.",
            since=run.cancel_requested_at if is_canceled else None,
            data=self._child(execution.child_run_id) if execution.child_run_id else None,
        )

    # --- executions ----------------------------------------------------------------------------------------------

    def _of_executions(self, run: RunFacts) -> Iterator[Cause]:
        told: Counter[Kind] = Counter()
        codes: dict[Kind, CauseCode] = {}
        for execution in run.executions:
            if execution.status is NodeStatus.INCOMPLETE:
                continue
            if run.closing is not None:
                cause = self._still_stopping(run, execution)
            else:
                cause = self._of_execution(run, execution)
            told[execution.kind] += 1
            codes[execution.kind] = cause.code
            yield cause
        for kind, code in codes.items():
            if (more := run.counts[kind] - told[kind]) > 0:
                yield Cause(
                    # What those are queued for that were not looked at one by one is another question for each.
                    code=CauseCode.QUEUED if code in _REASONS_TO_BE_QUEUED else code,
                    message=f"{more:,} more node executions are {kind.status}.",
                    data={"status": kind.status, "count": more},
                )

    def _of_execution(self, run: RunFacts, execution: LiveExecution) -> Cause:
        match execution.status:
            case NodeStatus.RUNNING:
                return self._running(run, execution)
            case NodeStatus.QUEUED:
                return self._queued(run, execution)
            case NodeStatus.WAITING:
                return self._waiting(run, execution)
            case _:
                return self._interrupted(run, execution)

    def _running(self, run: RunFacts, execution: LiveExecution) -> Cause:
        if execution.error_code == TIMEOUT:
            message = "{block} took longer than it may, was told to stop and has not stopped yet."
            return self._about(run, execution, CauseCode.STOPPING, message, since=execution.started_at)
        is_lost = self._queue is not None and run.worker_id is not None and run.worker_id not in self._queue.workers
        return self._about(
            run,
            execution,
            CauseCode.RUNNING,
            "{block} was running in a worker that is gone, or about to end; who takes the run over sees what becomes of it."
            if is_lost
            else "{block} is running.",
            since=execution.started_at,
            data={"attempt": execution.attempt},
        )

    def _queued(self, run: RunFacts, execution: LiveExecution) -> Cause:
        if execution.not_before is not None:
            return self._about(
                run,
                execution,
                CauseCode.BACKING_OFF,
                f"{{block}} failed ({execution.error}) and is tried again later.",
                until=execution.not_before,
                data={"attempt": execution.attempt, "error_code": execution.error_code},
            )
        node = self._node(run, execution.node_id)
        busy = run.busy.get(execution.node_id, 0)
        if node is not None and busy >= node.max_parallel:
            return self._about(
                run,
                execution,
                CauseCode.MAX_PARALLEL,
                f"{{block}} waits until one of the {busy} executions of its node that are running has ended (max_parallel).",
                since=execution.queued_at,
                data={"max_parallel": node.max_parallel, "running": busy},
            )
        if execution.ordinal is not None and execution.ordinal - run.heads.get(execution.node_id, 0) >= MAX_AHEAD:
            return self._about(
                run,
                execution,
                CauseCode.FAR_AHEAD,
                f"{{block}} waits for an earlier execution of its node to end: what {MAX_AHEAD:,} later ones yield is held back already.",
                since=execution.queued_at,
            )
        message = "{block} has all its values and starts as soon as a worker has room for it."
        return self._about(run, execution, CauseCode.QUEUED, message, since=execution.queued_at)

    def _waiting(self, run: RunFacts, execution: LiveExecution) -> Cause:
        if execution.child_run_id is not None:
            return self._about(
                run,
                execution,
                CauseCode.WAITS_FOR_CHILD,
                f"{{block}} waits for the end of the child run {execution.child_run_id}.",
                data=self._child(execution.child_run_id),
            )
        if execution.waits_for is not None:
            request = _request(
                run, execution, "signal", {"name": execution.waits_for, "key": "any text, once", "value": None}
            )
            return self._about(
                run,
                execution,
                CauseCode.WAITS_FOR_SIGNAL,
                f"{{block}} waits for the signal {execution.waits_for!r}.",
                until=execution.not_before,
                data={"name": execution.waits_for, "request": request},
            )
        message = "{block} waits for a time."
        return self._about(run, execution, CauseCode.WAITS_FOR_TIME, message, until=execution.not_before)

    def _interrupted(self, run: RunFacts, execution: LiveExecution) -> Cause:
        choices = [choice.value for choice in Resolution]
        body = {"action": " | ".join(choices), "attempt": execution.attempt}
        request = _request(run, execution, "resolve", body)
        return self._about(
            run,
            execution,
            CauseCode.NEEDS_DECISION,
            f"{{block}} was interrupted, and it is not known what it has done outside. {execution.error} Somebody has to decide: "
            "retry calls it again, skip keeps what came and goes on, fail takes it for failed.",
            data={
                "choices": choices,
                "attempt": execution.attempt,
                "request": request,
                "error_code": execution.error_code,
            },
        )

    def _of_held(self, run: RunFacts) -> Iterator[Cause]:
        for held in run.held:
            yield self._about(
                run,
                held,
                CauseCode.HELD_BACK,
                f"What {{block}} yielded goes on when the execution {held.behind_id} of the same node, which was queued before it, has ended.",
                since=held.ended_at,
                data={"behind": held.behind_id},
            )

    def _incomplete(self, run: RunFacts) -> Iterator[Cause]:
        shown = [execution for execution in run.executions if execution.status is NodeStatus.INCOMPLETE]
        is_over = run.status.is_terminal
        for execution in shown:
            missing = self._missing_pins(run, execution)
            pins = ", ".join(map(repr, missing)) or "some pins"
            yield self._about(
                run,
                execution,
                CauseCode.INCOMPLETE,
                f"{{block}} was not called: no value came for {pins}."
                if is_over
                else f"{{block}} lacks values for {pins}.",
                since=execution.added_at,
                missing_pins=missing,
            )
        total = sum(count for kind, count in run.counts.items() if kind.status is NodeStatus.INCOMPLETE)
        if (more := total - len(shown)) > 0:
            yield Cause(
                code=CauseCode.INCOMPLETE,
                message=f"{more:,} more node executions are INCOMPLETE.",
                data={"status": NodeStatus.INCOMPLETE, "count": more},
            )

    def _missing_pins(self, run: RunFacts, execution: LiveExecution) -> list[str]:
        topology = self._topologies.get((run.graph_id, run.graph_version))
        node = self._node(run, execution.node_id)
        if topology is None or node is None:
            return []
        arrived = set(run.arrived.get(execution.id, ()))
        return [
            *(slot for slot in node.slots if slot not in arrived),
            *(slot for slot in node.static_slots if not _is_served(topology, node, slot, run.served)),
        ]

    def _child(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = {"child_run_id": run_id}
        if run_id in self._runs:
            found["explanation"] = self.explain(run_id).model_dump(mode="json")
        return found

    def _about(
        self,
        run: RunFacts,
        execution: LiveExecution | HeldBack,
        code: CauseCode,
        message: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        missing_pins: list[str] | None = None,
        data: dict[str, Any] | None = None,
    ) -> Cause:
        node = self._node(run, execution.node_id)
        block = None if node is None else node.block.name
        return Cause(
            code=code,
            message=message.replace("{block}", block or "the block", 1),
            node_exec_id=execution.id,
            node_id=execution.node_id,
            block=block,
            since=since,
            until=until,
            missing_pins=missing_pins or [],
            data=data or {},
        )

    def _node(self, run: RunFacts, node_id: str) -> PlannedNode | None:
        topology = self._topologies.get((run.graph_id, run.graph_version))
        return None if topology is None else topology.nodes[topology.index_of(node_id)]


def _is_served(topology: Topology, node: PlannedNode, slot: str, served: frozenset[StaticPin]) -> bool:
    """Whether a value has come for a static slot."""
    return any(
        link.is_static
        and link.sink == node.index
        and link.slot == slot
        and StaticPin(source.id, pin, link.part) in served
        for source in topology.nodes
        for pin, links in source.out.items()
        for link in links
    )


def _ended(run: RunFacts) -> Cause:
    match run.status:
        case RunStatus.COMPLETED:
            message = "The run has completed."
        case RunStatus.CANCELED:
            message = f"The run was canceled: {run.error_message or 'by request.'}"
        case _:
            message = f"The run has failed: {run.error_message or 'there is no word of why.'}"
    return Cause(
        code=CauseCode.ENDED,
        message=message if message.endswith((".", "!", "?")) else f"{message}.",
        since=run.ended_at,
        data={"status": run.status, "error_code": run.error_code} if run.error_code else {"status": run.status},
    )


def _without_worker(run: RunFacts, queue: QueueReport) -> Cause:
    ahead = queue.ahead.get(run.id)
    data: dict[str, Any] = {"ahead": ahead, "workers": len(queue.workers)}
    alone = ""
    if run.takeovers >= MAX_TAKEOVERS:
        alone = f" It goes on in a worker of its own, because {run.takeovers} workers in a row have died with it."
    if run.worker_id is not None and run.worker_id not in queue.workers:
        return Cause(
            code=CauseCode.OWNER_GONE,
            message=f"The worker that performed it is gone, or about to end because its manager is; then another one takes it over.{alone}",
            data={**data, "worker": run.worker_id, "takeovers": run.takeovers},
        )
    if ahead is None:
        place = "the manager comes across it within a second, unless thousands wait"
    else:
        place = "it is the next one" if ahead == 0 else f"{ahead:,} are before it"
    return Cause(
        code=CauseCode.WAITS_FOR_WORKER,
        message=f"The run waits for a worker: {place}.{alone}",
        since=run.created_at if run.started_at is None else None,
        data=data,
    )


def _request(run: RunFacts, execution: LiveExecution, operation: str, body: dict[str, Any]) -> dict[str, Any]:
    """How to do something about it."""
    return {"method": "POST", "path": f"/executions/{run.id}/nodes/{execution.id}/{operation}", "body": body}


def _summary(run: RunFacts, causes: list[Cause]) -> str:
    counts = Counter[CauseCode]()
    for cause in causes:
        counts[cause.code] += int(cause.data["count"]) if "count" in cause.data else 1
    if not counts.keys().isdisjoint({CauseCode.OWNER_GONE, CauseCode.NO_WORKER_READY}):
        del counts[CauseCode.RUNNING]  # that is what is on record, and no more
    parts = [
        one if counts[code] == 1 else several.format(n=f"{counts[code]:,}")
        for code, (one, several) in _IN_SHORT.items()
        if counts[code]
    ]
    shown = "; ".join(parts[:_SUMMARY_PARTS])
    return f"The run is {run.status}: {shown}."
