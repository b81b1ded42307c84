"""Tests of the planner: sample blocks, graphs and events in a tiny text notation, and executions as lines of text.

A graph is written one node or link per line:

    A: free                         a node of a block of this module, by its short name
    B: free a=1 @release="end"      ... with a default and an entry of metadata (JSON without spaces)
    A.x -> B.a                      an ordinary link
    A.y => B.b                      a link marked static

What happens is written one execution per line, executions by their node and the number they got when they were queued:

    A0 x=1 y=2 end                  starts if it has not; yields two values; ends
    A0 fail:boom                    starts if it has not; fails with that message
    B3 start                        starts
    C0 stop                         has been stopped

and executions come out as `A0 COMPLETED`, `B0 QUEUED a=1 b=2`, `B? INCOMPLETE a=2` (no number yet), with `mixed` and the code of a failure behind the status.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pydantic

from autogpt_server.data.block import (
    Block,
    BlockContext,
    BlockKind,
    BlockOutput,
    BlockSchema,
    Effects,
    OutputSchema,
    SchemaField,
)
from autogpt_server.data.models import Graph
from autogpt_server.data.status import NodeStatus
from autogpt_server.execution.events import Close, Ended, Event, Started, Yielded
from autogpt_server.execution.flow import RunLimits, Todo
from autogpt_server.execution.plan import Planner
from autogpt_server.execution.start import start_inputs
from autogpt_server.execution.state import Execution, Failure, RunState
from autogpt_server.execution.topology import Topology, build_topology
from autogpt_server.utils import json

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = RunLimits(max_executions=10_000, max_bytes=1_000_000, max_duration_s=1e9)


class _Anything(BlockSchema):
    a: Any = SchemaField(None)
    b: Any = SchemaField(None)
    c: Any = SchemaField(None)


class _Results(OutputSchema):
    x: Any = SchemaField(None)
    y: Any = SchemaField(None)


class Sample(Block):
    """Pins a, b, c in and x, y out, all of any type. Never run: tests say what executions do."""

    description = "A sample."
    effects = Effects.PURE
    input_schema = _Anything
    output_schema = _Results

    def run(self, input_data: Any, ctx: BlockContext) -> BlockOutput:
        yield from ()


class Free(Sample):
    id = "22222222-0000-4000-8000-000000000001"


class Serial(Sample):
    id = "22222222-0000-4000-8000-000000000002"
    max_parallel = 1


class Idempotent(Sample):
    id = "22222222-0000-4000-8000-000000000003"
    effects = Effects.IDEMPOTENT


class Unsafe(Sample):
    id = "22222222-0000-4000-8000-000000000004"
    effects = Effects.UNSAFE


class ByInput(Sample):
    """Unsafe when `a` is "post"; cannot tell when it is "?"."""

    id = "22222222-0000-4000-8000-000000000005"

    def effects_for(self, input_data: Mapping[str, Any]) -> Effects:
        if input_data["a"] == "?":
            raise LookupError("no idea")
        return Effects.UNSAFE if input_data["a"] == "post" else Effects.PURE


class Fixed(Sample):
    """Its output is static."""

    id = "22222222-0000-4000-8000-000000000006"
    static_output = True


class Typed(Sample):
    id = "22222222-0000-4000-8000-000000000007"

    class Input(BlockSchema):
        number: int = SchemaField()
        numbers: list[int] = SchemaField(default_factory=list[int])
        text: str = SchemaField("")
        entries: dict[str, Any] = SchemaField(default_factory=dict[str, Any])
        anything: Any = SchemaField(None)

    input_schema = Input


class Even(Sample):
    """Takes nothing but even numbers."""

    id = "22222222-0000-4000-8000-000000000008"

    class Input(BlockSchema):
        a: int = SchemaField(0, multiple_of=2)
        b: Any = SchemaField(None)
        c: Any = SchemaField(None)

    input_schema = Input


class AgentIn(Sample):
    id = "22222222-0000-4000-8000-000000000009"
    kind = BlockKind.INPUT
    static_output = True

    class Input(BlockSchema):
        name: str = SchemaField()
        value: Any = SchemaField(None)

    class Output(OutputSchema):
        result: Any = SchemaField(None)

    input_schema = Input
    output_schema = Output


class Note(Sample):
    id = "22222222-0000-4000-8000-00000000000a"
    kind = BlockKind.NOTE


def _no_thirteen(value: int) -> int:
    if value == 13:
        raise LookupError("13")
    return value


class Brittle(Sample):
    """Its schema's own check breaks on 13, in a way that pydantic does not expect of a check."""

    id = "22222222-0000-4000-8000-00000000000b"

    class Input(BlockSchema):
        a: Annotated[int, pydantic.AfterValidator(_no_thirteen)] = SchemaField(0)

    input_schema = Input


_CLASSES = (Free, Serial, Idempotent, Unsafe, ByInput, Fixed, Typed, Even, AgentIn, Note, Brittle)
BLOCKS: Mapping[str, Block] = {cls.id: cls() for cls in _CLASSES}
_IDS = {cls.__name__.lower(): cls.id for cls in _CLASSES}


