"""Running a part of an ended run again (rule D9). Pure.

A re-run is a new run. The nodes that were chosen, and all that they reach, run *again*; what came of the others is *kept*: their executions are
copied, each as a row of its own, and what they have released is delivered in its old order, by the planner's ordinary rules, along the links that lead
to nodes that run again. All this is the first event of the new run. Kept nodes get no values: no link leads to one from a node that runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from typing import Any, cast

from autogpt_server.data.block import ERROR_PIN
from autogpt_server.data.former import FormerExecution, FormerNode, FormerOutput, FormerRun, Outcomes
from autogpt_server.data.pins import MISSING, parse_parts, pick
from autogpt_server.data.problems import InvalidContent, Problem
from autogpt_server.data.run_rows import (
    CONVERTED,
    INPUT,
    OUTPUT,
    CopiedExecution,
    CopiedValue,
    NewRun,
    TakenOver,
)
from autogpt_server.data.status import NodeStatus
from autogpt_server.execution.binding import trace_origins
from autogpt_server.execution.flow import RunLimits
from autogpt_server.execution.plan import Planner
from autogpt_server.execution.rows import new_run, origins_text
from autogpt_server.execution.start import start_inputs
from autogpt_server.execution.state import Counters, Execution, Failure, InputRow, Origins, Output, RunState, Token
from autogpt_server.execution.topology import NodeSettings, OutLink, PlannedNode, Release, Topology, output_key
from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError

_FINAL = frozenset({NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.SKIPPED, NodeStatus.INCOMPLETE})
"""What may be kept of an execution; a canceled one has still to be done."""


_UNDATED = datetime.min.replace(tzinfo=UTC)


class InvalidRerun(InvalidContent):
    """The run cannot be run again from there."""

    code = "invalid_rerun"


class RerunTooLarge(AutoGPTServerError):
    """What a re-run takes over and what it begins with exceed the limits of a run."""

    code = "rerun_too_large"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which nodes of a graph version run again, and which are kept."""

    topology: Topology
    again: frozenset[int]
    """Indices of nodes."""
    kept: Mapping[str, PlannedNode]
    """Id of the node in the former run's version -> the same node in this one."""

    def links_of(self, node: PlannedNode, pin: str) -> list[OutLink]:
        """The links along which values of a kept node travel once more."""
        return [link for link in node.out.get(pin, ()) if link.sink in self.again]

    @property
    def sent(self) -> set[tuple[str, str]]:
        """(former node id, pin) of what travels once more."""
        return {
            (former_id, pin) for former_id, node in self.kept.items() for pin in node.out if self.links_of(node, pin)
        }


def choose_nodes(topology: Topology, nodes: Iterable[FormerNode], former: FormerRun, chosen: Collection[str]) -> Scope:
    """Decide which nodes run again. `nodes` are those of the topology's version; nodes are the same if they have the same key and block.

    Again run the chosen ones (by their ids in either version), those that the former run did not know, and those that still have something to do or
    should have been given more; and all that these reach. Raises `InvalidRerun` when a chosen node is in neither version, or is in this one no more.
    """
    former_by_key = {node.key: node for node in former.nodes}
    index = {node.id: node.index for node in topology.nodes}
    same: dict[str, PlannedNode] = {}
    by_key: dict[str, int] = {}
    for node in nodes:
        by_key[node.key] = index[node.id]
        counterpart = former_by_key.get(node.key)
        if counterpart is not None and counterpart.block_id == node.block_id:
            same[counterpart.id] = topology.nodes[index[node.id]]
    seeds = _chosen(chosen, index, by_key, former, topology.version)
    known = {node.index for node in same.values()}
    seeds |= set(index.values()) - known
    seeds |= _unfinished(same, former)
    again = _reached(topology, seeds)
    return Scope(topology, again, {former_id: node for former_id, node in same.items() if node.index not in again})


