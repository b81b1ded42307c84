"""Blocks through which values enter and leave a run: an agent's inputs and outputs."""

from typing import Any

from autogpt_server.blocks._template import render
from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockKind,
    BlockOutput,
    BlockSchema,
    Effects,
    OutputSchema,
    SchemaField,
)


class _AgentPort(BlockSchema):
    """What an agent's inputs and outputs are described by, to the person who uses the agent."""

    name: str = SchemaField(description="The name by which users and other agents refer to it.", min_length=1)
    title: str | None = SchemaField(None, description="A heading to show instead of the name.", advanced=True)
    description: str | None = SchemaField(None, description="What it is, in a sentence.", advanced=True)
    # Editors save these two with every agent input and output.
    advanced: bool = SchemaField(False, description="Whether forms show it only on demand.", hidden=True)
    secret: bool = SchemaField(False, description="Whether forms hide what is typed in.", hidden=True)


class AgentInputBlock(Block):
    id = "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b"
    description = "An input of the agent: its value is given when a run starts."
    categories = frozenset({BlockCategory.BASIC, BlockCategory.INPUT})
    effects = Effects.PURE
    static_output = True
    kind = BlockKind.INPUT

    class Input(_AgentPort):
        value: Any = SchemaField(None, description="The value; what is saved here is the default.")
        placeholder_values: list[Any] = SchemaField(default_factory=list, description="Values to offer.", advanced=True)
        limit_to_placeholder_values: bool = SchemaField(
            False, description="Whether forms offer nothing else.", hidden=True
        )

    class Output(BlockSchema):
        result: Any = SchemaField(None, description="The value of this input.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"name": "topic", "value": "Space"},
        {
            "name": "count",
            "value": 3,
            "title": "How many",
            "description": "Items to read",
            "placeholder_values": [1, 3, 5],
        },
        {"name": "nothing"},
    )
    test_output = ([("result", "Space")], [("result", 3)], [("result", None)])

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        yield "result", input_data.value


class AgentOutputBlock(Block):
    id = "363ae599-353e-4804-937e-b2ee3cef3da4"
    description = "An output of the agent: what arrives here is a result of the run."
    categories = frozenset({BlockCategory.OUTPUT, BlockCategory.BASIC})
    effects = Effects.PURE
    static_output = True
    kind = BlockKind.OUTPUT

    class Input(_AgentPort):
        value: Any = SchemaField(None, description="The result.")
        format: str = SchemaField(
            "",
            description="A template for the result; `{{value}}`, or the output's name, stands for it.",
            placeholder="Total: {{value}} EUR",
        )
        escape_html: bool = SchemaField(
            False, description="Whether `format` escapes what HTML gives a meaning to.", advanced=True
        )

    class Output(OutputSchema):
        output: Any = SchemaField(None, description="The result, formatted where there is a `format`.")
        name: Any = SchemaField(None, description="The output's name.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"name": "Newsletter", "value": {"title": "Space"}},
        {"name": "total", "value": 3, "format": "{{total}} of {{ value }} items"},
        {"name": "Raw HTML", "value": "a < b", "format": "<p>{{Raw HTML}}</p>", "escape_html": True},
    )
    test_output = (
        [("output", {"title": "Space"}), ("name", "Newsletter")],
        [("output", "3 of 3 items"), ("name", "total")],
        [("output", "<p>a &lt; b</p>"), ("name", "Raw HTML")],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        value = input_data.value
        if input_data.format:
            value = render(
                input_data.format, {"value": value, input_data.name: value}, escape_html=input_data.escape_html
            )
        yield "output", value
        yield "name", input_data.name
