"""Performs made-up runs against a real database: chance decides who goes next, when rows are written and when the worker dies."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from autogpt_server.data.run_rows import CommitOutcome
from autogpt_server.data.status import NodeStatus
from autogpt_server.execution.events import Ended, OwnerDied, Started, Yielded
from autogpt_server.execution.flow import Todo
from autogpt_server.execution.restore import restore_run
from autogpt_server.execution.state import Execution, Failure, RunState, Token
from autogpt_server.utils import json
from support.kahn import GraphSpec, behave
from support.ledger import Ledger, store_graph
from support.planning import Game, topology_of


@dataclass
class World:
    """Performs a run as a worker would, except that chance decides who goes next, when rows are written and when the worker dies."""

    graph: GraphSpec
    chance: random.Random
    connection: sqlite3.Connection
    crashes: int = 0
    """How often the worker may still die."""
    checks_restore: bool = False
    """Whether each commit is read back and compared with the state in memory."""
    waiting: dict[str, Execution] = field(default_factory=dict[str, Execution])
    running: dict[str, Iterator[Any]] = field(default_factory=dict[str, Iterator[Any]])
    events: int = 0

    def begin(self) -> None:
        topology = topology_of(self.graph.text())
        store_graph(self.connection, topology)
        self.game = Game(topology)
        self.ledger = Ledger(self.connection, topology)
        self.game.begin({})
        self.ledger.insert(self.game.state)
        self._take_over()

    def run(self) -> RunState:
        self.begin()
        while not self.game.state.status.is_terminal:
            self.step()
            check_counters(self.game.state)
            if self.chance.random() < 0.4:
                self.commit()
            is_over = self.game.state.status.is_terminal and self.ledger.seq == self.game.state.seq
            if self.crashes and not is_over and self.chance.random() < 0.1:
                self.crashes -= 1
                self._take_over()
        self.commit()
        return self.game.state

    def _take_over(self) -> None:
        """Lose all that was not committed, and have another worker carry on."""
        snapshot = self.ledger.load()
        self.ledger.seq = snapshot.seq
        self.game.carry_on_with(self.ledger.take_over())
        self.running.clear()
        self.waiting.clear()
        if snapshot.epoch:
            self._took(self.game.apply(OwnerDied(self.game.tick())))
        else:
            self._took(self.game.planner.resume())

    def step(self) -> None:
        ready = [*self.waiting, *self.running]
        first = [each for each in ready if self.game.state.live[each].node.id in self.graph.sources]
        assert ready, "the run neither moves nor ends"
        execution = self.game.state.live[self.chance.choice(first or ready)]
        self.events += 1
        at = self.game.tick()
        if self.waiting.pop(execution.id, None) is not None:
            self._took(self.game.apply(Started(execution.id, at)))
            self.running[execution.id] = self._perform(execution)
            return
        step = next(self.running[execution.id])
        if isinstance(step, Ended):
            del self.running[execution.id]
        self._took(self.game.apply(step))

    def _perform(self, execution: Execution) -> Iterator[Yielded | Ended]:
        outputs, error = behave(
            self.graph.salt, execution.node.id, {slot: token.value for slot, token in execution.tokens.items()}
        )
        for pin, value in outputs:
            yield Yielded(execution.id, self.game.at, pin, value, json.dumps(value))
        yield Ended(execution.id, self.game.at, None if error is None else Failure("block_failed", error))

    def _took(self, todo: Todo) -> None:
        self.waiting.update({execution.id: execution for execution in todo.start})
        assert not todo.stop

    def commit(self) -> None:
        if self.game.state.seq == self.ledger.seq:
            return
        assert self.ledger.commit(self.game.state).outcome is CommitOutcome.DONE
        if self.checks_restore and not self.game.state.status.is_terminal:
            restored = restore_run(self.ledger.topology, self.ledger.load())
            found = differences(essence(restored), essence(self.game.state))
            assert not found, found


@dataclass
class Row:
    """A node execution as it was written."""

    id: str
    node: str
    status: str
    number: int | None
    mixed: bool
    inputs: dict[str, Any] = field(default_factory=dict[str, Any])
    sources: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    outputs: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    released: list[int | None] = field(default_factory=list["int | None"])


@dataclass
class Recorded:
    status: str
    stats: dict[str, Any]
    rows: list[Row]

    def of(self, node: str) -> list[Row]:
        """The node's executions: queued ones by number, then the others as they were made."""
        return sorted(
            (row for row in self.rows if row.node == node), key=lambda row: (row.number is None, row.number, row.id)
        )


