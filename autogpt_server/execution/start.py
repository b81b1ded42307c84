"""How a run begins: which node gets which part of the run's input, and what is missing (rules F1 and F2). Pure."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from datetime import datetime
from typing import Any

from autogpt_server.data.block import BlockKind, NodeWiring
from autogpt_server.data.convert import ConversionError
from autogpt_server.data.pins import PinMergeError, PinNameError, merge_slots, parse_pin
from autogpt_server.data.problems import InvalidGraph, InvalidRunInput, Problem
from autogpt_server.execution.flow import RunLimits
from autogpt_server.execution.plan import Planner
from autogpt_server.execution.state import RunState
from autogpt_server.execution.topology import PlannedNode, Topology
from autogpt_server.utils.settings import Settings

VALUE_PIN = "value"
"""The pin of an agent-input node that takes the run's value."""


def run_limits(settings: Settings) -> RunLimits:
    """The limits of every run of this server."""
    return RunLimits(
        max_executions=settings.max_run_node_executions,
        max_bytes=settings.max_run_bytes,
        max_duration_s=settings.max_run_duration_s,
    )


def plan_start(
    topology: Topology,
    run_id: str,
    run_input: Mapping[str, Any],
    *,
    new_id: Callable[[], str],
    limits: RunLimits,
    at: datetime,
    depth: int = 0,
) -> RunState:
    """The state of a new run with its first executions queued, ready to be written. Raises `InvalidGraph` or `InvalidRunInput`."""
    given = start_inputs(topology, run_input)
    state = RunState(run_id, topology, depth=depth)
    Planner(state, new_id=new_id, limits=limits).start(given, at)
    return state


def start_inputs(
    topology: Topology, run_input: Mapping[str, Any], *, begun: Container[int] | None = None
) -> dict[int, dict[str, Any]]:
    """Index of each start node -> pin -> value from the run's input. Nodes that take nothing may be left out.

    `begun`: indices of the nodes that begin, where not all do: nothing is missing in the others.
    Raises `InvalidGraph` if there is nothing to start, and `InvalidRunInput` with every name that fits nowhere, every value that is
    missing and every value of a wrong type.
    """
    starts = topology.start_nodes
    if not starts:
        raise InvalidGraph(
            "The graph has no node to start with.",
            [
                Problem(
                    "no_start_node",
                    "Every node has an incoming link; leave at least one without, or add an agent-input node.",
                )
            ],
        )
    named = [node for node in starts if node.block.kind is BlockKind.INPUT]
    given, problems = _by_name(named, run_input) if named else _by_pin(starts, run_input)
    for node in starts:
        problems.extend(_unmet(node, given.get(node.index, {})))
    if begun is not None:
        left_alone = {node.id for node in starts if node.index not in begun}
        problems = [problem for problem in problems if problem.node_id not in left_alone]
    if problems:
        raise InvalidRunInput("The input does not fit the graph.", problems)
    return given


def _by_name(nodes: list[PlannedNode], run_input: Mapping[str, Any]) -> tuple[dict[int, dict[str, Any]], list[Problem]]:
    names = sorted({node.input_name or "" for node in nodes})
    problems = [
        Problem(
            "unknown_input",
            f"The graph has no input named {name!r}.",
            pin=name,
            expected=f"one of {', '.join(map(repr, names))}",
        )
        for name in run_input
        if name not in names
    ]
    given: dict[int, dict[str, Any]] = {}
    for node in nodes:
        name = node.input_name or ""
        if name in run_input:
            given[node.index] = {VALUE_PIN: run_input[name]}
        elif not _has_default(node):
            problems.append(
                Problem("missing_input", f"The input {name!r} has no value and no default.", node.id, name, "a value")
            )
    return given, problems


def _has_default(node: PlannedNode) -> bool:
    """Whether an agent input has a value of its own. Editors save the pin as null when it has none."""
    return any(value is not None for name, value in node.defaults.items() if parse_pin(name).base == VALUE_PIN)


def _by_pin(nodes: list[PlannedNode], run_input: Mapping[str, Any]) -> tuple[dict[int, dict[str, Any]], list[Problem]]:
    given: dict[int, dict[str, Any]] = {}
    taken: set[str] = set()
    for node in nodes:
        for pin, value in run_input.items():
            taking = _pins_taking(node, pin, value)
            if taking:
                given.setdefault(node.index, {}).update(taking)
                taken.add(pin)
    accepted = sorted({pin for node in nodes for pin in node.convert.pins})
    expected = f"one of {', '.join(map(repr, accepted))}" if accepted else "no input at all"
    return given, [
        Problem("unknown_input", f"No node that the run starts with has a pin {pin!r}.", pin=pin, expected=expected)
        for pin in run_input
        if pin not in taken
    ]


def _pins_taking(node: PlannedNode, pin: str, value: Any) -> dict[str, Any]:
    """What the node takes of a value given for this pin, under today's names of its pins; nothing if it has no such pin."""
    try:
        upgraded = node.block.upgrade(NodeWiring({pin: value})).defaults
    except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError):
        upgraded = {pin: value}  # no older revision knew such a value; today's conversion says what is wrong with it
    taking: dict[str, Any] = {}
    for name, part in upgraded.items():
        try:
            base = parse_pin(name).base
        except PinNameError:
            continue
        if base in node.convert.pins:
            taking[name] = part
    return taking


def _unmet(node: PlannedNode, given: Mapping[str, Any]) -> list[Problem]:
    """What keeps a start node from being queued with this input."""
    linked = {parse_pin(slot).base for slot in (*node.slots, *node.static_slots)}
    try:
        merged = merge_slots(node.defaults, given)
    except PinMergeError as error:
        return [Problem(error.code, str(error), node.id, error.pin)]
    problems = [
        Problem(
            "missing_input",
            f"The required pin {pin!r} of {node.block.name} has no value.",
            node.id,
            pin,
            node.convert.pins[pin].expected,
        )
        for pin in sorted(node.convert.required - merged.keys() - linked)
    ]
    for pin, value in merged.items():
        converter = node.convert.pins.get(pin)
        if converter is None:
            continue
        try:
            converter(value)
        except ConversionError as error:
            problems.append(Problem(error.code, str(error), node.id, pin, error.expected))
    return problems
