"""Asking a language model for JSON of a given shape until it is that. No I/O: whoever asks the model is handed in."""

import json as stdlib_json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from autogpt_server.blocks._chat import Ask, Completion, ContextTooLong, Message, UnsupportedFormat, shortened
from autogpt_server.data.block import BlockError
from autogpt_server.utils import json

LIST_KEY = "items"
"""OpenAI's JSON modes give objects only: a list travels under this key."""

MAX_SHORTENINGS = 6
"""How often the longest message is halved before the prompt counts as too long for the model."""

MAX_STARTS = 200
"""At how many brackets of an answer its JSON may begin."""

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Shape:
    """What an answer must look like."""

    expected: Mapping[str, Any]
    """Key -> what its value should be, in words."""

    as_list: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A usable answer, and the messages that led to it."""

    value: dict[str, Any] | list[Any]
    messages: list[Message]


async def ask_for_json(
    ask: Ask, messages: Sequence[Message], shape: Shape, *, enforce: bool, attempts: int, shorten: bool
) -> Answer:
    """Ask until the answer has the shape, at most `attempts` times, each time telling the model what was wrong.

    `enforce` uses the endpoint's JSON modes, as far as it knows them; `shorten` makes a prompt that is too long fit. Raises `BlockError`.
    """
    asked = list(messages)
    formats: list[Mapping[str, Any] | None] = [json_schema(shape), JSON_OBJECT, None] if enforce else [None]
    problem = ""
    for _ in range(attempts):
        completion, asked = await _ask(ask, asked, formats, shorten=shorten)
        try:
            return Answer(_read_completion(completion, shape), asked)
        except UnusableAnswer as unusable:
            problem = str(unusable)
        asked += [
            {"role": "assistant", "content": completion.text},
            {"role": "user", "content": repair_request(problem, shape)},
        ]
    times = "once" if attempts == 1 else f"{attempts} times"
    raise BlockError(f"The model was asked {times} and gave no usable answer. About its last one: {problem}")


async def ask_for_text(ask: Ask, messages: Sequence[Message], *, shorten: bool) -> Answer:
    """Ask once and take the answer as it is, under the key `response`."""
    completion, asked = await _ask(ask, list(messages), [None], shorten=shorten)
    return Answer({"response": completion.text}, asked)


async def _ask(
    ask: Ask, messages: list[Message], formats: list[Mapping[str, Any] | None], *, shorten: bool
) -> tuple[Completion, list[Message]]:
    """One answer, and the messages as they fitted; formats that the endpoint does not know are taken off the list for good."""
    shortenings = 0
    while True:
        try:
            return await ask(messages, formats[0]), messages
        except UnsupportedFormat:
            if formats[0] is None:
                raise
            del formats[0]
        except ContextTooLong:
            if not shorten or shortenings == MAX_SHORTENINGS:
                raise
            shortenings += 1
            messages = shortened(messages)


def _read_completion(completion: Completion, shape: Shape) -> dict[str, Any] | list[Any]:
    if completion.finish_reason == "length":
        raise UnusableAnswer("it was cut off, for it was longer than max_tokens allows. Be brief.")
    return read_answer(completion.text, shape)


class UnusableAnswer(Exception):
    """What is wrong with a model's answer, in words for the model."""


def instructions(shape: Shape) -> str:
    """What the model is told about the shape of its answer."""
    keys = "\n".join(
        f"- {json.dumps(key)}: {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in shape.expected.items()
    )
    what = "a JSON array of objects, each" if shape.as_list else "a single JSON object"
    return f"Answer with nothing but {what} with exactly these keys:\n{keys}\nNo text before or after it, no Markdown."


def repair_request(problem: str, shape: Shape) -> str:
    """What the model is told when its answer cannot be used."""
    return f"Your answer cannot be used: {problem}\n{instructions(shape)}"


def json_schema(shape: Shape) -> dict[str, Any]:
    """The `response_format` that makes an endpoint enforce the shape.

    Not strict: an expected format says what a value means, not which type it has.
    """
    item: dict[str, Any] = {
        "type": "object",
        "properties": {
            key: {"description": value if isinstance(value, str) else json.dumps(value)}
            for key, value in shape.expected.items()
        },
        "required": list(shape.expected),
    }
    wrapped = {"type": "object", "properties": {LIST_KEY: {"type": "array", "items": item}}, "required": [LIST_KEY]}
    schema = wrapped if shape.as_list else item
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": False}}


JSON_OBJECT: Mapping[str, Any] = {"type": "json_object"}
"""The older `response_format`, for endpoints that know no schemas."""


def read_answer(text: str, shape: Shape) -> dict[str, Any] | list[Any]:
    """The JSON in a model's answer, checked; `UnusableAnswer` says what is wrong with it."""
    value = _find_json(text)
    if shape.as_list:
        items = _items(value)
        for number, item in enumerate(items, 1):
            _check_keys(item, shape, f"object {number} of the array")
        return items
    if isinstance(value, list) and len(value) == 1:  # pyright: ignore[reportUnknownArgumentType]
        value = cast("list[Any]", value)[0]
    _check_keys(value, shape, "the object")
    return cast("dict[str, Any]", value)


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        held: list[Any] = list(cast("dict[str, Any]", value).values())
        value = cast("Any", held[0]) if len(held) == 1 and isinstance(held[0], list) else [cast("Any", value)]
    if not isinstance(value, list):
        raise UnusableAnswer("it is no JSON array.")
    return cast("list[Any]", value)


def _check_keys(value: Any, shape: Shape, what: str) -> None:
    if not isinstance(value, dict):
        raise UnusableAnswer(f"{what} is no JSON object.")
    missing = [key for key in shape.expected if key not in value]
    if missing:
        raise UnusableAnswer(f"{what} lacks the keys {', '.join(map(json.dumps, missing))}.")


def _find_json(text: str) -> Any:
    """The whole text, else what stands in a code fence, else the first object or array in it."""
    candidates = [text, *_FENCE.findall(text)]
    for candidate in candidates:
        try:
            return json.loads(candidate.strip())
        except json.InvalidJSONValue:
            continue
    decoder = stdlib_json.JSONDecoder()
    for start in islice((match.start() for match in re.finditer(r"[{\[]", text)), MAX_STARTS):
        try:
            value, _ = decoder.raw_decode(text, start)
            json.check(value)
        except (ValueError, RecursionError):
            continue
        if value:
            return value
    raise UnusableAnswer("it is no valid JSON." if text.strip() else "it is empty.")
