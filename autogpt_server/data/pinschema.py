"""What a block's pins take and give, as JSON schemas that can be compared across blocks. Pure; made once per block."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from autogpt_server.data.block import ERROR_PIN, Block, BlockSchema
from autogpt_server.data.linktypes import ANYTHING, Schema
from autogpt_server.utils import json

_REF_PREFIX = "#/$defs/"


@dataclass(frozen=True, slots=True)
class PinSchemas:
    """JSON schemas of one side of a block, pin -> schema; `definitions` resolves their `$ref`s under names that no other block uses."""

    pins: Mapping[str, Schema]
    definitions: Schema


def input_pins(block: Block) -> PinSchemas:
    """The pins that values enter through."""
    return _pin_schemas(block.input_schema)


def output_pins(block: Block) -> PinSchemas:
    """The pins that values leave through; every block has `error`."""
    schemas = _pin_schemas(block.output_schema)
    if ERROR_PIN in schemas.pins:
        return schemas
    return PinSchemas({**schemas.pins, ERROR_PIN: {"type": "string"}}, schemas.definitions)


@cache
def schema_text(schema: type[BlockSchema]) -> str:
    """The JSON schema of all pins of one side of a block, as JSON."""
    return json.dumps(schema.model_json_schema())


@cache
def _pin_schemas(schema: type[BlockSchema]) -> PinSchemas:
    whole = schema.model_json_schema()
    owner = f"{schema.__module__}.{schema.__qualname__}."
    definitions = {owner + name: _renamed(entry, owner) for name, entry in whole.get("$defs", {}).items()}
    properties = whole.get("properties", {})
    return PinSchemas({pin: _renamed(properties.get(pin, ANYTHING), owner) for pin in schema.pins()}, definitions)


def _renamed(schema: Any, owner: str) -> Any:
    """The schema with its references made unique, so that definitions of two blocks can stand side by side."""
    if isinstance(schema, list):
        return [_renamed(entry, owner) for entry in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    renamed = {key: _renamed(entry, owner) for key, entry in cast("dict[str, Any]", schema).items()}
    reference = renamed.get("$ref")
    if isinstance(reference, str) and reference.startswith(_REF_PREFIX):
        renamed["$ref"] = _REF_PREFIX + owner + reference.removeprefix(_REF_PREFIX)
    return renamed
