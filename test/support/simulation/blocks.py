"""What the simulated runs perform: blocks whose outputs follow from their inputs alone, and whose manners chance has drawn."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from autogpt_server.data.block import (
    Block,
    BlockContext,
    BlockError,
    BlockSchema,
    CallGraph,
    ChildResult,
    EffectNotStarted,
    Effects,
    EffectUnknown,
    OutputSchema,
    SchemaField,
    Suspend,
)
from autogpt_server.data.models import Graph
from autogpt_server.execution.topology import Topology, build_topology
from support.kahn import GraphSpec, LinkSpec, NodeSpec, behave

SIGNAL = "go"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How the executions of a node behave, apart from what they yield."""

    effects: Effects = Effects.PURE
    has_thread: bool = False
    """Whether its block is one with a plain `run`."""
    pause_s: float = 0.0
    """Up to so long before each output."""
    fails: int = 0
    """So many attempts fail first."""
    failure: str = "error"
    """"error", "not started", "unknown", "hang" (until the time limit), "stubborn" (as that, and does not stop when it is told to)."""
    fails_behind: int = 0
    """Behind how many outputs they fail."""
    waits: str | None = None
    """"time", "signal", "either" or the id of a graph to call."""
    waits_behind: int = 0
    wait_s: float = 1.0
    kills: int = 0
    """So many attempts kill their worker."""
    hoards: int = 0
    """So many attempts take all memory of their worker, and fail."""
    lies: bool = False
    """Yields something else with each attempt."""
    on_interrupted: str = "ask"
    attempts: int = 1
    delay_s: float = 0.0
    timeout_s: float | None = None
    is_mild: bool = True
    """Whether the outcome of a run is the same as without these manners, as long as nobody decides anything."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph of the simulation."""

    id: str
    spec: GraphSpec
    manners: Mapping[str, Manner]
    has_oracle: bool
    """Whether the oracle can tell what must come of it."""

    @property
    def is_mild(self) -> bool:
        return all(manner.is_mild for manner in self.manners.values())

    def topology(self, blocks: Mapping[str, Block]) -> Topology:
        """Ready for planning."""
        return build_topology(
            Graph.model_validate(
                {
                    "id": self.id,
                    "nodes": [self._node(node, self.manners[node.name]) for node in self.spec.nodes],
                    "links": [
                        {
                            "source_id": link.source,
                            "source_name": link.source_name,
                            "sink_id": link.sink,
                            "sink_name": link.slot,
                            "is_static": link.is_static,
                        }
                        for link in self.spec.links
                    ],
                }
            ),
            blocks,
        )

    @staticmethod
    def _node(node: NodeSpec, manner: Manner) -> dict[str, Any]:
        return {
            "id": node.name,
            "block_id": _block_of(node, manner),
            "input_default": {"effects": manner.effects},
            "metadata": {
                "max_parallel": node.max_parallel,
                "release": "end" if node.ends else "stream",
                "on_mixed_origin": "fail" if node.fails_on_mixed else "warn",
                "on_interrupted": manner.on_interrupted,
                "retry": {"max_attempts": manner.attempts, "delay_s": manner.delay_s},
                **({"timeout_s": manner.timeout_s} if manner.timeout_s else {}),
            },
        }


def _block_of(node: NodeSpec, manner: Manner) -> str:
    if node.kind == "even":
        return EvenBlock.id
    return ThreadBlock.id if manner.has_thread else ScriptedBlock.id


class Surroundings(Protocol):
    """What the blocks know of the simulation."""

    chance: random.Random

    @property
    def plans(self) -> Mapping[str, Plan]:
        """Graph id -> plan."""
        ...

    def called(self, ctx: BlockContext, effects: Effects) -> None:
        """A block is called."""
        ...

    def act(self, ctx: BlockContext) -> None:
        """A block has touched the outside."""
        ...

    def die(self) -> None:
        """The process that performs this block dies."""
        ...

    def take_memory(self) -> None:
        """The process that performs this block has no memory left."""
        ...

    def has_memory(self) -> bool:
        """Whether the process that performs this block has memory left."""
        ...


class _Anything(BlockSchema):
    a: Any = SchemaField(None)
    b: Any = SchemaField(None)
    c: Any = SchemaField(None)
    effects: Effects = SchemaField(Effects.PURE)


