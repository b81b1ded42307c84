"""Blocks that make, match and join text."""

import re
from typing import Any

from autogpt_server.blocks._pattern import search
from autogpt_server.blocks._template import render
from autogpt_server.blocks._text import as_text
from autogpt_server.blocks._upgrade import rename_pins, used_inputs, uses_pin
from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockOutput,
    BlockSchema,
    Effects,
    NodeWiring,
    OutputSchema,
    SchemaField,
)


class FillTextTemplateBlock(Block):
    id = "db7d8f02-2f44-4c55-ab7a-eae0941f0c30"
    description = "Fills the placeholders of a text with values."
    categories = frozenset({BlockCategory.TEXT})
    effects = Effects.PURE

    class Input(BlockSchema):
        values: dict[str, Any] = SchemaField(description="Name -> value, for the placeholders.")
        format: str = SchemaField(
            description="The text, with `{{name}}` or `{name}` where a value goes. `{{ }}` and `{% %}` take all of Jinja; other braces stay.",
            placeholder="Dear {{name}}, you have {{items | length}} new items.",
        )
        escape_html: bool = SchemaField(False, description="Whether values are escaped for HTML.", advanced=True)

    class Output(OutputSchema):
        output: str = SchemaField("", description="The text with all values in place.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"values": {"name": "Alice", "city": "Rome"}, "format": "Hello {{name}}, how is {{city}}?"},
        {"values": {"texts": ["Hello, World!", "Hello, World!", "!!!"]}, "format": "{texts[0]},{texts[1]},{texts[2]}"},
        {"values": {"a": 1}, "format": 'Answer as {"a": {a}, "b": {"c": []}} or {}'},
        {"values": {"items": ["x", "y"]}, "format": "{% for item in items %}{{loop.index}}. {{item}}\n{% endfor %}"},
        {"values": {"title": "<b>"}, "format": "<i>{{title}}</i>", "escape_html": True},
    )
    test_output = (
        [("output", "Hello Alice, how is Rome?")],
        [("output", "Hello, World!,Hello, World!,!!!")],
        [("output", 'Answer as {"a": 1, "b": {"c": []}} or {}')],
        [("output", "1. x\n2. y\n")],
        [("output", "<i>&lt;b&gt;</i>")],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        yield "output", render(input_data.format, input_data.values, escape_html=input_data.escape_html)

    @classmethod
    def upgrade(cls, node: NodeWiring) -> NodeWiring:
        """2024: `texts` (a list, the name `texts` in the template), `named_texts` (its entries are names), and Python's `{{` for a brace."""
        if not uses_pin(node, ("texts", "named_texts")):
            return node
        renamed = rename_pins(node, inputs={"texts": "values_#_texts", "named_texts": "values"})
        format_ = renamed.defaults.get("format")
        defaults = dict(renamed.defaults)
        if isinstance(format_, str):
            defaults["format"] = _without_doubled_braces(format_)
        return NodeWiring(defaults, renamed.incoming, renamed.outgoing)


def _without_doubled_braces(format_: str) -> str:
    """A `str.format` text in today's meaning: `{{` and `}}` were braces to be kept, and today single ones are.

    `{{name}}` stays: whoever wrote it into such a text meant a placeholder.
    """
    pieces: list[str] = []
    position = 0
    for match in re.finditer(r"\{\{\s*[^\W\d]\w*\s*\}\}", format_):
        pieces += [format_[position : match.start()].replace("{{", "{").replace("}}", "}"), match.group()]
        position = match.end()
    return "".join([*pieces, format_[position:].replace("{{", "{").replace("}}", "}")])


class MatchTextPatternBlock(Block):
    id = "3060088f-6ed9-4928-9ba7-9c92823a7ccd"
    description = "Sends a value one way if a text matches a regular expression, and another way if not."
    categories = frozenset({BlockCategory.TEXT})
    effects = Effects.PURE

    class Input(BlockSchema):
        text: Any = SchemaField(description="Where to look; anything but text is looked at as JSON.")
        match: str = SchemaField(
            description="The regular expression; it may match anywhere in the text.", placeholder="^yes"
        )
        data: Any = SchemaField(description="What is sent on; the text itself where this is null.")
        case_sensitive: bool = SchemaField(True, description="Whether `a` and `A` differ.")
        dot_all: bool = SchemaField(True, description="Whether `.` matches line ends as well.", advanced=True)

    class Output(OutputSchema):
        positive: Any = SchemaField(None, description="The data, if the text matches.")
        negative: Any = SchemaField(None, description="The data, if it does not.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"text": "ABC", "match": "ab", "data": "X", "case_sensitive": False},
        {"text": "ABC", "match": "ab", "data": "Y", "case_sensitive": True},
        {"text": True, "match": "^true$", "data": {"id": 1}},
        {"text": "a\nb", "match": "a.b", "data": None},
        {"text": "a\nb", "match": "a.b", "data": 0, "dot_all": False},
    )
    test_output = (
        [("positive", "X")],
        [("negative", "Y")],
        [("positive", {"id": 1})],
        [("positive", "a\nb")],
        [("negative", 0)],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        found = search(
            input_data.match,
            as_text(input_data.text),
            ignore_case=not input_data.case_sensitive,
            dot_all=input_data.dot_all,
        )
        yield "positive" if found else "negative", input_data.text if input_data.data is None else input_data.data


_NUMBERED = re.compile(r"input\d+", re.ASCII)


class CombineTextsBlock(Block):
    id = "e30a4d42-7b7d-4e6a-b36e-1f9b8e3b7d85"
    description = "Joins texts into one."
    categories = frozenset({BlockCategory.TEXT})
    effects = Effects.PURE

    class Input(BlockSchema):
        input: list[str] = SchemaField(description="The texts, in order.")
        delimiter: str = SchemaField("", description="What goes between two texts.", placeholder=", ")

    class Output(OutputSchema):
        output: str = SchemaField("", description="All texts as one.")

    input_schema = Input
    output_schema = Output
    test_input = ({"input": ["Hello, ", "World!"]}, {"input": ["a", "b", "c"], "delimiter": "; "}, {"input": []})
    test_output = ([("output", "Hello, World!")], [("output", "a; b; c")], [("output", "")])

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        yield "output", input_data.delimiter.join(input_data.input)

    @classmethod
    def upgrade(cls, node: NodeWiring) -> NodeWiring:
        """2024: one pin per text, `input1`, `input2`, ..."""
        numbered = {
            pin: f"input_$_{pin.removeprefix('input')}" for pin in used_inputs(node) if _NUMBERED.fullmatch(pin)
        }
        return rename_pins(node, inputs=numbered) if numbered else node
