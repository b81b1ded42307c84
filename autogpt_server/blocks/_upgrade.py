"""What the `upgrade` of several blocks has in common: pins that were renamed over the years."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from autogpt_server.data.block import JsonValue, NodeWiring, PinLink
from autogpt_server.data.pins import PinName, parse_pin


def rename_pins(
    node: NodeWiring, *, inputs: Mapping[str, str] | None = None, outputs: Mapping[str, str] | None = None
) -> NodeWiring:
    """`node` with the old pin names (keys) replaced by today's (values), dynamic parts kept.

    A new name may lie inside a pin: with `{"texts": "values_#_texts"}`, `texts_$_1` becomes `values_#_texts_$_1`. Where a node has defaults
    for both names, today's wins.
    """
    inputs, outputs = inputs or {}, outputs or {}
    defaults: dict[str, JsonValue] = {}
    for pin, value in node.defaults.items():
        renamed = _renamed(pin, inputs)
        if renamed == pin or renamed not in node.defaults:
            defaults[renamed] = value
    return NodeWiring(
        defaults=defaults,
        incoming=tuple(replace(link, sink_name=_renamed(link.sink_name, inputs)) for link in node.incoming),
        outgoing=tuple(replace(link, source_name=_renamed(link.source_name, outputs)) for link in node.outgoing),
    )


def uses_pin(node: NodeWiring, pins: Iterable[str]) -> bool:
    """Whether a default or an incoming link names one of these input pins or a part of one."""
    wanted = frozenset(pins)
    return not wanted.isdisjoint(used_inputs(node))


def used_inputs(node: NodeWiring) -> frozenset[str]:
    """The input pins, without dynamic parts, that have a default or an incoming link."""
    names = [*node.defaults, *(link.sink_name for link in node.incoming)]
    return frozenset(parse_pin(name).base for name in names)


def split_link(link: PinLink, parts: Mapping[str, str]) -> list[PinLink]:
    """A link that carried a whole object as links that each carry one entry of it: input pin -> key (`""` for the whole object)."""
    return [
        PinLink(source_name=f"{link.source_name}_#_{key}" if key else link.source_name, sink_name=pin)
        for pin, key in parts.items()
    ]


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    pin = parse_pin(name)
    target = renames.get(pin.base)
    if target is None:
        return name
    return str(PinName(target, pin.parts))
