"""Performs one attempt of one node execution: calls the block, and tells what it yields and how it ends.

A plain `run` is called in a thread, an async one on the event loop. Whatever a block does (raise anything, yield what is no JSON, exit, go on after it was stopped) becomes
exactly one `Ended` for the planner, after the `Yielded` events that came before it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from autogpt_server.data.block import ERROR_PIN, Block, BlockContext, BlockError, Suspend
from autogpt_server.execution.gate import Gate
from autogpt_server.execution.plan import Ended, Yielded
from autogpt_server.execution.state import Execution, Failure
from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.json import InvalidJSONValue
from autogpt_server.utils.settings import Settings

log = logging.getLogger(__name__)

_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class RunIds:
    """Which run an attempt belongs to."""

    run_id: str
    graph_id: str
    graph_version: int


@dataclass(slots=True, eq=False)
class Attempt:
    """One call of a block."""

    execution: Execution
    number: int
    run: RunIds
    gate: Gate
    report: Callable[[Attempt, Yielded | Ended], None]
    """Called with each event, in order, from whatever thread the block runs in."""
    stopped: threading.Event = field(default_factory=threading.Event)
    task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Ask the attempt to end: at its next yield in a thread, at its next await on the loop."""
        self.stopped.set()
        self.gate.wake()
        if self.task is not None:
            self.task.cancel()


class UnknownOutputPin(BlockError):
    """The block yielded on a pin that it does not have."""

    code = "unknown_output_pin"


class ValueTooLarge(BlockError):
    """The block yielded a value that is larger than the limit."""

    code = "value_too_large"


@dataclass(frozen=True, slots=True)
class Performer:
    """Performs attempts with what they all share."""

    settings: Settings
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def run_in_thread(self, attempt: Attempt) -> None:
        """Perform an attempt of a block with a plain `run`; returns when it has ended."""
        execution, block = attempt.execution, attempt.execution.node.block
        failure: Failure | None = None
        stopped = False
        try:
            values = cast("Iterator[Any]", block.run(self._input(execution), self._context(attempt)))
            for item in values:
                if attempt.stopped.is_set():
                    stopped = True
                    break
                event = self._yielded(execution, block, item)
                attempt.gate.wait_in_thread(attempt.stopped)
                attempt.gate.count(len(event.text))
                attempt.report(attempt, event)
        except BaseException as error:  # noqa: BLE001 - a block may raise SystemExit or worse; its end is recorded, and this thread lives on
            failure = describe_failure(error)
        attempt.report(
            attempt,
            Ended(execution.id, self.now(), failure, stopped or (failure is not None and attempt.stopped.is_set())),
        )

    async def run_on_loop(self, attempt: Attempt) -> None:
        """Perform an attempt of a block with an async `run`; returns when it has ended."""
        execution, block = attempt.execution, attempt.execution.node.block
        failure: Failure | None = None
        stopped = False
        try:
            values = cast("AsyncIterator[Any]", block.run(self._input(execution), self._context(attempt)))
            async for item in values:
                event = self._yielded(execution, block, item)
                await attempt.gate.wait_on_loop()
                attempt.gate.count(len(event.text))
                attempt.report(attempt, event)
                await asyncio.sleep(0)  # a block that never waits must not keep the loop from everything else
        except asyncio.CancelledError:
            stopped = attempt.stopped.is_set()
            failure = None if stopped else Failure("block_failed", "The block was canceled from within.")
        except BaseException as error:  # noqa: BLE001 - as above
            failure = describe_failure(error)
        attempt.report(attempt, Ended(execution.id, self.now(), failure, stopped))

    def _yielded(self, execution: Execution, block: Block, item: Any) -> Yielded:
        if not isinstance(item, tuple) or len(cast("tuple[Any, ...]", item)) != 2:
            raise BlockError(
                f"The block must yield pairs (pin, value); it yielded {type(cast('object', item)).__name__}."
            )
        pin, value = cast("tuple[Any, Any]", item)
        if pin == ERROR_PIN:
            raise BlockError(value if isinstance(value, str) else json.dumps(value))
        if pin not in block.output_schema.pins():
            known = ", ".join(map(repr, block.output_schema.pins()))
            raise UnknownOutputPin(f"The block yielded on {pin!r}; its pins are {known}.")
        text = json.dumps(value)
        if len(text) > self.settings.max_value_bytes:
            raise ValueTooLarge(
                f"The value on {pin!r} is larger than {self.settings.max_value_bytes} bytes of JSON (setting MAX_VALUE_BYTES)."
            )
        # The block may go on changing a list it has yielded; others get what it was.
        return Yielded(execution.id, self.now(), pin, value if isinstance(value, _SCALARS) else copy_json(value), text)

    def _input(self, execution: Execution) -> Any:
        schema = execution.node.block.input_schema
        # What other executions share must not be changed by this one.
        return schema.model_validate({pin: copy_json(value) for pin, value in (execution.input or {}).items()})

    def _context(self, attempt: Attempt) -> BlockContext:
        execution = attempt.execution
        ids = {"run_id": attempt.run.run_id, "node_exec_id": execution.id, "node_id": execution.node.id}
        return BlockContext(
            **ids,
            graph_id=attempt.run.graph_id,
            graph_version=attempt.run.graph_version,
            attempt=attempt.number,
            idempotency_key=execution.id,
            settings=self.settings,
            logger=logging.LoggerAdapter(logging.getLogger(f"block.{execution.node.block.name}"), ids),
            now=self.now,
        )


def describe_failure(error: BaseException) -> Failure:
    """An exception as a failure that can be shown: a code that programs may rely on, and the message."""
    match error:
        case InvalidJSONValue():
            return Failure(error.code, f"The block yielded a value that is not JSON: {error}")
        case AutoGPTServerError():
            return Failure(error.code, str(error))
        case Suspend():
            return Failure(
                "not_supported", "The block asked to be suspended, which this version of the server cannot do yet."
            )
        case SystemExit() | KeyboardInterrupt() | GeneratorExit():
            return Failure("block_failed", f"The block tried to end the process ({type(error).__name__}).")
        case MemoryError():
            return Failure("out_of_memory", "The block ran out of memory.")
        case _:
            words = str(error)
            return Failure("block_failed", f"{type(error).__name__}: {words}" if words else type(error).__name__)


def copy_json(value: Any) -> Any:
    """A copy of a JSON value that shares no list or object with it."""
    if isinstance(value, list):
        return [copy_json(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: copy_json(item) for key, item in cast("dict[str, Any]", value).items()}
    return value
