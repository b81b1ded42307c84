"""`python -m autogpt_server.blocks` prints the reference of all blocks: the part of docs/library.md that is not written by hand."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from autogpt_server.blocks import get_blocks
from autogpt_server.blocks._text import as_text
from autogpt_server.data.block import Block

MARK = "<!-- From here on: python -m autogpt_server.blocks -->"


def reference(blocks: Mapping[str, Block]) -> str:
    """The blocks as Markdown, in the order of their names."""
    sections = (line for block in sorted(blocks.values(), key=lambda block: block.name) for line in _section(block))
    return "\n".join([MARK, "", *sections])


def _section(block: Block) -> Iterator[str]:
    static = "; its output is static" if block.static_output else ""
    yield f"### {block.name}"
    yield ""
    yield f"{block.description} (`{block.id}`, {block.effects.value}{static})"
    yield ""
    yield "| pin | type | default | |"
    yield "|---|---|---|---|"
    shown = block.describe()
    for direction, schema in (("", shown["inputSchema"]), ("-> ", shown["outputSchema"])):
        required = schema.get("required", [])
        for pin, facts in schema["properties"].items():
            if facts.get("hidden") or (direction and pin == "error"):
                continue
            default = "" if direction else _default(facts, required=pin in required)
            yield f"| {direction}`{pin}` | {_type(facts, schema)} | {default} | {_cell(facts['description'])} |"
    yield ""


def _default(facts: Mapping[str, Any], *, required: bool) -> str:
    if required:
        return "**required**"
    default = facts.get("default")
    return "" if default in (None, "", [], {}) or isinstance(default, dict) else f"`{_cell(as_text(default))}`"


def _type(facts: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "$ref" in facts:
        return _type(schema["$defs"][facts["$ref"].rpartition("/")[2]], schema)
    if "enum" in facts:
        return " ".join(f"`{value}`" for value in facts["enum"])
    if "anyOf" in facts:
        return " or ".join(
            _type(branch, schema)
            for branch in cast("list[Mapping[str, Any]]", facts["anyOf"])
            if branch.get("type") != "null"
        )
    if facts.get("type") == "array":
        inner = _type(facts.get("items", {}), schema)
        return f"list of {inner}" if inner != "anything" else "list"
    names = {"string": "text", "integer": "integer", "number": "number", "boolean": "true/false", "object": "object"}
    return names.get(facts.get("type", ""), "object" if "oneOf" in facts else "anything")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(reference(get_blocks()))  # noqa: T201 - that is what it is for
