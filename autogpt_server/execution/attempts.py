"""Performs one attempt of one node execution: calls the block, and tells what it yields and how it ends.

A plain `run` is called in a thread, an async one on the event loop. Whatever a block does (raise anything, yield what is no JSON, exit, go on
after it was stopped) becomes exactly one `Ended` for the planner, after the `Yielded` events that came before it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, cast

from autogpt_server.data.block import (
    ERROR_PIN,
    Block,
    BlockContext,
    BlockError,
    BlockKind,
    BlockSchema,
    CallGraph,
    PermanentError,
    Suspend,
)
from autogpt_server.execution.events import Ended, Suspended, Yielded
from autogpt_server.execution.failures import describe_failure, traceback_text
from autogpt_server.execution.gate import Gate
from autogpt_server.execution.secrets import input_secrets, mask, settings_secrets
from autogpt_server.execution.state import Execution, Failure
from autogpt_server.utils import faults, json
from autogpt_server.utils.clock import Alarm, utc_now
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.logging import get_logger
from autogpt_server.utils.settings import Settings

log = get_logger(__name__)

_SCALARS = frozenset({str, int, float, bool, type(None)})
_MAX_BYTES_PER_CHAR = 4


@dataclass(frozen=True, slots=True)
class RunIds:
    """Which run an attempt belongs to."""

    run_id: str
    graph_id: str
    graph_version: int


@dataclass(frozen=True, slots=True)
class GraphCalled:
    """The running attempt is over because its block wants another graph performed (rule D11)."""

    execution_id: str
    at: datetime
    call: CallGraph


class Paused(NamedTuple):
    """The running attempt has to wait until others have dealt with what it yielded, or goes on after that."""

    is_paused: bool


Step: TypeAlias = Yielded | Ended | Suspended | GraphCalled
"""What an attempt does: it yields any number of values, and then one of the others."""
AttemptEvent: TypeAlias = Step | Paused
"""What an attempt reports."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One call of a block."""

    execution: Execution
    number: int
    run: RunIds
    gate: Gate
    report: Callable[[Attempt, AttemptEvent], None]
    """Called with each event, in order, from whatever thread the block runs in."""
    is_stopped: bool = False
    """Whether it was asked to end."""
    task: asyncio.Task[Any] | None = None
    """The task that an async block runs in, once it runs."""
    resumed_with: Any = None
    """What the block is called again with."""
    time_limit: Alarm | None = None
    """Goes off when the attempt has taken too long."""
    time_left_s: float | None = None
    """How long it may still take, from `timed_since` on; None for no limit."""
    timed_since: datetime | None = None
    is_launched: bool = False
    """Whether its block is being called; before, it waits for the commit that says so."""
    is_over: bool = False
    """Whether its end has been reported. Set in turn."""

    @property
    def node_index(self) -> int:
        """Which node it performs."""
        return self.execution.node.index

    def note_pause(self, is_paused: bool) -> None:
        """It has to wait, or goes on."""
        self.report(self, Paused(is_paused))

    def stop(self) -> None:
        """Ask the attempt to end: at its next yield in a thread, at its next await on the loop."""
        self.is_stopped = True
        self.gate.wake()
        if self.task is not None:
            self.task.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class UnknownOutputPin(PermanentError):
    """The block yielded on a pin that it does not have."""

    code = "unknown_output_pin"


class ValueTooLarge(PermanentError):
    """The block yielded a value that is larger than the limit."""

    code = "value_too_large"


def _is_never_lost(_attempt: Attempt, _error: BaseException) -> bool:
    return False