def _chosen(
    chosen: Iterable[str], index: Mapping[str, int], by_key: Mapping[str, int], former: FormerRun, version: int
) -> set[int]:
    former_keys = {node.id: node.key for node in former.nodes}
    found: set[int] = set()
    problems: list[Problem] = []
    for node_id in chosen:
        place = index.get(node_id, by_key.get(former_keys.get(node_id, "")))
        if place is not None:
            found.add(place)
        elif node_id in former_keys:
            problems.append(
                Problem(
                    "node_removed", f"Version {version} of the graph has this node no more; choose another.", node_id
                )
            )
        else:
            message = (
                f"Version {version} of the graph has no such node."
                if version == former.graph_version
                else f"Neither version {former.graph_version} nor version {version} of the graph has such a node."
            )
            problems.append(Problem("unknown_node", message, node_id, expected=list(index)))
    if problems:
        raise InvalidRerun("The run cannot be run again from there.", problems)
    return found


def _unfinished(same: Mapping[str, PlannedNode], former: FormerRun) -> set[int]:
    """Nodes that the former run left with something to do, or did not give what it should have given them."""
    ends = {node.id for node in former.nodes if NodeSettings.model_validate(node.metadata).release is Release.END}
    begun = {standing.node_id for standing in former.standings}
    found = {node.index for former_id, node in same.items() if node.is_start and former_id not in begun}
    for standing in former.standings:
        node = same.get(standing.node_id)
        if node is not None and standing.was_queued and standing.status not in _FINAL:
            found.add(node.index)
    for owed in former.owed:
        node = same.get(owed.node_id)
        if node is not None and not _is_dropped(owed.status, owed.pin, ends=owed.node_id in ends):
            found.update(link.sink for link in node.out.get(owed.pin, ()))
    return found


def _is_dropped(status: NodeStatus, pin: str, *, ends: bool) -> bool:
    """Whether a value that was not released never will be: a failed execution of a node that releases at the end sends nothing but its error."""
    return ends and status is NodeStatus.FAILED and pin != ERROR_PIN


def _reached(topology: Topology, seeds: Iterable[int]) -> frozenset[int]:
    found: set[int] = set()
    pending = list(seeds)
    while pending:
        place = pending.pop()
        if place not in found:
            found.add(place)
            pending.extend(link.sink for links in topology.nodes[place].out.values() for link in links)
    return frozenset(found)


def plan_rerun(
    scope: Scope,
    former: FormerRun,
    outcomes: Outcomes,
    run_id: str,
    *,
    new_id: Callable[[], str],
    limits: RunLimits,
    at: datetime,
    inline_value_bytes: int,
    idempotency_key: str | None = None,
    request_hash: str | None = None,
) -> NewRun:
    """The rows of the re-run. It may have ended already, when nothing is left to do.

    Raises `InvalidRunInput` when nodes begin again that cannot take the former run's input, `RerunTooLarge`.
    """
    run_input = cast("dict[str, Any]", json.loads(former.input))
    starts = [node for node in scope.topology.start_nodes if node.index in scope.again]
    given = start_inputs(scope.topology, run_input, begun=scope.again) if starts else {}
    replay = _Replay(scope, former, outcomes, new_id)
    _check_size(replay.stats, limits)
    state = RunState(run_id, scope.topology, seq=replay.first_seq - 1, stats=replay.stats, unhandled=replay.unhandled)
    Planner(state, new_id=new_id, limits=limits).replay(
        {node.index: given.get(node.index, {}) for node in starts}, replay.arrivals(), at
    )
    if state.closing is not None:
        raise RerunTooLarge(
            f"With what is kept of the run {former.id} the re-run would begin beyond a limit: {state.failure.message if state.failure else ''}"
        )
    state.changes.inputs[:0] = [*replay.orphans(at), *replay.former_defaults(at)]
    state.changes.outputs[:0] = replay.unsent_errors(at)
    run = new_run(
        state,
        run_input,
        created_at=at,
        inline_value_bytes=inline_value_bytes,
        priority=former.priority,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        rerun_of_id=former.id,
    )
    return replace(run, taken_over=replay.taken_over())


