"""The library refuses what is broken, and says what to fix."""

import subprocess
import sys
from abc import abstractmethod
from types import ModuleType
from typing import Any

import pytest

from autogpt_server.blocks import get_block, get_blocks
from autogpt_server.blocks._registry import collect
from autogpt_server.data.block import (
    Block,
    BlockContext,
    BlockOutput,
    BlockSchema,
    Effects,
    EmptySchema,
    MalformedBlock,
    block_test_cases,
)

GOOD_ID = "1f0c9bb0-6f57-4b0e-93d2-4f6b1b1c9a01"
OTHER_ID = "1f0c9bb0-6f57-4b0e-93d2-4f6b1b1c9a02"


def block_class(name: str = "SampleBlock", base: type[Block] = Block, **facts: Any) -> type[Block]:
    """A sound block class, with some facts changed; a fact of None is left out."""

    def run(self: Block, input_data: Any, ctx: BlockContext) -> BlockOutput:
        yield "output", 1

    sound: dict[str, Any] = {
        "id": GOOD_ID,
        "description": "A sample.",
        "input_schema": EmptySchema,
        "output_schema": EmptySchema,
        "effects": Effects.PURE,
        "run": run,
        **facts,
    }
    return type(
        name, (base,), {key: value for key, value in sound.items() if value is not None} | {"__module__": "family"}
    )


def family(*classes: type[Block]) -> ModuleType:
    module = ModuleType("family")
    for number, cls in enumerate(classes):
        setattr(module, f"block{number}", cls)
    return module


def test_a_sound_block_is_collected_once() -> None:
    (block,) = collect([family(block_class())]).values()
    assert (block.id, block.name) == (GOOD_ID, "SampleBlock")


def not_a_generator(self: Block, input_data: Any, ctx: BlockContext) -> Any:
    return [("output", 1)]


def other_arguments(self: Block, given: Any) -> Any:
    yield "output", given


class Plain:
    pass


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"id": None}, r"family\.SampleBlock: declare `id`"),
        ({"id": "sample"}, "must be a UUID"),
        ({"id": GOOD_ID.upper()}, "lower case"),
        ({"description": None}, "declare `description`"),
        ({"input_schema": None}, "declare `input_schema`"),
        ({"output_schema": Plain}, "must be a subclass of BlockSchema"),
        ({"effects": "pure"}, "must be a member of Effects"),
        ({"run": not_a_generator}, "must be a generator"),
        ({"run": other_arguments}, r"must take \(self, input_data, ctx\)"),
        ({"max_parallel": 0}, "max_parallel"),
        ({"timeout_s": -1.0}, "timeout_s"),
    ],
)
def test_a_malformed_block_is_refused(facts: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedBlock, match=said):
        collect([family(block_class(**facts))])


def test_a_pin_with_the_signs_of_a_dynamic_name_is_refused() -> None:
    class Input(BlockSchema):
        values: dict[str, Any] = {}

    Input.__pydantic_fields__["values"].alias = "values_#_x"
    with pytest.raises(MalformedBlock, match="values_#_x"):
        collect([family(block_class(input_schema=Input))])


def test_two_blocks_with_one_id_or_one_name_are_refused() -> None:
    with pytest.raises(MalformedBlock, match=rf"family\.Second has the id {GOOD_ID} of family\.SampleBlock"):
        collect([family(block_class()), family(block_class("Second"))])
    with pytest.raises(MalformedBlock, match=r"has the name 'SampleBlock' of family\.SampleBlock; rename one"):
        collect([family(block_class(), block_class(id=OTHER_ID))])


def test_bases_and_borrowed_classes_are_no_blocks() -> None:
    class Base(Block):
        @abstractmethod
        def ask(self) -> str: ...

    Base.__module__ = "family"
    module = family(Base, block_class("_Hidden"))
    setattr(module, "borrowed", type(get_block("1ff065e9-88e8-4358-9d82-8dc91f622ba9")))  # noqa: B010
    assert dict(collect([module])) == {}


def test_a_block_without_tests_fails_its_own_test() -> None:
    with pytest.raises(MalformedBlock, match="declare `test_input` and `test_output`"):
        block_test_cases(block_class()())
    unpaired = block_class(test_input=({}, {}), test_output=([("output", 1)],))()
    with pytest.raises(MalformedBlock, match="2 test inputs but 1 lists of outputs"):
        block_test_cases(unpaired)


def test_the_library_is_read_only_and_complete() -> None:
    blocks = get_blocks()
    assert get_block("no such id") is None
    with pytest.raises(TypeError):
        blocks["x"] = next(iter(blocks.values()))  # type: ignore[index]
    assert len(blocks) >= 19


@pytest.mark.parametrize("block", get_blocks().values(), ids=lambda block: block.name)
def test_each_pin_says_what_it_is_for(block: Block) -> None:
    for schema in (block.input_schema, block.output_schema):
        for pin, info in schema.pins().items():
            assert info.description, f"{block.name}.{pin} has no description"
    assert block.categories
    shown = block.describe()
    assert shown["inputSchema"]["type"] == shown["outputSchema"]["type"] == "object"


def test_importing_the_library_loads_no_heavy_client() -> None:
    heavy = "openai", "praw", "prawcore", "requests", "jinja2", "regex", "httpx", "httpx2"
    code = f"import sys, autogpt_server.blocks; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