class Performer:
    """Performs attempts with what they all share."""

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], datetime] = utc_now,
        is_lost: Callable[[Attempt, BaseException], bool] = _is_never_lost,
    ) -> None:
        """`is_lost`: asked about what a block has raised, in its thread: whether the process is at fault (`exhaustion.py`). Then the attempt ends with it."""
        self.settings = settings
        self._now = now
        self._is_lost = is_lost
        self._pins: dict[type[BlockSchema], frozenset[str]] = {}
        self._pid = os.getpid()

    def run_in_thread(self, attempt: Attempt) -> None:
        """Perform an attempt of a block with a plain `run`; returns when it has ended."""
        failure: Failure | None = None
        wish: Suspend | CallGraph | None = None
        stopped = attempt.is_stopped
        values: Generator[Any] | None = None
        try:
            if not stopped:
                values = cast("Generator[Any]", self._call(attempt))
                for item in values:
                    if attempt.is_stopped:
                        stopped = True
                        break
                    event = self._yielded(attempt.execution, item)
                    attempt.gate.wait_in_thread(attempt, attempt.note_pause)
                    self._pass_on(attempt, event)
        except (Suspend, CallGraph) as asked:
            wish = asked
        except BaseException as error:  # noqa: BLE001 - a block may raise SystemExit or worse; its end is recorded, and this thread lives on
            if self._is_lost(attempt, error):
                return
            failure = self._failure(attempt, error)
        if values is not None:
            try:
                values.close()  # now, not when the garbage is collected: what it does at its end belongs to this attempt
            except BaseException as error:  # noqa: BLE001 - as above
                if self._is_lost(attempt, error):
                    return
                failure = failure or self._failure(attempt, error)
        if os.getpid() != self._pid:
            os._exit(0)  # the block forked, and this is the child coming home: everything here is the parent's
        self._end(attempt, failure, wish, stopped=stopped)

    async def run_on_loop(self, attempt: Attempt) -> None:
        """Perform an attempt of a block with an async `run`; returns when it has ended."""
        # From here on `stop` may cancel. Canceled before its first step, a task would never come here and tell its end.
        attempt.task = asyncio.current_task()
        failure: Failure | None = None
        wish: Suspend | CallGraph | None = None
        stopped = attempt.is_stopped
        values: AsyncGenerator[Any] | None = None
        try:
            if not stopped:
                values = cast("AsyncGenerator[Any]", self._call(attempt))
                async for item in values:
                    if attempt.is_stopped:  # it went on in spite of being canceled
                        stopped = True
                        break
                    event = self._yielded(attempt.execution, item)
                    await attempt.gate.wait_on_loop(attempt, attempt.note_pause)
                    self._pass_on(attempt, event)
                    await asyncio.sleep(0)  # a block that never waits must not keep the loop from everything else
        except asyncio.CancelledError:
            stopped = attempt.is_stopped
            failure = None if stopped else Failure("block_failed", "The block was canceled from within.")
        except (Suspend, CallGraph) as asked:
            wish = asked
        except BaseException as error:  # noqa: BLE001 - as above
            if self._is_lost(attempt, error):
                return
            failure = self._failure(attempt, error)
        if values is not None:
            try:
                await values.aclose()
            except BaseException as error:  # noqa: BLE001 - as above
                if self._is_lost(attempt, error):
                    return
                failure = failure or self._failure(attempt, error)
        attempt.task = None
        self._end(attempt, failure, wish, stopped=stopped)

    def _call(self, attempt: Attempt) -> Any:
        execution, block = attempt.execution, attempt.execution.node.block
        # What other executions share must not be changed by this one.
        given = {pin: copy_json(value) for pin, value in (execution.input or {}).items()}
        faults.reach("attempt.call.before")
        return block.run(block.input_schema.model_validate(given), self._context(attempt))

    def _pass_on(self, attempt: Attempt, event: Yielded) -> None:
        attempt.gate.count(len(event.text))
        attempt.report(attempt, event)
        faults.reach("attempt.yield.after")

    def _end(
        self, attempt: Attempt, failure: Failure | None, wish: Suspend | CallGraph | None, *, stopped: bool
    ) -> None:
        faults.reach("attempt.end.before")
        try:
            event = self._last_step(attempt, failure, wish, stopped=stopped)
        except BaseException as error:  # noqa: BLE001 - the wish is the block's own object, too
            event = Ended(attempt.execution.id, self._now(), self._failure(attempt, error), attempt.is_stopped)
        attempt.report(attempt, event)

    def _last_step(
        self, attempt: Attempt, failure: Failure | None, wish: Suspend | CallGraph | None, *, stopped: bool
    ) -> Step:
        execution_id, now = attempt.execution.id, self._now()
        match wish:
            case Suspend() if failure is None:
                return Suspended(execution_id, now, wish.until, wish.signal)
            case CallGraph() if failure is None:
                return GraphCalled(execution_id, now, wish)
            case _:
                return Ended(execution_id, now, failure, stopped or (failure is not None and attempt.is_stopped))

    def _yielded(self, execution: Execution, item: object) -> Yielded:
        kind = type(item).__name__
        if not isinstance(item, tuple) or len(cast("tuple[Any, ...]", item)) != 2:
            raise BlockError(f"The block must yield pairs (pin, value); it yielded {kind}.")
        pin, value = cast("tuple[Any, Any]", item)
        if not isinstance(pin, str):
            raise UnknownOutputPin(f"The name of a pin must be text; the block yielded on {type(pin).__name__}.")
        pin = str.__str__(pin)  # of a class of its own it may say anything
        if pin == ERROR_PIN:
            raise BlockError(value if isinstance(value, str) else json.dumps(value))
        known = self._pins_of(execution.node.block)
        if pin not in known and execution.node.block.kind is not BlockKind.AGENT:
            raise UnknownOutputPin(
                f"The block yielded on {pin[:100]!r}; its pins are {', '.join(map(repr, sorted(known)))}."
            )
        text = json.dumps(value)
        limit = self.settings.max_value_bytes
        if len(text) * _MAX_BYTES_PER_CHAR > limit and len(text.encode()) > limit:
            raise ValueTooLarge(f"The value on {pin!r} is larger than {limit} bytes of JSON (setting MAX_VALUE_BYTES).")
        # Made again from its text: the block may go on changing what it has yielded, and others get what is on record, no more and no less.
        return Yielded(execution.id, self._now(), pin, value if type(value) in _SCALARS else json.loads(text), text)

    def _pins_of(self, block: Block) -> frozenset[str]:
        pins = self._pins.get(block.output_schema)
        if pins is None:
            pins = self._pins[block.output_schema] = frozenset(block.output_schema.pins())
        return pins

    def _failure(self, attempt: Attempt, error: BaseException) -> Failure:
        try:
            return self._described(attempt, error)
        except BaseException as second:  # noqa: BLE001 - its class is the block's own, down to what `isinstance` asks of it
            words = f"{type(error).__name__}: (it cannot be looked at: {type(second).__name__})"
            return Failure("block_failed", words)

    def _described(self, attempt: Attempt, error: BaseException) -> Failure:
        secrets = _Secrets(self.settings, attempt.execution)
        failure = describe_failure(error)
        failure = Failure(failure.code, mask(failure.message, secrets.texts), failure.kind)
        if not isinstance(
            error, AutoGPTServerError
        ):  # not a foreseen failure: whoever mends the block wants to see where
            log.info(
                "block raised",
                run_id=attempt.run.run_id,
                node_exec_id=attempt.execution.id,
                block=attempt.execution.node.block.name,
                traceback=mask(traceback_text(error), secrets.texts),
            )
        return failure

    def _context(self, attempt: Attempt) -> BlockContext:
        execution = attempt.execution
        ids = {"run_id": attempt.run.run_id, "node_exec_id": execution.id, "node_id": execution.node.id}
        return BlockContext(
            **ids,
            graph_id=attempt.run.graph_id,
            graph_version=attempt.run.graph_version,
            attempt=attempt.number,
            idempotency_key=execution.id,
            resumed_with=attempt.resumed_with,
            is_resumed=execution.resumed is not None,
            settings=self.settings,
            logger=_BlockLog(execution.node.block.name, ids, _Secrets(self.settings, execution)),
            now=self._now,
        )


