"""What becomes of due times: each policy by hand, and the promise (each due time once, in order) for any sequence of wake-ups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autogpt_server.data.scheduling import CatchUp, OccurrenceStatus, Overlap
from autogpt_server.execution.cron import parse
from autogpt_server.execution.occurrences import (
    CATCH_UP_LIMIT,
    CHANGED,
    MISSED_AFTER,
    PASS_LIMIT,
    PAUSED,
    WAITING_LIMIT,
    Outcome,
    Situation,
    abandon,
    account,
)
from autogpt_server.execution.timing import Timing

STARTED, SKIPPED, WAITING = OccurrenceStatus.STARTED, OccurrenceStatus.SKIPPED, OccurrenceStatus.WAITING
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def timing(cron: str = "0 * * * *", **changes: object) -> Timing:
    values: dict[str, object] = {"seed": "schedule", "zone": ZoneInfo("UTC"), "cron": parse(cron), **changes}
    return Timing(**values)  # type: ignore[arg-type]


def decide(
    when: Timing, after: datetime, now: datetime, **situation: object
) -> list[tuple[str, OccurrenceStatus, str | None]]:
    """The outcomes of one look, short enough to read in a table."""
    found = account(when, Situation(**situation), after=after, now=now)  # type: ignore[arg-type]
    return [(f"{outcome.due:%H:%M:%S}", outcome.status, outcome.code) for outcome in found.outcomes]


def test_nothing_is_due() -> None:
    found = account(timing(), Situation(), after=NOON, now=NOON + 59 * MINUTE)
    assert (found.outcomes, found.accounted_until, found.next_fire) == ([], NOON, NOON + HOUR)


def test_on_time() -> None:
    found = account(timing(), Situation(), after=NOON, now=NOON + HOUR)
    assert found.outcomes == [Outcome(NOON + HOUR, STARTED)]
    assert (found.accounted_until, found.next_fire) == (NOON + HOUR, NOON + 2 * HOUR)


def test_a_little_late_is_on_time_under_every_policy() -> None:
    every_second = timing("* * * * * *")
    for policy in CatchUp:
        outcomes = decide(every_second, NOON, NOON + timedelta(seconds=3), catch_up=policy, overlap=Overlap.ALLOW)
        assert outcomes == [(f"12:00:0{n}", STARTED, None) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (CatchUp.LATEST, [SKIPPED, SKIPPED, SKIPPED, STARTED]),
        (CatchUp.ALL, [STARTED, STARTED, STARTED, STARTED]),
        (CatchUp.NONE, [SKIPPED, SKIPPED, SKIPPED, SKIPPED]),
    ],
)
def test_after_an_outage(policy: CatchUp, expected: list[OccurrenceStatus]) -> None:
    now = NOON + 4 * HOUR + 20 * MINUTE
    found = account(timing(), Situation(catch_up=policy, overlap=Overlap.ALLOW), after=NOON, now=now)
    assert [outcome.status for outcome in found.outcomes] == expected
    assert found.next_fire == NOON + 5 * HOUR
    missed = [outcome for outcome in found.outcomes if outcome.status is SKIPPED]
    assert all(outcome.code == "missed" and f"catch_up: {policy.value}" in (outcome.reason or "") for outcome in missed)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (CatchUp.LATEST, [SKIPPED, SKIPPED, STARTED]),
        (CatchUp.ALL, [STARTED, STARTED, STARTED]),
        (CatchUp.NONE, [SKIPPED, SKIPPED, STARTED]),
    ],
)
def test_an_outage_that_ends_when_something_is_due(policy: CatchUp, expected: list[OccurrenceStatus]) -> None:
    outcomes = decide(timing(), NOON, NOON + 3 * HOUR, catch_up=policy, overlap=Overlap.ALLOW)
    assert [status for _, status, _ in outcomes] == expected


def test_latest_runs_once_however_often_it_was_due() -> None:
    outcomes = decide(timing("* * * * * *"), NOON, NOON + 10 * MINUTE, overlap=Overlap.ALLOW)
    assert [status for _, status, _ in outcomes] == [SKIPPED] * 599 + [STARTED]


def test_catching_up_has_a_limit() -> None:
    now = NOON + 150 * MINUTE
    outcomes = decide(timing("* * * * *"), NOON, now, catch_up=CatchUp.ALL, overlap=Overlap.ALLOW)
    assert [status for _, status, _ in outcomes] == [SKIPPED] * (150 - CATCH_UP_LIMIT) + [STARTED] * CATCH_UP_LIMIT


def test_overlap() -> None:
    every_second, now = timing("* * * * * *"), NOON + timedelta(seconds=3)
    assert decide(every_second, NOON, now, active_run_id="r") == [
        (f"12:00:0{n}", SKIPPED, "overlap") for n in (1, 2, 3)
    ]
    assert decide(every_second, NOON, now) == [
        ("12:00:01", STARTED, None),
        *((f"12:00:0{n}", SKIPPED, "overlap") for n in (2, 3)),
    ]
    queue = decide(every_second, NOON, now, overlap=Overlap.QUEUE)
    assert queue == [("12:00:01", STARTED, None), *((f"12:00:0{n}", WAITING, "overlap") for n in (2, 3))]
    assert decide(every_second, NOON, NOON + timedelta(seconds=1), overlap=Overlap.QUEUE, waiting=1) == [
        ("12:00:01", WAITING, "overlap")
    ]
    full = decide(every_second, NOON, now, overlap=Overlap.QUEUE, active_run_id="r", waiting=WAITING_LIMIT - 1)
    assert [code for _, _, code in full] == ["overlap", "queue_full", "queue_full"]
    assert [status for _, status, _ in decide(every_second, NOON, now, overlap=Overlap.ALLOW, active_run_id="r")] == [
        STARTED
    ] * 3


def test_reasons_name_what_was_in_the_way() -> None:
    (outcome,) = account(timing(), Situation(active_run_id="run-7"), after=NOON, now=NOON + HOUR).outcomes
    assert outcome.reason == "Skipped: run run-7 of this schedule had not ended (overlap: skip)."


def test_life_begins_and_ends_inclusively() -> None:
    when = timing(starts_at=NOON + 2 * HOUR, ends_at=NOON + 3 * HOUR)
    assert when.next_due_times(after=NOON, count=5) == [NOON + 2 * HOUR, NOON + 3 * HOUR]
    found = account(when, Situation(), after=NOON, now=NOON + 3 * HOUR)
    assert [outcome.due for outcome in found.outcomes] == [NOON + 2 * HOUR, NOON + 3 * HOUR]
    assert found.next_fire is None
    assert account(when, Situation(), after=found.accounted_until, now=NOON + 9 * HOUR).outcomes == []


@pytest.mark.parametrize(
    ("policy", "late"), [(CatchUp.LATEST, STARTED), (CatchUp.ALL, STARTED), (CatchUp.NONE, SKIPPED)]
)
def test_once_at_a_time(policy: CatchUp, late: OccurrenceStatus) -> None:
    when = Timing("schedule", ZoneInfo("UTC"), at=NOON)
    before = account(when, Situation(catch_up=policy), after=NOON - HOUR, now=NOON - MINUTE)
    assert (before.outcomes, before.next_fire) == ([], NOON)
    on_time = account(when, Situation(catch_up=policy), after=NOON - HOUR, now=NOON)
    assert ([outcome.status for outcome in on_time.outcomes], on_time.next_fire) == ([STARTED], None)
    assert [
        outcome.status
        for outcome in account(when, Situation(catch_up=policy), after=NOON - HOUR, now=NOON + HOUR).outcomes
    ] == [late]
    assert account(when, Situation(catch_up=policy), after=NOON, now=NOON + HOUR).outcomes == []


def test_jitter_delays_but_changes_no_order_and_no_due_time() -> None:
    when = timing("*/5 * * * *", jitter_s=3600.0)
    dues = when.next_due_times(after=NOON, count=200)
    fires = [when.fires_at(due) for due in dues]
    assert all(due <= fire < due + 5 * MINUTE for due, fire in zip(dues, fires, strict=True))
    assert len({(fire - due) for due, fire in zip(dues, fires, strict=True)}) > 150
    assert [when.fires_at(due) for due in dues] == fires
    assert timing("*/5 * * * *", jitter_s=3600.0, seed="other").fires_at(dues[0]) != fires[0]
    found = account(when, Situation(), after=NOON, now=fires[0] - timedelta(milliseconds=1))
    assert (found.outcomes, found.next_fire) == ([], fires[0])
    assert [outcome.due for outcome in account(when, Situation(), after=NOON, now=fires[0]).outcomes] == [dues[0]]


def test_a_long_outage_is_accounted_for_in_passes() -> None:
    when, now, after = timing("* * * * * *"), NOON + HOUR, NOON
    outcomes: list[Outcome] = []
    passes = 0
    while True:
        found = account(when, Situation(), after=after, now=now)
        outcomes += found.outcomes
        after, passes = found.accounted_until, passes + 1
        assert len(found.outcomes) <= PASS_LIMIT + 61
        if found.next_fire is None or found.next_fire > now:
            break
    assert [outcome.due for outcome in outcomes] == [NOON + timedelta(seconds=n) for n in range(1, 3601)]
    assert [outcome.status for outcome in outcomes] == [SKIPPED] * 3599 + [STARTED]
    assert passes == 4


def test_the_oldest_of_a_very_long_outage_share_a_row() -> None:
    when, now = timing("* * * * * *"), NOON + timedelta(days=365)
    found = account(when, Situation(), after=NOON, now=now)
    (outcome,) = found.outcomes
    assert (outcome.due, outcome.status, outcome.code) == (NOON + timedelta(seconds=1), SKIPPED, "missed")
    assert "about 31," in (outcome.reason or "")
    assert now - timedelta(seconds=100_001) <= found.accounted_until <= now - timedelta(seconds=99_999)
    following = account(when, Situation(), after=found.accounted_until, now=now)
    assert len(following.outcomes) == PASS_LIMIT


def test_what_a_change_abandons() -> None:
    assert abandon(timing(), after=NOON, now=NOON + MINUTE, code=CHANGED) == []
    found = abandon(timing(), after=NOON, now=NOON + 2 * HOUR, code=PAUSED)
    assert [(outcome.due, outcome.status, outcome.code) for outcome in found] == [
        (NOON + n * HOUR, SKIPPED, PAUSED) for n in (1, 2)
    ]
    assert found[0].reason == "Skipped: the schedule was paused before the scheduler came to it."
    (shared,) = abandon(timing("* * * * * *"), after=NOON, now=NOON + HOUR, code=CHANGED)
    assert shared.due == NOON + timedelta(seconds=1)
    assert "2026-11-22 13:00:00 UTC" in (shared.reason or "")


# -- For any wake-ups, wherever the clock jumps -------------------------------------------------------------------------------------

CRONS = ("*/15 * * * *", "0 * * * *", "30 2 * * *", "15,45 1,2 * * *", "0 0 */2 * 1", "20 */20 * * * *", "0 9 13 * 5")
ZONES = ("UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")


@st.composite
def schedules(draw: st.DrawFn) -> Timing:
    start = draw(st.sampled_from([None, timedelta(hours=5)]))
    end = draw(st.sampled_from([None, timedelta(days=2)]))
    begin = datetime(2026, 10, 31, tzinfo=UTC)
    return Timing(
        seed=str(draw(st.integers(0, 9))),
        zone=ZoneInfo(draw(st.sampled_from(ZONES))),
        cron=parse(draw(st.sampled_from(CRONS))),
        starts_at=None if start is None else begin + start,
        ends_at=None if end is None else begin + end,
        jitter_s=draw(st.sampled_from([0.0, 0.0, 45.0, 4000.0])),
    )


WAKE_UPS = st.lists(
    st.one_of(
        st.floats(0.2, 40),
        st.floats(40, 7200),
        st.floats(-4000, -1),
        st.just(3600.0),
        st.just(-3600.0),
        st.just(90_000.0),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.timeout(240)
@given(schedules(), WAKE_UPS, st.sampled_from(CatchUp), st.sampled_from(Overlap), st.data())
@settings(max_examples=50, deadline=None)
def test_each_due_time_is_decided_once_and_in_order(
    when: Timing, wake_ups: Sequence[float], catch_up: CatchUp, overlap: Overlap, data: st.DataObject
) -> None:
    begin = datetime(2026, 10, 31, 3, 14, 15, tzinfo=UTC)
    now = latest = after = begin
    decided: list[Outcome] = []
    active, waiting = False, 0
    for step in wake_ups:
        now += timedelta(seconds=step)
        latest = max(latest, now)
        active = active and data.draw(st.booleans())
        if waiting and not active:
            waiting, active = waiting - 1, True
        for _ in range(200):
            situation = Situation(catch_up, overlap, "run" if active else None, waiting)
            found = account(when, situation, after=after, now=now)
            check_one_look(found.outcomes, situation, when, now)
            decided += found.outcomes
            active = active or any(outcome.status is STARTED for outcome in found.outcomes)
            waiting += sum(outcome.status is WAITING for outcome in found.outcomes)
            assert found.accounted_until >= after
            after = found.accounted_until
            if found.next_fire is None or found.next_fire > now:
                break
        else:
            raise AssertionError("the passes do not come to an end")
    expected = [due for due in when.due_times(after=begin, until=latest) if when.fires_at(due) <= latest]
    assert [outcome.due for outcome in decided] == expected


def check_one_look(outcomes: Sequence[Outcome], situation: Situation, when: Timing, now: datetime) -> None:
    """What has to hold for the outcomes of one look at a schedule, whatever was decided before."""
    started = [outcome for outcome in outcomes if outcome.status is STARTED]
    if situation.overlap is not Overlap.ALLOW:
        assert len(started) <= (0 if situation.active_run_id or situation.waiting else 1)
    assert all((outcome.reason is None) == (outcome.status is STARTED) for outcome in outcomes)
    assert all(when.fires_at(outcome.due) <= now for outcome in outcomes)
    missed = [outcome for outcome in outcomes if outcome.code == "missed"]
    if situation.catch_up is CatchUp.NONE:
        assert all(now - when.fires_at(outcome.due) > MISSED_AFTER for outcome in missed)
        assert all(now - when.fires_at(outcome.due) <= MISSED_AFTER for outcome in outcomes if outcome not in missed)
    if not outcomes or now - when.fires_at(outcomes[0].due) <= MISSED_AFTER:
        assert missed == []
