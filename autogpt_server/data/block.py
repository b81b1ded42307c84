"""What a block is: the contract between block authors and everything that runs, checks or shows blocks.

A block is a class that derives from `Block`, names its facts as class attributes and implements `run`. One instance is made per block when the
library is loaded; it holds no state between calls, because many executions share it.
"""

from __future__ import annotations

import copy
import inspect
import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeAlias, cast

import pydantic

from autogpt_server.data.pins import parse_pin
from autogpt_server.utils import json
from autogpt_server.utils.errors import AutoGPTServerError
from autogpt_server.utils.settings import Settings

ERROR_PIN = "error"
"""Every block has this output pin; a failed execution sends its message there (rule F10 of the design)."""

JsonValue: TypeAlias = Any
"""A JSON value: None, bool, int, float (finite), str, list or dict with string keys."""

BlockOutput: TypeAlias = Iterator[tuple[str, JsonValue]] | AsyncIterator[tuple[str, JsonValue]]
"""What `Block.run` yields: (output pin, value) in the order in which the values travel."""


class Effects(StrEnum):
    """What a call of a block does to the world; decides what may be repeated after a crash (rule D3)."""

    PURE = "pure"
    """Same input, same output; touches nothing, reads no clock and no randomness."""

    IDEMPOTENT = "idempotent"
    """May be repeated without harm, though it may cost: reads, LLM calls."""

    UNSAFE = "unsafe"
    """Posts, sends, pays: never repeated unless it is known not to have happened."""


class BlockCategory(StrEnum):
    """Where a block is shown in a palette."""

    AGENT = "AGENT"
    AI = "AI"
    SOCIAL = "SOCIAL"
    TEXT = "TEXT"
    SEARCH = "SEARCH"
    BASIC = "BASIC"
    INPUT = "INPUT"
    OUTPUT = "OUTPUT"
    LOGIC = "LOGIC"
    COMMUNICATION = "COMMUNICATION"
    DEVELOPER_TOOLS = "DEVELOPER_TOOLS"
    DATA = "DATA"
    HUMAN_IN_THE_LOOP = "HUMAN_IN_THE_LOOP"
    PRODUCTIVITY = "PRODUCTIVITY"
    MULTIMEDIA = "MULTIMEDIA"


class BlockKind(StrEnum):
    """Blocks that the server itself gives a meaning to; all others are STANDARD."""

    STANDARD = "standard"
    INPUT = "input"
    OUTPUT = "output"
    NOTE = "note"
    AGENT = "agent"
    """Performs another graph: beside those of its `output_schema` it has an output pin for each agent output of that graph."""


class BlockError(AutoGPTServerError):
    """The block could not do its work."""

    code = "block_failed"


class EffectNotStarted(BlockError):
    """The block failed before it touched anything outside, so that calling it again is safe."""

    code = "effect_not_started"
    retryable = True


class EffectUnknown(BlockError):
    """The block cannot tell whether what it asked for has happened: the answer was lost after the request had left."""

    code = "outcome_unknown"


class PermanentError(BlockError):
    """The block failed, and would fail in the same way if it were called again: no retry."""

    code = "permanent_error"


class MalformedBlock(AutoGPTServerError):
    """A block class does not keep the contract of `Block`."""

    code = "malformed_block"


def _is_aware(moment: object) -> bool:
    return isinstance(moment, datetime) and moment.tzinfo is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


class Suspend(Exception):
    """Raised by a block to wait without holding a thread until a time (`until`, aware) or a signal of that name arrives, whichever is first (rule D10).

    The block is then called again from its beginning, with `ctx.is_resumed` set. What it yielded before stays.
    """

    def __init__(self, *, until: datetime | None = None, signal: str | None = None) -> None:
        if until is None and not signal:
            raise ValueError("Suspend takes until= or signal= or both")
        if until is not None and not _is_aware(until):
            raise ValueError("Suspend(until=...) takes a timezone-aware datetime")
        if signal is not None and not _is_text(signal):
            raise ValueError("Suspend(signal=...) takes the name of a signal")
        super().__init__(signal or until)
        self.until = until
        self.signal = signal


