"""Values as they are shown: secrets masked, large ones as a preview."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

from autogpt_server.data.block import Block
from autogpt_server.data.models import NodeExecution
from autogpt_server.data.pins import PinNameError, parse_pin
from autogpt_server.data.runs import PREVIEW_CHARS
from autogpt_server.execution.secrets import HIDDEN as MASK
from autogpt_server.execution.secrets import is_secret_name
from autogpt_server.utils import json

__all__ = ["MASK", "Presenter", "previewed"]


class Presenter:
    """Masks the values of pins that blocks declare secret. Knows the library, and nothing else."""

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        self._secret = {block_id: block.input_schema.secret_pins() for block_id, block in blocks.items()}
        self._any_secret = frozenset[str]().union(*self._secret.values())

    def execution(self, execution: NodeExecution) -> NodeExecution:
        """A node execution without the secrets that entered it."""
        secret = self._secret.get(execution.block_id, frozenset[str]())
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
        name: _hidden(value) if _base(name) in secret else _without_secrets(name, value)
        for name, value in values.items()
    }


def _without_secrets(name: str, value: Any) -> Any:
    """The value, with what is under names like `api_key` masked, however deep."""
    match value:
        case dict():
            return {key: _without_secrets(key, entry) for key, entry in cast("dict[str, Any]", value).items()}
        case list():
            return [_without_secrets(name, entry) for entry in cast("list[Any]", value)]
        case _:
            return _hidden(value) if isinstance(value, str) and is_secret_name(name) else value


def _hidden(value: Any) -> Any:
    return value if value in (None, "") else MASK


def _base(name: str) -> str:
    try:
        return parse_pin(name).base
    except PinNameError:
        return name