def read(connection: sqlite3.Connection, run_id: str) -> Recorded:
    """The run as written, by queries that share nothing with those of the server."""
    status, stats = connection.execute(
        'SELECT "status", "stats" FROM "AgentGraphExecution" WHERE "id" = ?', (run_id,)
    ).fetchone()
    rows = [
        Row(row_id, node, status, number, bool(mixed))
        for row_id, node, status, number, mixed in connection.execute(
            'SELECT "id", "agentNodeId", "status", "ordinal", "mixedOrigin" FROM "AgentNodeExecution" WHERE "agentGraphExecutionId" = ? ORDER BY "id"',
            (run_id,),
        )
    ]
    by_id = {row.id: row for row in rows}
    large = dict(connection.execute('SELECT "hash", "data" FROM "AgentValue"').fetchall())
    values = connection.execute(
        'SELECT * FROM "AgentNodeExecutionInputOutput" ORDER BY "agentNodeExecutionId", "ordinal"'
    )
    names = [column[0] for column in values.description]
    found = [
        value for each in values if (value := dict(zip(names, each, strict=True)))["agentNodeExecutionId"] in by_id
    ]
    for value in found:
        if value["role"] == "output":
            text = value["data"] if value["valueHash"] is None else large[value["valueHash"]]
            row = by_id[value["agentNodeExecutionId"]]
            assert value["ordinal"] == len(row.outputs), "outputs are numbered without gaps"
            row.outputs.append((value["name"], json.loads(text)))
            row.released.append(value["releasedSeq"])
    for value in found:
        if value["role"] == "input":
            row, source = by_id[value["agentNodeExecutionId"]], (value["sourceExecutionId"], value["sourceOrdinal"])
            assert value["name"] not in row.inputs, "a slot takes one value"
            whole = cast("Any", by_id[source[0]].outputs[source[1]][1])
            row.inputs[value["name"]] = whole["k"] if value["sourcePart"] == "_#_k" else whole
            row.sources[value["name"]] = source
    return Recorded(status, cast("dict[str, Any]", json.loads(stats)), rows)


def check_counters(state: RunState) -> None:
    """The counters are what counting gives."""
    statuses = Counter(execution.status for execution in state.live.values())
    assert state.active == sum(statuses[status] for status in NodeStatus if status.is_active)
    assert state.moving == statuses[NodeStatus.QUEUED] + statuses[NodeStatus.RUNNING]
    assert state.stats.incomplete == statuses[NodeStatus.INCOMPLETE]
    stats = state.stats
    assert stats.executions == len(state.live) + stats.completed + stats.failed + stats.canceled + stats.skipped
    assert stats.unhandled == len(state.unhandled)
    assert state.status.is_terminal == (state.active == 0)
    if state.status.is_terminal and state.closing is None:
        assert not any(node.unreleased for node in state.nodes)
    for node, place in zip(state.topology.nodes, state.nodes, strict=True):
        assert place.busy <= node.max_parallel
        for slot, count in place.arrived.items():
            assert [slot in execution.tokens for execution in place.incomplete] == [
                number < count for number in range(len(place.incomplete))
            ]


def differences(left: Any, right: Any, place: str = "") -> list[str]:
    """Where two of these forms differ, and how."""
    if isinstance(left, dict) and isinstance(right, dict):
        first, second = cast("dict[str, Any]", left), cast("dict[str, Any]", right)
        missing = object()
        return [
            difference
            for key in first | second
            for difference in differences(first.get(key, missing), second.get(key, missing), f"{place}.{key}")
        ]
    if (
        isinstance(left, list)
        and isinstance(right, list)
        and len(cast("list[Any]", left)) == len(cast("list[Any]", right))
    ):
        pairs = enumerate(zip(cast("list[Any]", left), cast("list[Any]", right), strict=True))
        return [difference for index, pair in pairs for difference in differences(*pair, f"{place}[{index}]")]
    return [] if left == right else [f"{place}: {left!r} is not {right!r}"]


def essence(state: RunState) -> Any:
    """All of a state that decides what comes of the next events, in a form that can be compared."""
    return {
        "run": (
            state.id,
            state.status,
            state.seq,
            state.active,
            state.moving,
            state.closing,
            state.failure,
            state.reason,
        ),
        "times": (state.started_at, state.ended_at),
        "stats": state.stats,
        "unhandled": dict(sorted(state.unhandled.items())),
        "live": {each.id: _execution_essence(each) for each in sorted(state.live.values(), key=lambda each: each.id)},
        "nodes": [
            {
                "incomplete": [each.id for each in place.incomplete],
                "arrived": {slot: count for slot, count in place.arrived.items() if count},
                "statics": {slot: _token_essence(token, with_origins=False) for slot, token in place.statics.items()},
                "next": place.next_ordinal,
                "unreleased": _unreleased_essence(list(place.unreleased)),
                "queued": [each.id for each in place.unreleased if each.status is NodeStatus.QUEUED],
            }
            for place in state.nodes
        ],
    }


def _unreleased_essence(executions: list[Execution]) -> list[Any]:
    """Whose turn it is, and what waits. What has ended and holds nothing back makes no difference."""
    return [
        (each.id, each.status, [(output.ordinal, output.pin, output.text, output.seq) for output in each.held])
        for each in executions
        if each.held or not each.status.is_terminal
    ]


def _execution_essence(execution: Execution) -> Any:
    return {
        name: getattr(execution, name)
        for name in (
            "id",
            "status",
            "ordinal",
            "attempt",
            "origins",
            "mixed_origin",
            "outputs",
            "failure",
            "seq",
            "added_at",
            "added_seq",
            "queued_at",
            "queued_seq",
            "started_at",
            "started_seq",
            "ended_at",
            "ended_seq",
            "input",
        )
    } | {
        "node": execution.node.id,
        "tokens": [
            (slot, _token_essence(token, with_origins=slot not in execution.node.static_slots))
            for slot, token in execution.tokens.items()
        ],
    }


def _token_essence(token: Token, *, with_origins: bool = True) -> Any:
    is_static = not with_origins or token.origins is None
    return (
        json.dumps(token.value),
        token.source_id,
        token.source_ordinal,
        token.source_part,
        token.failed_id,
        None if is_static else dict(token.origins or {}),
    )