class CallGraph(Exception):
    """Raised by a block to have another graph performed as a child run, and to be called again with its outcome (rule D11).

    Called again, the block finds a `ChildResult` in `ctx.resumed_with`.
    """

    def __init__(self, graph_id: str, run_input: Mapping[str, JsonValue], *, graph_version: int | None = None) -> None:
        """`run_input`: JSON values by name. `graph_version`: None for the active one."""
        if not _is_text(graph_id):
            raise ValueError("CallGraph(graph_id, ...) takes the id of a graph")
        json.check(run_input)
        super().__init__(graph_id)
        self.graph_id = graph_id
        self.graph_version = graph_version
        self.run_input = run_input


@dataclass(frozen=True, slots=True)
class ChildResult:
    """How a child run ended."""

    run_id: str
    status: str
    """COMPLETED, FAILED or CANCELED."""
    error: str | None
    """Why it did not complete."""
    outputs: Mapping[str, Sequence[JsonValue]]
    """Name of an agent output -> its values in order."""


class RetryPolicy(pydantic.BaseModel):
    """When a failed attempt is followed by another (rule D7). The pauses grow from one to the next, by `factor`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    max_attempts: int = pydantic.Field(default=3, ge=1, le=100)
    """All in all, the first one included."""
    delay_s: float = pydantic.Field(default=1.0, ge=0, le=86_400)
    """The pause before the second attempt."""
    factor: float = pydantic.Field(default=2.0, ge=1, le=10)
    max_delay_s: float = pydantic.Field(default=300.0, ge=0, le=86_400)

    def delay_before(self, retry: int) -> float:
        """Seconds to wait before retry number `retry`, from 1."""
        return min(self.max_delay_s, self.delay_s * self.factor ** min(retry - 1, 100))


NO_RETRY = RetryPolicy(max_attempts=1)


def SchemaField(  # noqa: N802  (reads as a field type in a class body, like pydantic's Field)
    default: Any = ...,
    *,
    default_factory: Callable[[], Any] | None = None,
    title: str | None = None,
    description: str | None = None,
    placeholder: str | None = None,
    secret: bool = False,
    advanced: bool | None = None,
    hidden: bool = False,
    alias: str | None = None,
    json_schema_extra: Mapping[str, Any] | None = None,
    **extra: Any,
) -> Any:
    """A pin with what a person needs to fill it in.

    `secret` values are masked wherever the server shows or logs them. `hidden` pins are there for what other versions and editors save and are
    not offered to people. A pin without `default` is required. `alias` names a pin whose name would hide something in a class body (`list`).
    `extra` goes to `pydantic.Field` (bounds, examples, ...).
    """
    shown = {"placeholder": placeholder, "secret": secret or None, "advanced": advanced, "hidden": hidden or None}
    kept = {key: value for key, value in shown.items() if value is not None} | dict(json_schema_extra or {})
    if default_factory is not None:
        extra["default_factory"] = default_factory
    else:
        extra["default"] = default
    return pydantic.Field(title=title, description=description, alias=alias, json_schema_extra=kept or None, **extra)


class BlockSchema(pydantic.BaseModel):
    """Base of `input_schema` and `output_schema`: one field per pin."""

    # A value that does not fit may be a secret: errors name the pin and never show what came.
    model_config = pydantic.ConfigDict(
        extra="forbid", populate_by_name=True, hide_input_in_errors=True, protected_namespaces=()
    )

    @classmethod
    def pins(cls) -> Mapping[str, pydantic.fields.FieldInfo]:
        """Pin name -> field, in order of declaration."""
        return {info.alias or name: info for name, info in cls.model_fields.items()}

    @classmethod
    def required_pins(cls) -> frozenset[str]:
        """Pins without a default."""
        return frozenset(pin for pin, info in cls.pins().items() if info.is_required())

    @classmethod
    def secret_pins(cls) -> frozenset[str]:
        """Pins whose values are never shown, logged or exported."""
        return frozenset(pin for pin, info in cls.pins().items() if _is_secret(info))


def _is_secret(info: pydantic.fields.FieldInfo) -> bool:
    extra: Any = info.json_schema_extra
    return isinstance(extra, dict) and cast("dict[str, Any]", extra).get("secret") is True


class EmptySchema(BlockSchema):
    """No pins at all."""


class OutputSchema(BlockSchema):
    """Base of an `output_schema`: the pin that every block has."""

    error: str = SchemaField("", description="Why the block failed; nothing is sent here when it worked.")


@dataclass(frozen=True, slots=True)
class PinLink:
    """One end of a link as a block's `upgrade` sees it: the output pin it leaves and the input pin it enters (dynamic parts included)."""

    source_name: str
    sink_name: str


