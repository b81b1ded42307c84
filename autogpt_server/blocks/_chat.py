"""What a conversation with a language model is made of, whoever runs the model. No I/O."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from autogpt_server.data.block import BlockError

Message: TypeAlias = dict[str, Any]
"""{"role": "system" | "user" | "assistant" | ..., "content": text, ...}, as OpenAI's chat API has it."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer."""

    text: str
    finish_reason: str = "stop"
    """`stop`, or why it ended early: `length`, `content_filter`, ..."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


Ask: TypeAlias = Callable[[Sequence[Message], Mapping[str, Any] | None], Awaitable[Completion]]
"""Sends messages, with a `response_format` or none, and returns the answer; raises `BlockError`."""


class ContextTooLong(BlockError):
    """The prompt is longer than the model takes; shorten it, or set `compress_prompt_to_fit`."""

    code = "context_too_long"


class UnsupportedFormat(BlockError):
    """The endpoint does not know the `response_format` of the call."""

    code = "unsupported_response_format"


def shortened(messages: Sequence[Message]) -> list[Message]:
    """The messages with the longest one halved: its beginning and its end stay, for that is where instructions stand."""
    longest = max(range(len(messages)), key=lambda index: len(_content(messages[index])))
    text = _content(messages[longest])
    kept = len(text) // 4
    content = f"{text[:kept]}\n[...]\n{text[len(text) - kept :]}"
    return [{**message, "content": content} if index == longest else message for index, message in enumerate(messages)]


def _content(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""
