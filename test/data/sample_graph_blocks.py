"""Tiny blocks with pins of every kind, for tests of graphs; and short ways to write graphs."""

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from autogpt_server.data.block import (
    Block,
    BlockContext,
    BlockKind,
    BlockOutput,
    BlockSchema,
    EmptySchema,
    NodeWiring,
    PinLink,
    SchemaField,
)
from autogpt_server.data.models import Graph
from autogpt_server.data.pins import PinName, parse_pin


class Sample(Block):
    """Base: none of these blocks is ever run."""

    description = "A sample."
    input_schema = EmptySchema
    output_schema = EmptySchema

    def run(self, input_data: Any, ctx: BlockContext) -> BlockOutput:
        yield from ()


class Post(pydantic.BaseModel):
    id: str
    title: str = ""


class Source(Sample):
    id = "11111111-0000-4000-8000-000000000001"

    class Input(BlockSchema):
        start: Any = SchemaField(None)

    class Output(BlockSchema):
        text: str = SchemaField("")
        number: int = SchemaField(0)
        ratio: float = SchemaField(0.0)
        items: list[int] = SchemaField(default_factory=list[int])
        record: dict[str, str] = SchemaField(default_factory=dict[str, str])
        post: Post | None = SchemaField(None)
        anything: Any = SchemaField(None)

    input_schema = Input
    output_schema = Output


class Sink(Sample):
    id = "11111111-0000-4000-8000-000000000002"

    class Input(BlockSchema):
        text: str = SchemaField()
        count: int = SchemaField(1)
        flag: bool = SchemaField(False)
        mode: Literal["fast", "slow"] = SchemaField("fast")
        items: list[int] = SchemaField(default_factory=list[int])
        entries: dict[str, Any] = SchemaField(default_factory=dict[str, Any])

    class Output(BlockSchema):
        text: str = SchemaField("")

    input_schema = Input
    output_schema = Output


class Static(Sample):
    id = "11111111-0000-4000-8000-000000000003"
    static_output = True

    class Input(BlockSchema):
        value: Any = SchemaField()

    class Output(BlockSchema):
        value: Any = SchemaField(None)

    input_schema = Input
    output_schema = Output


class AgentIn(Sample):
    id = "11111111-0000-4000-8000-000000000004"
    kind = BlockKind.INPUT

    class Input(BlockSchema):
        name: str = SchemaField()
        value: Any = SchemaField(None)

    class Output(BlockSchema):
        result: Any = SchemaField(None)

    input_schema = Input
    output_schema = Output


class Renamed(Sample):
    """Had the pins `old`, and `config` whose entries have pins of their own today."""

    id = "11111111-0000-4000-8000-000000000005"

    class Input(BlockSchema):
        new: str = SchemaField()
        model: str = SchemaField("")
        key: str = SchemaField("", secret=True)

    class Output(BlockSchema):
        out: str = SchemaField("")

    input_schema = Input
    output_schema = Output

    @classmethod
    def upgrade(cls, node: NodeWiring) -> NodeWiring:
        defaults = {("new" if name == "old" else name): value for name, value in node.defaults.items()}
        defaults |= defaults.pop("config", {})
        incoming: list[PinLink] = []
        for link in node.incoming:
            if link.sink_name == "config":
                incoming += [PinLink(f"{link.source_name}_#_{pin}", pin) for pin in ("model", "key")]
            else:
                incoming.append(PinLink(link.source_name, "new" if link.sink_name == "old" else link.sink_name))
        outgoing = [PinLink(_today(parse_pin(link.source_name)), link.sink_name) for link in node.outgoing]
        return NodeWiring(defaults, incoming, outgoing)


def _today(pin: PinName) -> str:
    return str(PinName("out", pin.parts) if pin.base == "result" else pin)


BLOCKS: Mapping[str, Block] = {block.id: block for block in (Source(), Sink(), Static(), AgentIn(), Renamed())}
_BY_SHORT_NAME = {type(block).__name__: block.id for block in BLOCKS.values()}


Spec = str | tuple[str, dict[str, Any]]
"""A block by its class's name (or by any id), alone or with the node's defaults."""


def graph(nodes: Mapping[str, Spec], *links: str, static: tuple[str, ...] = ()) -> Graph:
    """A graph: node id -> block; links as `source.pin -> sink.pin`, those in `static` marked so."""
    return Graph.model_validate(
        {
            "name": "sample",
            "nodes": [_node(name, spec) for name, spec in nodes.items()],
            "links": [_link(text, is_static=text in static) for text in links],
        }
    )


def _node(name: str, spec: Spec) -> dict[str, Any]:
    block, defaults = (spec, {}) if isinstance(spec, str) else spec
    return {"id": name, "block_id": _BY_SHORT_NAME.get(block, block), "input_default": defaults}


def _link(text: str, *, is_static: bool) -> dict[str, Any]:
    (source, output), (sink, pin) = (end.strip().split(".", 1) for end in text.split("->"))
    return {"source_id": source, "source_name": output, "sink_id": sink, "sink_name": pin, "is_static": is_static}
