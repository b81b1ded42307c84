"""From the values in an execution's slots to the input of its block (rules F6 to F8). Pure."""

from __future__ import annotations

from autogpt_server.data.convert import ConversionError, MissingInput
from autogpt_server.data.pins import MISSING, PinMergeError, merge_slots
from autogpt_server.data.run_rows import CONVERTED
from autogpt_server.execution.state import MIXED, Execution, Failure, InputRow
from autogpt_server.utils import json
from autogpt_server.utils.json import InvalidJSONValue


def bind_input(execution: Execution) -> list[InputRow] | Failure:
    """Merge and convert the values, and set `execution.input`; answers what changed on the way, as rows, or why it cannot be done."""
    node = execution.node
    given = {slot: token.value for slot, token in execution.tokens.items()}
    try:
        converted = node.convert(merge_slots(node.defaults, given))
        whole = {**node.defaults, **given}
        changed = [(pin, json.dumps(value)) for pin, value in converted.items() if value is not whole.get(pin, MISSING)]
    except (ConversionError, MissingInput, PinMergeError) as error:
        return Failure(error.code, str(error))
    except InvalidJSONValue as error:
        return Failure(error.code, f"The values that came make no JSON value together: {error}")
    execution.input = converted
    if execution.mixed_origin and node.fails_on_mixed_origin(converted):
        message = (
            "The values that met here do not belong together: they descend from different outputs of one node. Set the node's "
            "metadata on_mixed_origin to 'warn' to run it nevertheless."
        )
        return Failure("mixed_origin", message)
    return [InputRow(execution, CONVERTED, ordinal, pin, text) for ordinal, (pin, text) in enumerate(changed)]


def trace_origins(execution: Execution) -> None:
    """Note what the values descend from, and whether they belong together (rule F8)."""
    watched = execution.node.watched
    if not watched:
        return
    origins: dict[str, tuple[str, int]] = {}
    mixed: set[str] = set()
    statics = execution.node.static_slots
    for slot, token in execution.tokens.items():
        if slot in statics:
            continue
        for pin, origin in (token.origins or {}).items():
            if pin in watched and origins.setdefault(pin, origin) != origin:
                mixed.add(pin)
    execution.mixed_origin = bool(mixed)
    # What is made of values that met here belongs to nothing but what is made of the same meeting.
    execution.origins = {**origins, **dict.fromkeys(mixed, (execution.id, MIXED))} or None
