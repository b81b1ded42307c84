"""What becomes of each due time of a schedule: it gets a run, waits for one, or is skipped for a reason (rule S3). Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from autogpt_server.data.scheduling import CatchUp, OccurrenceStatus, Overlap
from autogpt_server.execution.timing import Timing

MISSED_AFTER = timedelta(seconds=60)
"""An occurrence that is later than this was missed, and `catch_up` decides about it; up to here it is on time, whatever its schedule says."""

CATCH_UP_LIMIT = 100
"""How many missed occurrences `catch_up: all` runs, the latest ones."""

WAITING_LIMIT = 100
"""How many occurrences `overlap: queue` lets wait."""

PASS_LIMIT = 1_000
"""Due times of one schedule that are accounted for in one transaction."""

ROW_LIMIT = 100_000
"""About how many skipped occurrences of one outage are recorded one by one; those before them share a row."""


MISSED, OVERLAP, QUEUE_FULL, CHANGED, PAUSED = "missed", "overlap", "queue_full", "changed", "paused"
"""Codes: why a due time has no run, or none yet. The last two: a user changed the schedule before the scheduler came to it."""
GRAPH_UNAVAILABLE = "graph_unavailable"
"""Code: the graph was deleted."""

_ABANDONED = {CHANGED: "schedule was changed", PAUSED: "schedule was paused", GRAPH_UNAVAILABLE: "graph was deleted"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of one due time."""

    due: datetime
    status: OccurrenceStatus
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision depends on besides the due times themselves."""

    catch_up: CatchUp = CatchUp.LATEST
    overlap: Overlap = Overlap.SKIP
    active_run_id: str | None = None
    """A run of this schedule that has not ended."""
    waiting: int = 0
    """Occurrences that wait for their run."""


@dataclass(slots=True)
class Accounting:
    """The outcomes of the due times up to `accounted_until`, and when to look again."""

    accounted_until: datetime
    next_fire: datetime | None
    outcomes: list[Outcome] = field(default_factory=list[Outcome])


def account(timing: Timing, situation: Situation, *, after: datetime, now: datetime) -> Accounting:
    """Decide about the due times in (after, now] that shall have fired by now, in their order.

    If there are very many, only about the first ones: `next_fire` is then not later than `now`, and the next call goes on from
    `accounted_until`. Nothing is decided twice as long as calls go on from there, wherever the clock jumps.
    """
    pending, following = _take_pass(timing, after, now)
    if not pending:
        return Accounting(after, following and timing.fires_at(following))
    first_to_run = _first_to_run(timing, situation.catch_up, pending[0], now)
    missed = [due for due in pending if first_to_run is None or due < first_to_run]
    summary = _summarize(missed, first_to_run or now) if len(missed) == len(pending) else None
    if summary is not None:
        accounted_until, outcome = summary
        return Accounting(accounted_until, timing.next_fire(after=accounted_until), [outcome])
    outcomes = [_missed(due, situation.catch_up, now) for due in missed]
    outcomes.extend(_start(pending[len(missed) :], situation))
    return Accounting(pending[-1], following and timing.fires_at(following), outcomes)


def abandon(timing: Timing, *, after: datetime, now: datetime, code: str) -> list[Outcome]:
    """The due times in (after, now] as skipped: before the scheduler came to them, a user did what `code` says.

    It is CHANGED or PAUSED (the schedule) or GRAPH_UNAVAILABLE (it was deleted).
    They share one row beyond `PASS_LIMIT`, because the change must not wait for them.
    """
    reason = f"Skipped: the {_ABANDONED[code]} before the scheduler came to it."
    dues = list(islice(timing.due_times(after=after, until=now), PASS_LIMIT + 1))
    if len(dues) > PASS_LIMIT:
        reason += f" The same holds for all later due times until {_text(now)}."
        return [Outcome(dues[0], OccurrenceStatus.SKIPPED, code, reason)]
    return [Outcome(due, OccurrenceStatus.SKIPPED, code, reason) for due in dues]


def _take_pass(timing: Timing, after: datetime, now: datetime) -> tuple[list[datetime], datetime | None]:
    """The first due times after `after` that have fired by now, and the due time that follows them.

    All of them if those beyond the limit are recent: what was missed is judged in the same pass as what is on time after it.
    """
    taken: list[datetime] = []
    for due in timing.due_times(after=after):
        if due > now or (len(taken) >= PASS_LIMIT and now - due > MISSED_AFTER):
            following = due
            break
        taken.append(due)
    else:
        following = None
    if taken and timing.fires_at(taken[-1]) > now:  # jitter holds back the latest at most
        following = taken.pop()
    return taken, following


def _first_to_run(timing: Timing, catch_up: CatchUp, oldest: datetime, now: datetime) -> datetime | None:
    """The due time from which on occurrences are started; None if there is none.

    As long as nothing was missed that is the oldest. After an outage the policy decides, also about what is on time: `latest` means one run.
    """
    if now - timing.fires_at(oldest) <= MISSED_AFTER:
        return oldest
    latest_first = timing.latest_due_times(after=oldest - timedelta(microseconds=1), until=now)
    fired = (due for due in latest_first if timing.fires_at(due) <= now)
    match catch_up:
        case CatchUp.LATEST:
            chosen = list(islice(fired, 1))
        case CatchUp.ALL:
            chosen = list(islice(fired, CATCH_UP_LIMIT))
        case CatchUp.NONE:
            chosen = list(_while_on_time(timing, fired, now))
    return chosen[-1] if chosen else None


def _while_on_time(timing: Timing, latest_first: Iterator[datetime], now: datetime) -> Iterator[datetime]:
    for due in latest_first:
        if now - timing.fires_at(due) > MISSED_AFTER:
            return
        yield due


def _summarize(missed: list[datetime], until: datetime) -> tuple[datetime, Outcome] | None:
    """One outcome for the oldest due times of a very long outage: (accounted until, outcome); None if all of them can have a row each."""
    if len(missed) < PASS_LIMIT:
        return None
    mean_gap = (missed[-1] - missed[0]) / (len(missed) - 1)
    end = until - ROW_LIMIT * mean_gap
    if end <= missed[-1]:
        return None
    count = round((end - missed[0]) / mean_gap)
    reason = (
        f"Missed, with all later due times until {_text(end)} (about {count:,} in all): the scheduler was not running."
    )
    return end, Outcome(missed[0], OccurrenceStatus.SKIPPED, MISSED, reason)


def _missed(due: datetime, catch_up: CatchUp, now: datetime) -> Outcome:
    words = {
        CatchUp.LATEST: "a later one took its place (catch_up: latest)",
        CatchUp.ALL: f"only the latest {CATCH_UP_LIMIT} are made up for (catch_up: all)",
        CatchUp.NONE: "missed ones are not made up for (catch_up: none)",
    }
    late = timedelta(seconds=round((now - due).total_seconds()))
    return Outcome(
        due, OccurrenceStatus.SKIPPED, MISSED, f"Missed: the scheduler came to it {late} late, and {words[catch_up]}."
    )


def _start(dues: list[datetime], situation: Situation) -> Iterator[Outcome]:
    """The outcomes of due times that shall run, one after the other."""
    active = f"run {situation.active_run_id}" if situation.active_run_id is not None else None
    waiting = situation.waiting
    for due in dues:
        if situation.overlap is Overlap.ALLOW or (active is None and waiting == 0):
            yield Outcome(due, OccurrenceStatus.STARTED)
        elif situation.overlap is Overlap.SKIP:
            blocker = active or "an occurrence that waits"
            yield Outcome(
                due,
                OccurrenceStatus.SKIPPED,
                OVERLAP,
                f"Skipped: {blocker} of this schedule had not ended (overlap: skip).",
            )
            continue
        elif waiting < WAITING_LIMIT:
            waiting += 1
            yield Outcome(
                due, OccurrenceStatus.WAITING, OVERLAP, "Waits until the runs before it have ended (overlap: queue)."
            )
        else:
            yield Outcome(
                due,
                OccurrenceStatus.SKIPPED,
                QUEUE_FULL,
                f"Skipped: {WAITING_LIMIT} occurrences of this schedule wait already.",
            )
        active = active or f"the run due at {_text(due)}"


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