class _Results(OutputSchema):
    x: Any = SchemaField(None)
    y: Any = SchemaField(None)


class ScriptedBlock(Block):
    """Yields what `support.kahn.behave` says of its node and input, in the manner of its node."""

    id = "33333333-0000-4000-8000-000000000001"
    description = "Performs what chance has drawn."
    input_schema = _Anything
    output_schema = _Results

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def effects_for(self, input_data: Mapping[str, Any]) -> Effects:
        return Effects(input_data.get("effects", Effects.PURE))

    async def run(self, input_data: _Anything, ctx: BlockContext) -> AsyncIterator[tuple[str, Any]]:
        around, plan = self._around, self._around.plans[ctx.graph_id]
        manner = plan.manners[ctx.node_id]
        around.called(ctx, input_data.effects)
        outputs, error = behave(plan.spec.salt, ctx.node_id, _slots(input_data))
        await self._pause(manner)
        if ctx.attempt <= manner.kills:
            around.die()
            await asyncio.get_running_loop().create_future()
        if ctx.attempt <= manner.hoards:
            around.take_memory()
            await self._pause(manner)
            raise MemoryError
        if manner.lies:
            outputs = [(pin, ctx.attempt) for pin, _ in outputs]
        if ctx.attempt <= manner.fails and manner.failure == "not started":
            raise EffectNotStarted("no connection")
        around.act(ctx)
        waits_at = min(manner.waits_behind, len(outputs))
        fails_at = min(manner.fails_behind, len(outputs)) if ctx.attempt <= manner.fails else None
        for number in range(waits_at if ctx.is_resumed else 0, len(outputs) + 1):
            if number == fails_at:
                await self._fail(manner)
            if manner.waits is not None and number == waits_at and not ctx.is_resumed:
                self._wait(manner, ctx)
            if number < len(outputs):
                yield outputs[number]
                await self._pause(manner)
        if error is not None:
            raise BlockError(error)

    async def _pause(self, manner: Manner) -> None:
        if manner.pause_s:
            await asyncio.sleep(self._around.chance.random() * manner.pause_s)
        if not self._around.has_memory() and self._around.chance.random() < 0.5:
            raise MemoryError

    @staticmethod
    async def _fail(manner: Manner) -> None:
        match manner.failure:
            case "unknown":
                raise EffectUnknown("no answer")
            case "hang":
                await asyncio.get_running_loop().create_future()
            case "stubborn":
                while True:
                    try:
                        await asyncio.get_running_loop().create_future()
                    except asyncio.CancelledError:
                        continue
            case _:
                raise BlockError("for now")

    @staticmethod
    def _wait(manner: Manner, ctx: BlockContext) -> None:
        until = ctx.now() + timedelta(seconds=manner.wait_s)
        match manner.waits:
            case "time":
                raise Suspend(until=until)
            case "signal":
                raise Suspend(signal=SIGNAL)
            case "either":
                raise Suspend(until=until, signal=SIGNAL)
            case str(graph_id):
                raise CallGraph(graph_id, {}, graph_version=1)
            case None:
                raise AssertionError("it does not wait")


class ThreadBlock(ScriptedBlock):
    """One that has a thread: the same things, reported from elsewhere than the loop."""

    id = "33333333-0000-4000-8000-000000000003"

    def run(self, input_data: _Anything, ctx: BlockContext) -> AsyncIterator[tuple[str, Any]]:
        return super().run(input_data, ctx)


class EvenBlock(ScriptedBlock):
    """Takes nothing but even numbers."""

    id = "33333333-0000-4000-8000-000000000002"

    class Input(_Anything):
        a: int = SchemaField(0, multiple_of=2)

    input_schema = Input


def blocks(around: Surroundings) -> dict[str, Block]:
    """The library of one simulation."""
    return {block.id: block for block in (ScriptedBlock(around), ThreadBlock(around), EvenBlock(around))}


def _slots(given: _Anything) -> dict[str, Any]:
    """What came through links: nodes have no defaults there, and links carry no nulls."""
    slots = {pin: getattr(given, pin) for pin in ("a", "b") if pin in given.model_fields_set}
    parts: dict[str, Any] = given.c or {}
    return slots | {f"c_#_{part}": value for part, value in parts.items()}


