"""What can happen in a run: the events that the planner applies, one after the other. Times come with them; the planner reads no clock.

Those that come by the thousand are named tuples, which are made in half the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from autogpt_server.data.run_rows import NewRun
from autogpt_server.data.status import RunStatus
from autogpt_server.execution.state import Failure


class Started(NamedTuple):
    """An attempt begins: the block is about to be called."""

    execution_id: str
    at: datetime


class Yielded(NamedTuple):
    """The running attempt yielded a value. `text` is the value as JSON."""

    execution_id: str
    at: datetime
    pin: str
    value: Any
    text: str


class Ended(NamedTuple):
    """The running attempt is over: it failed, or was stopped, or else did all it had to do."""

    execution_id: str
    at: datetime
    failure: Failure | None = None
    stopped: bool = False
    called: bool = True
    """False for an attempt that was stopped before its block was called."""


@dataclass(frozen=True, slots=True)
class Suspended:
    """The running attempt is over because its block asked to be called again: at a time, on a signal, or when a child run has ended."""

    execution_id: str
    at: datetime
    until: datetime | None = None
    signal: str | None = None
    child: NewRun | None = None
    """The run to wait for; it comes into being with this event (rule D11)."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The running attempt has taken longer than it may (rule D7): it is to be stopped."""

    execution_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Due:
    """Time has passed: what waits for a time up to `at` moves on."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Close:
    """The run shall end early: `status` is CANCELED, or FAILED at a limit."""

    at: datetime
    status: RunStatus
    failure: Failure


@dataclass(frozen=True, slots=True)
class OwnerDied:
    """The run's former owner died; this is the first event of the next one (rule D4)."""

    at: datetime
    is_hopeless: bool = False
    """Owners have died again and again without progress, the last one with nothing but this run: what was running is not tried again."""


class Resolution(StrEnum):
    """What to do about an execution whose outcome is not known (rule D4)."""

    RETRY = "retry"
    """Call the block again."""
    SKIP = "skip"
    """Keep what came, and go on without the rest."""
    FAIL = "fail"
    """Take it for failed."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """Somebody decided about an interrupted execution."""

    execution_id: str
    at: datetime
    resolution: Resolution


@dataclass(frozen=True, slots=True)
class Signaled:
    """A signal has come for an execution. One that does not wait for it yet keeps it until it does."""

    execution_id: str
    at: datetime
    name: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """The child run that an execution waits for has ended."""

    execution_id: str
    at: datetime
    child_run_id: str
    executions: int = 0
    size_bytes: int = 0
    """What it has taken of the limits."""


Event = Started | Yielded | Ended | Suspended | TimedOut | Due | Close | OwnerDied | Resolved | Signaled | ChildEnded