@dataclass(frozen=True, slots=True)
class NodeWiring:
    """A node's defaults and links, as saved by this or an older revision of its block."""

    defaults: Mapping[str, JsonValue]
    incoming: Sequence[PinLink] = ()
    outgoing: Sequence[PinLink] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockContext:
    """What the server lends to one attempt of one execution."""

    run_id: str
    node_exec_id: str
    node_id: str
    graph_id: str
    graph_version: int
    attempt: int
    """1 for the first attempt."""
    idempotency_key: str
    """The same on every attempt of this execution: hand it to services that de-duplicate."""
    settings: Settings
    logger: logging.LoggerAdapter[logging.Logger]
    resumed_with: JsonValue = None
    """After a `Suspend`: the signal's value, or None when time woke the block up. After a `CallGraph`: the `ChildResult`."""
    is_resumed: bool = False
    """Whether this call follows a `Suspend` or `CallGraph` of the same execution."""
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))


BLOCK_TEST_TIME = datetime(2026, 3, 1, 12, 30, 45, 678901, UTC)
"""What `ctx.now()` tells while a block's declared tests run."""

TestExpectation: TypeAlias = tuple[str, Any]
"""(pin, expected): expected is a value, a type, or a predicate of one argument."""


class Block(ABC):
    """One kind of work a node can do.

    Class attributes are the block's declared facts; the registry refuses a block whose facts do not hold together and says what to fix.
    """

    id: ClassVar[str]
    """UUID; graphs refer to it, so it never changes."""
    name: ClassVar[str]
    """Defaults to the class's name."""
    description: ClassVar[str]
    categories: ClassVar[frozenset[BlockCategory]] = frozenset()
    input_schema: ClassVar[type[BlockSchema]]
    output_schema: ClassVar[type[BlockSchema]]
    effects: ClassVar[Effects] = Effects.UNSAFE
    static_output: ClassVar[bool] = False
    """Whether links from this block are static: the newest value serves every later execution of the sink (rule F5)."""
    kind: ClassVar[BlockKind] = BlockKind.STANDARD
    timeout_s: ClassVar[float | None] = None
    """Default time limit of one attempt; a node's metadata may set its own."""
    retry: ClassVar[RetryPolicy] = NO_RETRY
    """Whether failed attempts are repeated by default; a node's metadata may set its own. An unsafe block is repeated only after `EffectNotStarted`."""
    max_parallel: ClassVar[int] = 8
    """How many executions of one node may run at once."""

    test_input: ClassVar[Mapping[str, Any] | Sequence[Mapping[str, Any]]]
    """One input, or a list of them."""
    test_output: ClassVar[Sequence[TestExpectation] | Sequence[Sequence[TestExpectation]]]
    """What one input yields in order; with a list of inputs, a list of such lists."""
    test_mock: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    """Method name -> stand-in, for the one method of the block that touches the outside."""

    @abstractmethod
    def run(self, input_data: Any, ctx: BlockContext) -> BlockOutput:
        """Do the work: a generator or an async generator of (pin, value).

        `input_data` is an instance of `input_schema`. Raising ends the execution as FAILED and sends the message on the `error` pin; so does yielding on `error`.
        """

    def effects_for(self, input_data: Mapping[str, JsonValue]) -> Effects:  # noqa: ARG002 - for those that override it
        """The effects of a call with this (converted) input; `effects` unless the block decides by its input."""
        return self.effects

    @classmethod
    def upgrade(cls, node: NodeWiring) -> NodeWiring:
        """Turn the wiring of a node saved by an older revision of this block into today's; today's comes back unchanged.

        Also applied (with defaults only) to the input given to a start node and to `POST /blocks/{id}/execute`. Must be pure and idempotent.
        """
        return node

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    def describe(self) -> dict[str, JsonValue]:
        """The block as `GET /blocks` shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "categories": sorted(self.categories),
            "inputSchema": self.input_schema.model_json_schema(),
            "outputSchema": self.output_schema.model_json_schema(),
            "staticOutput": self.static_output,
            "effects": self.effects.value,
        }


def check_block(cls: type[Block]) -> None:
    """Raise `MalformedBlock` naming the first thing about `cls` that does not keep the contract."""
    problem = next(_problems(cls), None)
    if problem is not None:
        raise MalformedBlock(f"Block {cls.__module__}.{cls.__qualname__}: {problem}")


def _problems(cls: type[Block]) -> Iterator[str]:
    for attribute, wanted in _REQUIRED_FACTS.items():
        if getattr(cls, attribute, None) is None:
            yield f"declare `{attribute}` ({wanted})."
    yield from _id_problems(cls.id)
    for attribute in ("input_schema", "output_schema"):
        yield from _schema_problems(attribute, getattr(cls, attribute))
    if not isinstance(cast("Any", cls.effects), Effects):
        yield f"`effects` must be a member of Effects, not {cls.effects!r}."
    if cls.max_parallel < 1:
        yield f"`max_parallel` must be at least 1, not {cls.max_parallel!r}."
    if cls.timeout_s is not None and cls.timeout_s <= 0:
        yield f"`timeout_s` must be a number of seconds above 0, or None for no limit, not {cls.timeout_s!r}."
    if not (inspect.isgeneratorfunction(cls.run) or inspect.isasyncgenfunction(cls.run)):
        yield "`run` must be a generator or an async generator: use `yield pin, value`."
    if list(inspect.signature(cls.run).parameters)[1:] != ["input_data", "ctx"]:
        yield "`run` must take (self, input_data, ctx)."


def _id_problems(block_id: Any) -> Iterator[str]:
    try:
        canonical = str(uuid.UUID(block_id))
    except (ValueError, AttributeError, TypeError):
        yield f"`id` must be a UUID, not {block_id!r}; `python -c 'import uuid; print(uuid.uuid4())'` makes one."
    else:
        if canonical != block_id:
            yield f"`id` must be written in lower case with hyphens: {canonical}."


def _schema_problems(attribute: str, schema: Any) -> Iterator[str]:
    if not (isinstance(schema, type) and issubclass(schema, BlockSchema)):
        yield f"`{attribute}` must be a subclass of BlockSchema, not {schema!r}."
        return
    for pin in schema.pins():
        if parse_pin(pin).is_dynamic:
            yield f"`{attribute}` has a pin {pin!r}; `_$_`, `_#_` and `_@_` are how links name a part of a pin. Rename it."


_REQUIRED_FACTS: Mapping[str, str] = {
    "id": "a UUID that never changes",
    "description": "one sentence for the person who picks the block",
    "input_schema": "a BlockSchema with one field per input pin",
    "output_schema": "a BlockSchema with one field per output pin",
}


@dataclass(frozen=True, slots=True)
class BlockTestCase:
    """One test input of a block with what it must yield, in order."""

    block: Block
    index: int
    input: Mapping[str, Any]
    expected: Sequence[TestExpectation]


def block_test_cases(block: Block) -> list[BlockTestCase]:
    """The block's declared tests; `MalformedBlock` if it has none or they do not pair up."""
    if not hasattr(block, "test_input") or not hasattr(block, "test_output"):
        raise MalformedBlock(
            f"Block {block.name}: declare `test_input` and `test_output`; every block is tested by itself."
        )
    if isinstance(block.test_input, Mapping):
        return [BlockTestCase(block, 0, block.test_input, cast("Sequence[TestExpectation]", block.test_output))]
    outputs = cast("Sequence[Sequence[TestExpectation]]", block.test_output)
    if not block.test_input or len(block.test_input) != len(outputs):
        raise MalformedBlock(
            f"Block {block.name}: {len(block.test_input)} test inputs but {len(outputs)} lists of outputs; give one list per input."
        )
    return [
        BlockTestCase(block, i, given, expected)
        for i, (given, expected) in enumerate(zip(block.test_input, outputs, strict=True))
    ]


def with_test_mock(block: Block) -> Block:
    """A copy of the block whose methods named in `test_mock` are the stand-ins."""
    double = copy.copy(block)
    for method, stand_in in block.test_mock.items():
        if not hasattr(block, method):
            raise MalformedBlock(f"Block {block.name}: `test_mock` names {method!r}, which the block does not have.")
        setattr(double, method, stand_in)
    return double


PinDirection: TypeAlias = Literal["input", "output"]