def parse_graph(text: str) -> Graph:
    """A graph in the notation of this module; node ids are the names."""
    nodes: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if ":" in line.split()[0]:
            name, block, *entries = line.replace(":", " ", 1).split()
            given = dict(entry.split("=", 1) for entry in entries)
            nodes.append(
                {
                    "id": name,
                    "block_id": _IDS[block],
                    "input_default": {pin: json.loads(v) for pin, v in given.items() if not pin.startswith("@")},
                    "metadata": {key[1:]: json.loads(v) for key, v in given.items() if key.startswith("@")},
                }
            )
        else:
            (source, source_pin), arrow, (sink, sink_pin) = (
                part if part in ("->", "=>") else part.split(".", 1) for part in line.split()
            )
            links.append(
                {
                    "source_id": source,
                    "source_name": source_pin,
                    "sink_id": sink,
                    "sink_name": sink_pin,
                    "is_static": arrow == "=>",
                }
            )
    return Graph.model_validate({"id": "graph", "nodes": nodes, "links": links})


def topology_of(text: str) -> Topology:
    """The graph in the notation of this module, ready for planning."""
    return build_topology(parse_graph(text), BLOCKS)


def numbered_ids(prefix: str = "e") -> Callable[[], str]:
    """Ids that sort in the order in which they are made."""
    numbers = itertools.count()
    return lambda: f"{prefix}{next(numbers):06}"


@dataclass
class Game:
    """A run whose events a test makes up."""

    topology: Topology
    limits: RunLimits = LIMITS
    state: RunState = field(init=False)
    planner: Planner = field(init=False)
    known: dict[str, Execution] = field(default_factory=dict[str, Execution])
    """Every execution there has been, by id, in the order in which they were made."""
    started: list[str] = field(default_factory=list[str])
    """The executions handed out, in order, by name."""
    stopped: list[str] = field(default_factory=list[str])
    at: datetime = EPOCH
    prefix: str = "e"
    """What the ids of new executions begin with."""

    def __post_init__(self) -> None:
        self.new_id = numbered_ids(self.prefix)
        self.carry_on_with(RunState("run", self.topology))

    def carry_on_with(self, state: RunState) -> None:
        """Go on with a state, as an owner does."""
        self.state = state
        self.planner = Planner(state, new_id=self.new_id, limits=self.limits)
        self.known.update(state.live)

    def begin(self, run_input: Mapping[str, Any]) -> None:
        self.took(self.planner.start(start_inputs(self.topology, run_input), self.at))

    def apply(self, event: Event) -> Todo:
        todo = self.planner.apply(event)
        self.took(todo)
        return todo

    def took(self, todo: Todo) -> None:
        self.known.update(self.state.changes.executions)
        self.started += [name_of(execution) for execution in todo.start]
        self.stopped += [name_of(execution) for execution in todo.stop]

    def tick(self, seconds: float = 1.0) -> datetime:
        self.at += timedelta(seconds=seconds)
        return self.at

    def play(self, script: str) -> None:
        """Apply what the lines of a script say."""
        for line in filter(None, map(str.strip, script.splitlines())):
            name, *steps = line.split()
            execution = self.find(name)
            if execution.status is NodeStatus.QUEUED:
                self.apply(Started(execution.id, self.tick()))
            for step in steps:
                self._step(execution, step)

    def _step(self, execution: Execution, step: str) -> None:
        at = self.tick()
        if step == "start":
            return
        if step == "end":
            self.apply(Ended(execution.id, at))
        elif step == "stop":
            self.apply(Ended(execution.id, at, stopped=True))
        elif step.startswith("fail:"):
            self.apply(Ended(execution.id, at, Failure("block_failed", step.removeprefix("fail:"))))
        else:
            pin, text = step.split("=", 1)
            self.apply(Yielded(execution.id, at, pin, json.loads(text), text))

    def close(self, status: Any, code: str = "canceled") -> None:
        self.apply(Close(self.tick(), status, Failure(code, "closed")))

    def find(self, name: str) -> Execution:
        """The queued execution of that name."""
        return next(execution for execution in self.known.values() if name_of(execution) == name)

    def lines(self) -> list[str]:
        """Every execution as a line, in the order of the graph's nodes, then of the executions."""
        ordered = sorted(self.known.values(), key=lambda e: (e.node.index, e.ordinal is None, e.ordinal or 0, e.id))
        return [describe(execution) for execution in ordered]


def name_of(execution: Execution) -> str:
    """The node's name and the execution's number."""
    return f"{execution.node.id}{'?' if execution.ordinal is None else execution.ordinal}"


def describe(execution: Execution) -> str:
    """An execution as a line of text."""
    words = [name_of(execution), execution.status.value]
    if execution.mixed_origin:
        words.append("mixed")
    if execution.failure is not None:
        words.append(execution.failure.code)
    words += [f"{slot}={json.dumps(token.value)}" for slot, token in sorted(execution.tokens.items())]
    return " ".join(words)


def play(graph: str, script: str = "", run_input: Mapping[str, Any] | None = None, **limits: Any) -> Game:
    """A run of the graph after the events of the script."""
    game = Game(topology_of(graph), replace(LIMITS, **limits))
    game.begin(run_input or {})
    game.play(script)
    return game
