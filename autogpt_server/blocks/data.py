"""Blocks that look into lists and dictionaries, and add to them."""

from typing import Any, cast

from autogpt_server.data.block import (
    Block,
    BlockCategory,
    BlockContext,
    BlockError,
    BlockOutput,
    BlockSchema,
    Effects,
    OutputSchema,
    SchemaField,
)
from autogpt_server.utils import json


class FindInDictionaryBlock(Block):
    id = "0e50422c-6dee-4145-83d6-3a5a392f65de"
    description = "Looks up a key in a dictionary, or a position in a list."
    categories = frozenset({BlockCategory.BASIC})
    effects = Effects.PURE

    class Input(BlockSchema):
        input: Any = SchemaField(description="A dictionary or a list; JSON text of one will do.")
        key: str | int = SchemaField(
            description="The key or the position; a key of a list's items gives the list of what they hold."
        )

    class Output(OutputSchema):
        output: Any = SchemaField(None, description="What was found.")
        missing: Any = SchemaField(None, description="The input, if it has no such key.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"input": {"apple": 1, "pear": None}, "key": "apple"},
        {"input": {"apple": 1, "pear": None}, "key": "pear"},
        {"input": {"apple": 1}, "key": "plum"},
        {"input": [10, 20], "key": 1},
        {"input": [10, 20], "key": "-1"},
        {"input": [10, 20], "key": 2},
        {"input": '{"1": "one"}', "key": 1},
        {"input": [{"url": "a"}, {"url": "b"}, {}], "key": "url"},
    )
    test_output = (
        [("output", 1)],
        [("output", None)],
        [("missing", {"apple": 1})],
        [("output", 20)],
        [("output", 20)],
        [("missing", [10, 20])],
        [("output", "one")],
        [("output", ["a", "b"])],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        container = _container(input_data.input)
        if isinstance(container, dict):
            found = [container[key] for key in [str(input_data.key)] if key in container]
        else:
            found = _look_up(container, input_data.key)
        if found:
            yield "output", found[0]
        else:
            yield "missing", input_data.input


def _container(value: Any) -> dict[str, Any] | list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.InvalidJSONValue:
            raise BlockError("The input is text that is no JSON; a dictionary or a list is needed.") from None
    if isinstance(value, dict | list):
        return cast("dict[str, Any] | list[Any]", value)
    raise BlockError("The input is neither a dictionary nor a list.")


def _look_up(items: list[Any], key: str | int) -> list[Any]:
    """What a list has for the key, in a list of its own; an empty one if it has nothing."""
    try:
        position = int(key)
    except ValueError:
        held: list[Any] = [item[key] for item in items if isinstance(item, dict) and key in item]
        return [held] if held else []
    return [items[position]] if -len(items) <= position < len(items) else []


class AddToDictionaryBlock(Block):
    id = "31d1064e-7446-4693-a7d4-65e5ca1180d1"
    description = "Adds one or more entries to a dictionary."
    categories = frozenset({BlockCategory.BASIC})
    effects = Effects.PURE

    class Input(BlockSchema):
        dictionary: dict[str, Any] = SchemaField(default_factory=dict, description="The dictionary to start from.")
        key: str = SchemaField("", description="The key of the new entry.", placeholder="name")
        # Editors save null for a value that was never filled in, so it cannot mean an entry of null; `entries` can hold one.
        value: Any = SchemaField(None, description="The value of the new entry; null adds none.")
        entries: dict[str, Any] = SchemaField(default_factory=dict, description="More entries to add.", advanced=True)

    class Output(OutputSchema):
        updated_dictionary: dict[str, Any] = SchemaField(
            default_factory=dict, description="The dictionary with the entries."
        )

    input_schema = Input
    output_schema = Output
    test_input = (
        {"dictionary": {"a": 1}, "key": "b", "value": 2},
        {"dictionary": {"a": 1}, "key": "a", "value": [], "entries": {"c": None}},
        {"key": "a", "value": False},
        {"dictionary": {"a": 1}, "key": "b"},
    )
    test_output = (
        [("updated_dictionary", {"a": 1, "b": 2})],
        [("updated_dictionary", {"a": [], "c": None})],
        [("updated_dictionary", {"a": False})],
        [("updated_dictionary", {"a": 1})],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        if input_data.value is not None and not input_data.key:
            raise BlockError("There is a value but no key to put it under; set `key`.")
        entry = {} if input_data.value is None else {input_data.key: input_data.value}
        yield "updated_dictionary", {**input_data.dictionary, **entry, **input_data.entries}


class AddToListBlock(Block):
    id = "aeb08fc1-2fc1-4141-bc8e-f758f183a822"
    description = "Adds one or more entries to a list."
    categories = frozenset({BlockCategory.BASIC})
    effects = Effects.PURE

    class Input(BlockSchema):
        items: list[Any] = SchemaField(default_factory=list, alias="list", description="The list to start from.")
        # As with AddToDictionary, null is what editors save for nothing.
        entry: Any = SchemaField(None, description="The entry to add; null adds none.")
        entries: list[Any] = SchemaField(
            default_factory=list, description="More entries to add, before `entry`.", advanced=True
        )
        position: int | None = SchemaField(
            None, description="Where to add: 0 is the start, -1 before the last entry, null the end.", advanced=True
        )

    class Output(OutputSchema):
        updated_list: list[Any] = SchemaField(default_factory=list, description="The list with the entries.")

    input_schema = Input
    output_schema = Output
    test_input = (
        {"list": [1, "b"], "entry": {"c": 3}},
        {"entry": "first"},
        {"list": ["a", "d"], "entries": ["b", "c"], "position": 1},
        {"list": ["a"], "entries": [None, 0], "entry": ""},
        {"list": ["a", "c"], "entry": "b", "position": -1},
        {"list": ["a"], "entry": None},
    )
    test_output = (
        [("updated_list", [1, "b", {"c": 3}])],
        [("updated_list", ["first"])],
        [("updated_list", ["a", "b", "c", "d"])],
        [("updated_list", ["a", None, 0, ""])],
        [("updated_list", ["a", "b", "c"])],
        [("updated_list", ["a"])],
    )

    def run(self, input_data: Input, ctx: BlockContext) -> BlockOutput:
        added = [*input_data.entries, *([] if input_data.entry is None else [input_data.entry])]
        position = len(input_data.items) if input_data.position is None else input_data.position
        yield "updated_list", [*input_data.items[:position], *added, *input_data.items[position:]]
