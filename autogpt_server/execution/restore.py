"""From committed rows back to the planner's state: how an owner takes up a run, be it new or another's. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, cast

from autogpt_server.data.block import ERROR_PIN
from autogpt_server.data.db import from_db_time
from autogpt_server.data.pins import merge_slots, parse_parts, pick
from autogpt_server.data.snapshot import RunSnapshot, StaticPin, StoredExecution, StoredInput
from autogpt_server.data.status import NodeStatus, RunStatus
from autogpt_server.execution.state import (
    Counters,
    Execution,
    Failure,
    Origins,
    Output,
    Resumed,
    RunState,
    Signal,
    Token,
)
from autogpt_server.execution.topology import PlannedNode, Release, Topology, output_key
from autogpt_server.utils import json


def static_pins(topology: Topology) -> list[StaticPin]:
    """The outputs whose newest value serves later executions: `load_run` reads their values."""
    return [
        StaticPin(node.id, pin, part)
        for node in topology.nodes
        for pin, links in node.out.items()
        for part in dict.fromkeys(link.part for link in links if link.is_static)
    ]


def restore_run(topology: Topology, snapshot: RunSnapshot) -> RunState:
    """The state after the last committed event."""
    state = RunState(
        snapshot.id,
        topology,
        status=RunStatus(snapshot.status),
        seq=snapshot.seq,
        stats=_counters(snapshot.stats),
        inbox_done=snapshot.inbox_done,
        depth=snapshot.depth,
        closing=RunStatus(snapshot.closing) if snapshot.closing else None,
        failure=Failure(snapshot.error_code, snapshot.error_message or "") if snapshot.error_code else None,
        reason=snapshot.reason,
        started_at=from_db_time(snapshot.started_at),
        unhandled={execution_id: Failure(code, message) for execution_id, code, message in snapshot.unhandled},
    )
    by_id = {node.id: node for node in topology.nodes}
    for node_id, ordinal in snapshot.next_ordinals.items():
        state.nodes[by_id[node_id].index].next_ordinal = ordinal
    _restore_statics(state, snapshot, by_id)
    executions = [_restore_execution(stored, by_id) for stored in snapshot.executions]
    for execution in executions:
        _place(state, execution)
    for node_state in state.nodes:
        node_state.unreleased = deque(sorted(node_state.unreleased, key=_ordinal))
        node_state.ready = deque(sorted(node_state.ready, key=_ordinal))
    return state


def _place(state: RunState, execution: Execution) -> None:
    """Put an execution where the planner looks for it."""
    node_state = state.nodes[execution.node.index]
    if not execution.status.is_terminal:
        state.live[execution.id] = execution
    if execution.status is NodeStatus.INCOMPLETE:
        node_state.incomplete.append(execution)
        for slot in execution.tokens:
            node_state.arrived[slot] = node_state.arrived.get(slot, 0) + 1
        return
    if execution.held or not execution.status.is_terminal:
        node_state.unreleased.append(execution)
    if execution.status.is_active:
        state.active += 1
    state.moving += execution.is_moving
    if execution.not_before is not None:
        heapq.heappush(state.timers, (execution.not_before, execution.id))
    elif execution.status is NodeStatus.QUEUED:
        node_state.ready.append(execution)
    if execution.status is NodeStatus.RUNNING:
        node_state.busy += 1


def _restore_execution(stored: StoredExecution, nodes: Mapping[str, PlannedNode]) -> Execution:
    node = nodes[stored.node_id]
    execution = Execution(
        stored.id,
        node,
        datetime.fromisoformat(stored.added_at),
        status=NodeStatus(stored.status),
        ordinal=stored.ordinal,
        attempt=stored.attempt,
        origins=_origins(stored.origins),
        mixed_origin=bool(stored.mixed_origin),
        outputs=len(stored.outputs),
        failure=Failure(stored.error_code, stored.error or "") if stored.error_code else None,
        seq=stored.seq,
        added_seq=stored.added_seq,
        queued_at=from_db_time(stored.queued_at),
        queued_seq=stored.queued_seq,
        started_at=from_db_time(stored.started_at),
        started_seq=stored.started_seq,
        ended_at=from_db_time(stored.ended_at),
        ended_seq=stored.ended_seq,
        committed=True,
        retries=stored.retries,
        not_before=from_db_time(stored.not_before),
        waits_for=stored.waits_for,
        child_run_id=stored.child_run_id,
        resumed=_resumed(stored.resumed),
        first_output=stored.first_output,
        signals=_signals(stored.signals),
        replay_of_id=stored.replay_of_id,
    )
    for entry in stored.inputs:
        execution.tokens[entry.slot] = _restore_token(entry, nodes)
    if execution.status.is_active:
        execution.replay = [(output.pin, output.text) for output in stored.outputs[stored.first_output :]]
        execution.input = node.convert(
            merge_slots(node.defaults, {slot: token.value for slot, token in execution.tokens.items()})
        )
    for output in stored.outputs:
        if output.released_seq is None and not _is_dropped(execution, output.pin):
            value = json.loads(output.text)
            execution.held.append(
                Output(execution, output.ordinal, output.pin, value, output.text, output.seq, committed=True)
            )
    return execution


def _is_dropped(execution: Execution, pin: str) -> bool:
    """Whether a held output will never travel: a failed attempt of a node that releases at the end sends nothing but its error."""
    failed = execution.status is NodeStatus.FAILED and execution.node.release is Release.END
    return failed and pin != ERROR_PIN


def _restore_token(entry: StoredInput, nodes: Mapping[str, PlannedNode]) -> Token:
    source = entry.source
    if source is None:
        return Token(entry.value)
    return Token(
        pick(entry.value, parse_parts(source.part)) if source.part else entry.value,
        None,
        source.execution_id,
        source.ordinal,
        source.part,
        {
            **(_origins(source.origins) or {}),
            output_key(nodes[source.node_id].index, source.pin): (source.execution_id, source.ordinal),
        },
        source.execution_id if source.is_error else None,
    )


def _restore_statics(state: RunState, snapshot: RunSnapshot, nodes: Mapping[str, PlannedNode]) -> None:
    """Bind the newest value of each static slot, the one released last winning."""
    for static in snapshot.statics:
        failed_id = static.execution_id if static.is_error else None
        for link in nodes[static.pin.node_id].out[static.pin.pin]:
            if link.is_static and link.part == static.pin.part:
                value = pick(static.value, link.parts)
                token = Token(value, None, static.execution_id, static.ordinal, link.part, failed_id=failed_id)
                state.nodes[link.sink].statics[link.slot] = token


_KNOWN_COUNTERS = frozenset(entry.name for entry in fields(Counters))


def _counters(text: str) -> Counters:
    written = cast("dict[str, Any]", json.loads(text))
    if not _KNOWN_COUNTERS.issuperset(written):
        written = {name: value for name, value in written.items() if name in _KNOWN_COUNTERS}
    written["waiting_since"] = from_db_time(written.get("waiting_since"))
    return Counters(**written)


def _resumed(text: str | None) -> Resumed | None:
    return None if text is None else Resumed(**cast("dict[str, Any]", json.loads(text)))


def _signals(text: str | None) -> list[Signal]:
    return [] if text is None else [Signal(name, value) for name, value in cast("list[list[Any]]", json.loads(text))]


def _origins(text: str | None) -> Origins | None:
    if text is None:
        return None
    stored = cast("dict[str, list[Any]]", json.loads(text))
    return {pin: (str(execution_id), int(ordinal)) for pin, (execution_id, ordinal) in stored.items()}


def _ordinal(execution: Execution) -> int:
    return execution.ordinal or 0
