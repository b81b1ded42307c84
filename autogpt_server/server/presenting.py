"""Values as they are shown: secrets masked, large ones as a preview."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from autogpt_server.data.block import Block
from autogpt_server.data.models import NodeExecution
from autogpt_server.data.pins import PinNameError, parse_pin
from autogpt_server.data.runs import PREVIEW_CHARS
from autogpt_server.utils import json

MASK = "***"


class Presenter:
    """Masks the values of pins that blocks declare secret. Knows the library, and nothing else."""

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        self._secret = {block_id: block.input_schema.secret_pins() for block_id, block in blocks.items()}
        self._any_secret = frozenset[str]().union(*self._secret.values())

    def execution(self, execution: NodeExecution) -> NodeExecution:
        """A node execution without the secrets that entered it."""
        secret = self._secret.get(execution.block_id)
        if not secret:
            return execution
        return execution.model_copy(update={"input_data": _masked(execution.input_data, secret)})

    def run_input(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A run's input without what is called like a secret pin of any block."""
        return _masked(given, self._any_secret)


def previewed(given: Mapping[str, Any], inline_value_bytes: int) -> dict[str, Any]:
    """Values with a preview in place of each that takes more bytes of JSON, as `GET /values` knows it by its hash."""
    return {name: _preview(value, inline_value_bytes) for name, value in given.items()}


def _preview(value: Any, inline_value_bytes: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    data = json.dumps_bytes(value)
    if len(data) <= inline_value_bytes:
        return value
    return {"$value": hashlib.sha256(data).hexdigest(), "size": len(data), "preview": data.decode()[:PREVIEW_CHARS]}


def _masked(values: Mapping[str, Any], secret: frozenset[str]) -> dict[str, Any]:
    return {
        name: MASK if value not in (None, "") and _base(name) in secret else value for name, value in values.items()
    }


def _base(name: str) -> str:
    try:
        return parse_pin(name).base
    except PinNameError:
        return name