class _Secrets:
    """The secrets of one attempt, looked for when they are first asked about."""

    def __init__(self, settings: Settings, execution: Execution) -> None:
        self._settings = settings
        self._execution = execution

    @cached_property
    def texts(self) -> frozenset[str]:
        schema = self._execution.node.block.input_schema
        return frozenset(
            (*input_secrets(schema, self._execution.input or {}), *settings_secrets(self._settings)),
        )


class _BlockLog(logging.LoggerAdapter[logging.Logger]):
    """The log of one attempt: says whose it is, and hides the secrets that came with the input."""

    def __init__(self, block: str, ids: Mapping[str, str], secrets: _Secrets) -> None:
        super().__init__(logging.getLogger(f"block.{block}"), {"event_fields": dict(ids)})
        self._secrets = secrets

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if not self.isEnabledFor(level):
            return
        text = str(msg) % args if args else str(msg)
        error = kwargs.pop("exc_info", None)
        if isinstance(error, BaseException):
            text = f"{text}: {traceback_text(error)}"
        elif error:
            text = f"{text}: {traceback_text()}"
        kwargs.setdefault("stacklevel", 2)
        super().log(level, "%s", mask(text, self._secrets.texts), **kwargs)


def copy_json(value: Any) -> Any:
    """A copy of a JSON value that shares no list or object with it."""
    if isinstance(value, list):
        return [copy_json(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: copy_json(item) for key, item in cast("dict[str, Any]", value).items()}
    return value
