"""One call of a block, outside of any run: by the rules of a run (conversion, what a block may yield), but nothing is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from autogpt_server.data.block import Block
from autogpt_server.data.convert import ConversionError, input_converter
from autogpt_server.data.models import Graph, Node
from autogpt_server.data.pins import PinMergeError, PinNameError, merge_slots, parse_pin
from autogpt_server.data.problems import InvalidRunInput, Problem
from autogpt_server.data.upgrade import upgrade_input
from autogpt_server.data.validation import nearest
from autogpt_server.execution.attempts import Attempt, AttemptEvent, Paused, Performer, RunIds
from autogpt_server.execution.events import Ended, Yielded
from autogpt_server.execution.gate import Allowance, Gate
from autogpt_server.execution.state import Execution, Failure, FailureKind
from autogpt_server.execution.topology import build_topology
from autogpt_server.server.problems import BlockFailed, BlockTimeout
from autogpt_server.utils.ids import new_id
from autogpt_server.utils.settings import Settings

TIME_LIMIT_S = 60.0
"""A block called by itself must be done in this time, or in its own if that is shorter."""
_MAX_OUTPUTS = 10_000
_WAITS = Failure(
    "needs_a_run", "The block waits for something, which it can do in a graph's run only.", FailureKind.PERMANENT
)


@dataclass(slots=True)
class _Call:
    """What has come of a call so far. Filled from the thread that the block runs in."""

    loop: asyncio.AbstractEventLoop
    max_bytes: int
    outputs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    size_bytes: int = 0
    is_over_limit: bool = False
    ended: asyncio.Future[Ended] = field(init=False)

    def __post_init__(self) -> None:
        self.ended = self.loop.create_future()

    def take(self, attempt: Attempt, event: AttemptEvent) -> None:
        """Take what the block did; called in order."""
        if isinstance(event, Paused):
            return  # nobody else is there to wait for
        if not isinstance(event, Yielded):
            if not isinstance(event, Ended):
                event = Ended(event.execution_id, event.at, _WAITS)
            self.loop.call_soon_threadsafe(self._finish, event)
            return
        self.size_bytes += len(event.text)
        if len(self.outputs) >= _MAX_OUTPUTS or self.size_bytes > self.max_bytes:
            self.is_over_limit = True
            attempt.is_stopped = True
            return
        self.outputs.append({event.pin: event.value})

    def _finish(self, event: Ended) -> None:
        if not self.ended.done():
            self.ended.set_result(event)


class BlockCaller:
    """Calls blocks. Threads of blocks that never return are limited in number and end with the process."""

    def __init__(self, settings: Settings, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._settings = settings
        self._performer = Performer(settings)
        self._threads = ThreadPoolExecutor(settings.worker_threads, thread_name_prefix="block-call")
        self._time_limit_s = time_limit_s

    async def call(self, block: Block, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What the block yields for this input: `{pin: value}` in order.

        Raises `InvalidRunInput` with everything that is wrong with the input, `BlockFailed`, `BlockTimeout`.
        """
        converted = convert_input(block, given)
        node = build_topology(Graph(nodes=[Node(id="block", block_id=block.id)]), {block.id: block}).nodes[0]
        execution = Execution(new_id(), node, datetime.now(UTC), input=converted, attempt=1)
        call = _Call(asyncio.get_running_loop(), self._settings.max_value_bytes)
        # The gate stays open: what comes is not waiting to be committed, and the limits below end the call.
        gate = Gate(Allowance(events=_MAX_OUTPUTS * 2, bytes=self._settings.max_value_bytes * 4))
        attempt = Attempt(execution, 1, RunIds(execution.id, "", 0), gate, call.take)
        if node.runs_on_loop:
            attempt.task = asyncio.create_task(self._performer.run_on_loop(attempt))
        else:
            self._threads.submit(self._performer.run_in_thread, attempt)
        limit_s = min(block.timeout_s or self._time_limit_s, self._time_limit_s)
        try:
            ended = await asyncio.wait_for(asyncio.shield(call.ended), limit_s)
        except TimeoutError:
            raise BlockTimeout(
                f"Block {block.name} took longer than {limit_s:g} s; run it in a graph, where it can take its time."
            ) from None
        finally:
            attempt.stop()
        if call.is_over_limit:
            raise BlockFailed(
                f"Block {block.name} yielded more than {_MAX_OUTPUTS} values or {call.max_bytes} bytes; run it in a graph."
            )
        if ended.failure is not None:
            raise BlockFailed(ended.failure.message, [Problem(ended.failure.code, ended.failure.message)])
        return call.outputs

    def close(self) -> None:
        """Take no more calls."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def convert_input(block: Block, given: Mapping[str, Any]) -> dict[str, Any]:
    """The input as the block takes it; `InvalidRunInput` names every pin that is unknown, missing or of a wrong type."""
    converter = input_converter(block.input_schema)
    problems: list[Problem] = []
    try:
        upgraded = upgrade_input(block, given)
        known = {name: value for name, value in upgraded.items() if parse_pin(name).base in converter.pins}
        merged = merge_slots({}, known)
    except (PinNameError, PinMergeError) as error:
        raise InvalidRunInput(str(error), [Problem(error.code, str(error), pin=getattr(error, "pin", None))]) from None
    except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise InvalidRunInput(f"Block {block.name} cannot read this input ({type(error).__name__}).", []) from error
    for name in upgraded.keys() - known.keys():
        expected = list(dict.fromkeys([*nearest(name, converter.pins), *converter.pins]))
        problems.append(
            Problem("unknown_pin", f"Block {block.name} has no input pin {name!r}.", pin=name, expected=expected)
        )
    for pin in block.input_schema.pins():
        if pin in converter.required and pin not in merged:
            message = f"Block {block.name} requires {pin!r}."
            problems.append(Problem("missing_input", message, pin=pin, expected=converter.pins[pin].expected))
    converted: dict[str, Any] = {}
    for pin, value in merged.items():
        try:
            converted[pin] = converter.pins[pin](value)
        except ConversionError as error:
            problems.append(Problem(error.code, str(error), pin=pin, expected=error.expected))
    if problems:
        raise InvalidRunInput(f"The input does not fit the block {block.name}.", problems)
    return converted