def _check_size(stats: Counters, limits: RunLimits) -> None:
    if stats.executions > limits.max_executions:
        raise RerunTooLarge(
            f"{stats.executions:,} node executions would be kept; a run may have {limits.max_executions:,} (setting MAX_RUN_NODE_EXECUTIONS). "
            "Choose a node nearer to the start, or raise the limit."
        )
    if stats.bytes > limits.max_bytes:
        raise RerunTooLarge(
            f"The outputs that would be kept take {stats.bytes:,} bytes; those of a run may take {limits.max_bytes:,} (setting MAX_RUN_BYTES). "
            "Choose a node nearer to the start, or raise the limit."
        )


@dataclass
class _Replay:
    """What is kept of a former run, under new ids.

    Copies are numbered from 1 in the order of their age, and released outputs from 1 in the order of their release, so that both orders can be read
    again from the rows, and those who watch the run are told of it in pages. `first_seq` comes after all of them.
    """

    scope: Scope
    former: FormerRun
    outcomes: Outcomes
    new_id: Callable[[], str]
    ids: dict[str, str] = field(init=False)
    """Former execution id -> that of its copy."""
    executions: dict[str, FormerExecution] = field(init=False)
    sent: list[FormerOutput] = field(init=False)
    """Released outputs, in the order of their release."""
    unhandled: dict[str, Failure] = field(init=False)
    stats: Counters = field(init=False)

    def __post_init__(self) -> None:
        self.executions = {execution.id: execution for execution in self.outcomes.executions}
        self.ids = {former_id: self.new_id() for former_id in self.executions}
        self._unsent_errors = self._find_unsent_errors()
        order = self._by_descent()
        self.sent = self._by_release(order)
        self._number = {(output.execution_id, output.ordinal): i for i, output in enumerate(self.sent, 1)}
        self._origins = self._trace(order)
        self.unhandled = self._find_unhandled()
        self.stats = self._count()

    @property
    def first_seq(self) -> int:
        """The number of the re-run's first event."""
        return max(len(self.executions), len(self.sent)) + 1

    # --- order ---------------------------------------------------------------------------------------------------

    def _find_unsent_errors(self) -> list[FormerOutput]:
        """Of a run that could not be carried on with: the errors that it did not come to send."""
        counts = dict.fromkeys(self.executions, 0)
        told: set[str] = set()
        for output in self.outcomes.outputs:
            counts[output.execution_id] += 1
            if output.pin == ERROR_PIN:
                told.add(output.execution_id)
        missing = [
            FormerOutput(each.id, counts[each.id], ERROR_PIN, len(self._error_text(each.id).encode()), None)
            for each in self.outcomes.executions
            if each.status is NodeStatus.FAILED and each.id not in told
        ]
        self.outcomes.texts.update(
            {(each.execution_id, each.ordinal): self._error_text(each.execution_id) for each in missing}
        )
        return missing

    def _error_text(self, former_id: str) -> str:
        return json.dumps(self.executions[former_id].error or "")

    def _by_descent(self) -> dict[str, int]:
        """Former execution id -> a place behind those of all that its values came from, and of those that its node had before."""
        graph: TopologicalSorter[str] = TopologicalSorter()
        numbered = [each for each in self.outcomes.executions if each.ordinal is not None]
        latest: dict[str, str] = {}
        for execution in sorted(numbered, key=lambda each: each.ordinal or 0):
            before = latest.get(execution.node_id)
            graph.add(execution.id, *([] if before is None else [before]))
            latest[execution.node_id] = execution.id
        for entry in self.outcomes.inputs:
            if entry.source_id is not None and self.executions[entry.execution_id].ordinal is not None:
                graph.add(entry.execution_id, entry.source_id)
        return {former_id: place for place, former_id in enumerate(graph.static_order())}

    def _by_release(self, place: Mapping[str, int]) -> list[FormerOutput]:
        """What was released, in that order; then what was still held back when the run was ended, and is released now."""
        released: list[tuple[tuple[int, int, int, int], FormerOutput]] = []
        owed: list[tuple[tuple[int, int, int], FormerOutput]] = []
        ends = {
            node.id for node in self.former.nodes if NodeSettings.model_validate(node.metadata).release is Release.END
        }
        for output in (*self.outcomes.outputs, *self._unsent_errors):
            execution = self.executions[output.execution_id]
            if output.released_seq is not None:
                when = (output.released_seq, execution.queued_seq or 0, place[execution.id], output.ordinal)
                released.append((when, output))
            elif not _is_dropped(execution.status, output.pin, ends=execution.node_id in ends):
                turn = (self.scope.kept[execution.node_id].index, execution.ordinal or 0, output.ordinal)
                owed.append((turn, output))
        released.sort(key=lambda entry: entry[0])
        owed.sort(key=lambda entry: entry[0])
        return [output for _, output in released] + [output for _, output in owed]

    # --- what is known of it -------------------------------------------------------------------------------------

    def _trace(self, order: Mapping[str, int]) -> dict[str, Origins]:
        """What the kept executions descend from, as this version of the graph has to know it (rule F8)."""
        if not any(node.watched for node in self.scope.topology.nodes):
            return {}
        entered: dict[str, list[tuple[str, str, int]]] = {}
        for entry in self.outcomes.inputs:
            if entry.source_id is not None and entry.source_ordinal is not None:
                entered.setdefault(entry.execution_id, []).append((entry.slot, entry.source_id, entry.source_ordinal))
        found: dict[str, Origins] = {}
        for former_id in order:
            node = self.scope.kept[self.executions[former_id].node_id]
            if node.watched and former_id in entered:
                shell = self._shell(former_id, _UNDATED)
                for slot, source_id, ordinal in entered[former_id]:
                    output = self.sent[self._number[source_id, ordinal] - 1]
                    shell.tokens[slot] = Token(None, origins=self._origins_of(output, found))
                trace_origins(shell)
                if shell.origins:
                    found[former_id] = shell.origins
        return found

    def _origins_of(self, output: FormerOutput, origins: Mapping[str, Origins]) -> Origins:
        former_id = output.execution_id
        node = self.scope.kept[self.executions[former_id].node_id]
        own = {output_key(node.index, output.pin): (self.ids[former_id], output.ordinal)}
        return {**origins.get(former_id, {}), **own}

    def _shell(self, former_id: str, at: datetime) -> Execution:
        """Stands for a copy where the planner's own shapes are wanted."""
        return Execution(self.ids[former_id], self.scope.kept[self.executions[former_id].node_id], at)

    def _find_unhandled(self) -> dict[str, Failure]:
        failed = {
            each.id: Failure(each.error_code or "block_failed", each.error or "")
            for each in self.outcomes.executions
            if each.status is NodeStatus.FAILED
        }
        for entry in self.outcomes.inputs:
            if entry.source_id in failed and self.executions[entry.execution_id].ordinal is not None:
                number = self._number.get((entry.source_id, entry.source_ordinal or 0))
                if number is not None and self.sent[number - 1].pin == ERROR_PIN:
                    del failed[entry.source_id]
        return {self.ids[former_id]: failure for former_id, failure in failed.items()}

    def _count(self) -> Counters:
        statuses = [each.status for each in self.outcomes.executions]
        return Counters(
            executions=len(statuses),
            completed=statuses.count(NodeStatus.COMPLETED),
            failed=statuses.count(NodeStatus.FAILED),
            canceled=statuses.count(NodeStatus.CANCELED),
            skipped=statuses.count(NodeStatus.SKIPPED),
            incomplete=statuses.count(NodeStatus.INCOMPLETE),
            bytes=sum(output.size_bytes for output in (*self.outcomes.outputs, *self._unsent_errors)),
        )

    # --- what comes of it ----------------------------------------------------------------------------------------

    def arrivals(self) -> Iterator[tuple[OutLink, Token]]:
        """The values that travel once more, in the order of their release."""
        for output in self.sent:
            execution = self.executions[output.execution_id]
            links = self.scope.links_of(self.scope.kept[execution.node_id], output.pin)
            if not links:
                continue
            copy_id = self.ids[execution.id]
            whole = json.loads(self.outcomes.texts[execution.id, output.ordinal])
            origins = self._origins_of(output, self._origins)
            failed_id = copy_id if output.pin == ERROR_PIN and execution.status is NodeStatus.FAILED else None
            for link in links:
                value = pick(whole, link.parts)
                if value is not MISSING:
                    yield link, Token(value, None, copy_id, output.ordinal, link.part, origins, failed_id)

    def orphans(self, at: datetime) -> list[InputRow]:
        """Inputs whose sources are not kept, because this version has no such link: the values themselves."""
        slots = {(entry.execution_id, entry.ordinal): entry.slot for entry in self.outcomes.inputs}
        rows: list[InputRow] = []
        for (former_id, ordinal), (text, part) in self.outcomes.orphans.items():
            travelled = json.dumps(pick(json.loads(text), parse_parts(part))) if part else text
            rows.append(InputRow(self._shell(former_id, at), INPUT, ordinal, slots[former_id, ordinal], travelled))
        return rows

    def former_defaults(self, at: datetime) -> list[InputRow]:
        """What pins had by default where this version says otherwise: nobody shall believe that a copy ran with today's. None where they had nothing."""
        differing = self._differing_defaults()
        if not differing:
            return []
        taken: dict[str, set[str]] = {}
        counts: dict[str, int] = {}
        for entry in self.outcomes.inputs:
            taken.setdefault(entry.execution_id, set()).add(entry.slot)
        for former_id, _, pin in self.outcomes.converted:
            taken.setdefault(former_id, set()).add(pin)
            counts[former_id] = counts.get(former_id, 0) + 1
        rows: list[InputRow] = []
        for execution in self.outcomes.executions:
            pins = [pin for pin in differing.get(execution.node_id, {}) if pin not in taken.get(execution.id, ())]
            for ordinal, pin in enumerate(pins, counts.get(execution.id, 0)):
                text = json.dumps(differing[execution.node_id][pin])
                rows.append(InputRow(self._shell(execution.id, at), CONVERTED, ordinal, pin, text))
        return rows

    def _differing_defaults(self) -> dict[str, dict[str, Any]]:
        """Former node id -> pin -> its default then, for those that have another one now."""
        found: dict[str, dict[str, Any]] = {}
        for node in self.former.nodes:
            if node.id in self.scope.kept:
                today = self.scope.kept[node.id].defaults
                pins = [
                    pin
                    for pin in {**node.defaults, **today}
                    if node.defaults.get(pin, MISSING) != today.get(pin, MISSING)
                ]
                if pins:
                    found[node.id] = {pin: node.defaults.get(pin) for pin in pins}
        return found

    def unsent_errors(self, at: datetime) -> list[Output]:
        """The errors that the former run did not come to send, as outputs of the copies."""
        return [
            Output(
                self._shell(each.execution_id, at),
                each.ordinal,
                each.pin,
                None,
                self._error_text(each.execution_id),
                self.first_seq,
                self._number[each.execution_id, each.ordinal],
            )
            for each in self._unsent_errors
        ]

    def taken_over(self) -> TakenOver:
        """The rows to be copied."""
        taken = TakenOver(self.former.id)
        seqs: dict[str, int] = {}
        for seq, (former_id, execution) in enumerate(self.executions.items(), 1):
            seqs[former_id] = seq
            node = self.scope.kept[execution.node_id]
            origins = origins_text(self._origins.get(former_id))
            taken.executions.append(CopiedExecution(self.ids[former_id], node.id, seq, origins, former_id))
        values = taken.values
        for entry in self.outcomes.inputs:
            if (entry.execution_id, entry.ordinal) not in self.outcomes.orphans:
                source_id = None if entry.source_id is None else self.ids[entry.source_id]
                copy_id = self.ids[entry.execution_id]
                values.append(CopiedValue(copy_id, source_id, None, None, entry.execution_id, INPUT, entry.ordinal))
        values.extend(
            CopiedValue(self.ids[former_id], None, None, None, former_id, CONVERTED, ordinal)
            for former_id, ordinal, _ in self.outcomes.converted
        )
        for output in self.outcomes.outputs:
            former_id, ordinal = output.execution_id, output.ordinal
            number = self._number.get((former_id, ordinal))
            values.append(CopiedValue(self.ids[former_id], None, seqs[former_id], number, former_id, OUTPUT, ordinal))
        return taken
