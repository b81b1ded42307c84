"""Several writes in one transaction, so that they share one trip to the disk; each is as if it were alone.

The first runs in the transaction itself, and if it fails the transaction is undone: nothing else is in it yet. Each further one runs
in a savepoint, so that its failure undoes its part only. How a part ended is told after the COMMIT: it may have read what parts before it
wrote, so until then even its error rests on something that is not durable.
"""

import copy
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from autogpt_server.data.engine.errors import CommitUncertainError, EngineError
from autogpt_server.data.engine.sqlite import (
    begin,
    commit,
    concerns_all,
    in_savepoint,
    in_transaction,
    rollback,
)

Work = Callable[[sqlite3.Connection], Any]
ErrorT = TypeVar("ErrorT", bound=BaseException)

_ENDED: Final = "the function ended the transaction that it was called in"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a part ended: with a value, or with an error."""

    value: Any = None
    error: BaseException | None = None


def perform_together(connection: sqlite3.Connection, timeout_s: float, parts: Iterator[Work]) -> list[Outcome]:
    """Carry ``parts`` out in one transaction: the outcome of each that was taken from the iterator, in order.

    ``parts`` has at least one; the rest is asked for one by one while the transaction is open. None is taken after one that undid the whole.
    If COMMIT finds a deferred constraint violated, which SQLite does not say whose fault it is, each part is called again in a
    transaction of its own.
    """
    taken = [next(parts)]
    try:
        begin(connection, timeout_s)
        outcomes = [Outcome(taken[0](connection))]
        _check_open(connection)
    except BaseException as error:  # noqa: BLE001 - it is the outcome
        rollback(connection)
        return [Outcome(error=error)]
    for part in parts:
        taken.append(part)
        try:
            outcomes.append(Outcome(in_savepoint(connection, part)))
            _check_open(connection)
        except BaseException as error:  # noqa: BLE001 - it is the outcome
            outcomes[len(taken) - 1 :] = [Outcome(error=error)]
            if not connection.in_transaction:
                return _all_undone(outcomes, error)
    try:
        commit(connection)
    except sqlite3.IntegrityError as error:
        if len(taken) == 1:
            return [Outcome(error=error)]
        return [_alone(connection, timeout_s, part) for part in taken]
    except CommitUncertainError as error:
        return [Outcome(error=_like(error)) for _ in taken]
    return outcomes


def _check_open(connection: sqlite3.Connection) -> None:
    if not connection.in_transaction:
        raise EngineError(_ENDED)


def _all_undone(outcomes: list[Outcome], error: BaseException) -> list[Outcome]:
    """The last part took the transaction away from all."""
    rest = len(outcomes) - 1
    if concerns_all(error):  # SQLite rolled back: the disk is full, say
        return [Outcome(error=_like(error)) for _ in range(rest)] + outcomes[rest:]
    # The part itself committed or rolled back, which it must not: nobody knows which of the two.
    uncertain = f"another write in the same transaction ended it ({error}): read back before repeating this one"
    return [Outcome(error=CommitUncertainError(uncertain)) for _ in range(rest)] + outcomes[rest:]


def _alone(connection: sqlite3.Connection, timeout_s: float, part: Work) -> Outcome:
    try:
        return Outcome(in_transaction(connection, timeout_s, part))
    except BaseException as error:  # noqa: BLE001 - it is the outcome
        return Outcome(error=error)


def _like(error: ErrorT) -> ErrorT:
    """An error of its own for each who is told: raising one changes its traceback."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__ or error
    return own
