"""Values as they are shown: secrets masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autogpt_server.data.block import Block
from autogpt_server.data.models import NodeExecution
from autogpt_server.data.pins import PinNameError, parse_pin

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


def _masked(values: Mapping[str, Any], secret: frozenset[str]) -> dict[str, Any]:
    return {
        name: MASK if value not in (None, "") and _base(name) in secret else value for name, value in values.items()
    }


def _base(name: str) -> str:
    try:
        return parse_pin(name).base
    except PinNameError:
        return name