def check_child(result: Any, status_of: Callable[[str], str | None]) -> None:
    """A block that called a graph is told how that ended, and it has."""
    assert isinstance(result, ChildResult), f"called again with {result!r}"
    assert status_of(result.run_id) == result.status, result


def draw_plans(chance: random.Random) -> dict[str, Plan]:
    """The graphs of one seed. Each may call those that come after it, so that calls come to an end; a few call themselves."""
    count = chance.randint(1, 3)
    ids = [f"G{number}" for number in range(count)]
    is_rough = chance.random() < 0.6
    plans = [_draw_plan(chance, graph_id, ids[number + 1 :], is_rough) for number, graph_id in enumerate(ids)]
    return {plan.id: plan for plan in plans}


_SLOTS = ("a", "b", "c_#_p", "c_#_q")
_PINS = ("x", "x", "x", "x", "y", "error")


def _draw_plan(chance: random.Random, graph_id: str, callable_ids: list[str], is_rough: bool) -> Plan:
    has_oracle = chance.random() < 0.75
    count = chance.randint(2, 6)
    names = [f"{graph_id}N{index}" for index in range(count)]
    kinds = [chance.choice(("free", "free", "even")) for _ in names]
    links: dict[tuple[int, str, int, str], LinkSpec] = {}
    taken: set[tuple[int, str]] = set()
    for number in range(1, chance.randint(count, 2 * count + 1)):
        is_first = number < count
        sink = number if is_first else chance.randrange(1, count)
        slot = chance.choice(_SLOTS)
        if has_oracle and (sink, slot) in taken:
            continue
        source = chance.randrange(sink) if is_first or chance.random() < 0.7 else chance.randrange(count)
        pin = chance.choice(_PINS if not (kinds[sink] == "even" and slot == "a") else _PINS[:5])
        is_static = not has_oracle and chance.random() < 0.15
        taken.add((sink, slot))
        links[source, pin, sink, slot] = LinkSpec(names[source], pin, names[sink], slot, is_static)
    nodes = [
        NodeSpec(
            name,
            kind,
            ends=chance.random() < 0.4,
            fails_on_mixed=chance.random() < 0.15,
            max_parallel=chance.choice((1, 2, 8)),
        )
        for name, kind in zip(names, kinds, strict=True)
    ]
    manners = {node.name: _draw_manner(chance, node, callable_ids, is_rough) for node in nodes}
    salt = chance.getrandbits(32)
    return Plan(
        graph_id, GraphSpec(tuple(nodes), tuple(links.values()), frozenset(names[:1]), salt), manners, has_oracle
    )


def _draw_manner(chance: random.Random, node: NodeSpec, callable_ids: list[str], is_rough: bool) -> Manner:
    effects = chance.choice(tuple(Effects))
    attempts = chance.choice((1, 1, 2, 3))
    rude = is_rough and chance.random() < 0.35
    failure = chance.choice(_failures(effects, rude))
    is_timed = failure in ("hang", "stubborn")
    may_yield_first = effects is Effects.PURE or node.ends
    waits = chance.choice(("time", "signal", "either", *callable_ids)) if chance.random() < 0.2 else None
    return Manner(
        effects=effects,
        has_thread=chance.random() < 0.5,
        pause_s=0.0 if is_timed else chance.choice((0.0, 0.0, 0.05, 0.05, 1.0)),
        fails=chance.choice((0, 0, attempts)) if rude else chance.randrange(attempts),
        failure=failure,
        fails_behind=chance.randint(0, 2) if rude or may_yield_first else 0,
        waits=waits,
        waits_behind=chance.randint(0, 2),
        wait_s=chance.choice((0.1, 1.0, 5.0)),
        kills=chance.choice((0, 0, 1, 5)) if rude else 0,
        hoards=chance.choice((0, 0, 0, 0, 1, 5)) if rude else 0,
        lies=rude and chance.random() < 0.4,
        on_interrupted=chance.choice(("ask", "ask", "ask", "retry", "skip", "fail")),
        attempts=attempts,
        delay_s=chance.choice((0.0, 0.1, 4.0)),
        timeout_s=0.5 if is_timed else None,
        is_mild=not rude,
    )


def _failures(effects: Effects, rude: bool) -> tuple[str, ...]:
    if rude:
        return ("error", "not started", "unknown", "hang", "stubborn")
    return ("not started",) if effects is Effects.UNSAFE else ("error", "not started", "hang")
