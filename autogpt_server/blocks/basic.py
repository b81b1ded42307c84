"""Blocks that hold, show and annotate values."""

import sys
from typing import Any

from autogpt_server.blocks._text import as_text
from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockError,
    BlockKind,
    BlockOutput,
    BlockSchema,
    Effects,
    OutputSchema,
    SchemaField,
)


class StoreValueBlock(Block):
    id = "1ff065e9-88e8-4358-9d82-8dc91f622ba9"
    description = "Passes a value on and keeps it for all later executions of the nodes it is linked to."
    categories = frozenset({BlockCategory.BASIC})
    effects = Effects.PURE
    static_output = True

    class Input(BlockSchema):
        input: Any = SchemaField(description="The value to pass on; with `data` set, only the trigger.")
        data: Any = SchemaField(
            None, description="A fixed value that is passed on instead of `input`.", placeholder="Any value"
        )

    class Output(OutputSchema):
        output: Any = SchemaField(None, description="The value of `data`, or of `input` where `data` is empty.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"input": "Hello, World!"},
        {"input": "go", "data": {"kept": [1, None]}},
        {"input": None},
        {"input": 1, "data": 0},
    )
    test_output = (
        [("output", "Hello, World!")],
        [("output", {"kept": [1, None]})],
        [("output", None)],
        [("output", 0)],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        yield "output", input_data.input if input_data.data is None else input_data.data


class PrintToConsoleBlock(Block):
    id = "f3b1c1b2-4c4f-4f0d-8d2f-4c4f0d8d2f4c"
    description = "Prints a value to the console of the server."
    categories = frozenset({BlockCategory.BASIC})
    # A line printed twice after a crash harms nobody; a run that waits for a person because of it would.
    effects = Effects.IDEMPOTENT

    class Input(BlockSchema):
        text: Any = SchemaField(description="What to print; anything but text is printed as JSON.")

    class Output(OutputSchema):
        output: Any = SchemaField(None, description="What was printed.")
        status: str = SchemaField("", description="`printed`, once it is.")

    input_schema = Input
    output_schema = Output
    test_input = ({"text": "Hello, World!"}, {"text": {"a": [1, True]}})
    test_output = (
        [("output", "Hello, World!"), ("status", "printed")],
        [("output", {"a": [1, True]}), ("status", "printed")],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        # One write per value, so that lines of executions that print at the same time stay whole.
        line = f"{as_text(input_data.text)}\n"
        if sys.stdout is None:  # so it is in a process without a console
            ctx.logger.info("printed: %s", line.rstrip("\n"))
        else:
            encoding = sys.stdout.encoding or "utf-8"
            try:
                sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding))
                sys.stdout.flush()
            except (OSError, ValueError) as error:
                raise BlockError(f"The server's console takes no output: {error}.") from error
        yield "output", input_data.text
        yield "status", "printed"


class NoteBlock(Block):
    id = "cc10ff7b-7753-4ff2-9af6-9399b1a7eddc"
    description = "A note to the people who read the graph."
    categories = frozenset({BlockCategory.BASIC})
    effects = Effects.PURE
    kind = BlockKind.NOTE

    class Input(BlockSchema):
        text: str = SchemaField(description="The note.", placeholder="What the next reader should know")

    class Output(OutputSchema):
        output: str = SchemaField("", description="The note again.")

    input_schema = Input
    output_schema = Output
    test_input = {"text": "Mind the gap"}
    test_output = [("output", "Mind the gap")]

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        yield "output", input_data.text
