"""Exceptions of blocks, as they are shown to people and recorded."""

from __future__ import annotations

import sys
import traceback

import pydantic

from autogpt_server.data.block import EffectNotStarted, EffectUnknown, PermanentError
from autogpt_server.execution.state import Failure, FailureKind
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.json import InvalidJSONValue

MAX_MESSAGE_CHARS = 4000
"""Longer messages are cut: some libraries put a whole answer into theirs."""


def describe_failure(error: BaseException) -> Failure:
    """An exception as a failure that can be shown: a code that programs may rely on, and the message. Never raises."""
    match error:
        case InvalidJSONValue():
            words = f"The block yielded a value that is not JSON: {message_of(error)}"
            return Failure(error.code, words, FailureKind.PERMANENT)
        case AutoGPTServerError():
            return Failure(error.code, message_of(error), _kind_of(error))
        case pydantic.ValidationError():
            return Failure(
                "invalid_input", f"The input does not fit the block: {_problems(error)}", FailureKind.PERMANENT
            )
        case SystemExit() | KeyboardInterrupt() | GeneratorExit():
            return Failure("block_failed", f"The block tried to end the process ({type(error).__name__}).")
        case MemoryError():
            return Failure("out_of_memory", "The block ran out of memory.")
        case _:
            words = message_of(error)
            return Failure("block_failed", f"{type(error).__name__}: {words}" if words else type(error).__name__)


def _kind_of(error: AutoGPTServerError) -> FailureKind:
    match error:
        case EffectNotStarted():
            return FailureKind.NOT_STARTED
        case EffectUnknown():
            return FailureKind.UNKNOWN
        case PermanentError():
            return FailureKind.PERMANENT
        case _:
            return FailureKind.ORDINARY


def message_of(error: BaseException) -> str:
    """What an exception says, as text that can be stored: of bounded length, without halves of surrogate pairs."""
    try:
        words = str(error)
    except BaseException as second:  # noqa: BLE001 - the exception is the block's own class, and may do anything
        words = f"(its message cannot be had: {type(second).__name__})"
    if len(words) > MAX_MESSAGE_CHARS:
        words = f"{words[:MAX_MESSAGE_CHARS]}… ({len(words):,} characters)"
    return words.encode("utf-8", "replace").decode()


def traceback_text(error: BaseException | None = None) -> str:
    """The traceback of an exception, by default of the one being handled; without values of variables."""
    error = error or sys.exc_info()[1]
    if error is None:
        return ""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{frames}{type(error).__name__}: {message_of(error)}"


def _problems(error: pydantic.ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, problem['loc'])) or 'input'}: {problem['msg']}" for problem in found)
