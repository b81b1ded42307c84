"""Cron expressions against an oracle that knows nothing of the code under test: it enumerates minutes and asks each whether it matches."""

from __future__ import annotations

import itertools
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autogpt_server.execution.cron import FIELDS, InvalidCron, parse
from autogpt_server.execution.zones import periods

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


class Oracle:
    """Vixie cron by the book: bit sets, one question ("does this local time match?"), and enumeration."""

    def __init__(self, text: str) -> None:
        words = text.split()
        if len(words) == 5:
            words.insert(0, "0")
        self.sets = [self.members(word, low, high) for word, (low, high) in zip(words, BOUNDS, strict=True)]
        if 7 in self.sets[5]:
            self.sets[5].add(0)
        self.star_days = words[3][0] == "*" or words[5][0] == "*"
        self.star_hour = words[2][0] == "*"

    @staticmethod
    def members(word: str, low: int, high: int) -> set[int]:
        found: set[int] = set()
        for part in word.split(","):
            span, _, step = part.partition("/")
            first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
            found |= {n for n in range(int(first), int(last or first) + 1) if (n - int(first)) % int(step or 1) == 0}
        return found

    def matches(self, t: datetime) -> bool:
        second, minute, hour, day, month, weekday = self.sets
        if t.second not in second or t.minute not in minute or t.hour not in hour or t.month not in month:
            return False
        by_day, by_weekday = t.day in day, t.isoweekday() % 7 in weekday
        return (by_day and by_weekday) if self.star_days else (by_day or by_weekday)

    def due(self, zone: ZoneInfo, after: datetime, until: datetime, step: timedelta = MINUTE) -> list[datetime]:
        """All instants in (after, until], for expressions that are due at whole steps only."""
        if self.star_hour:
            return [t for t in instants(after + step, until, step) if self.matches(local(t, zone))]
        found: set[datetime] = set()
        # Generous on both sides: by as much as the clocks were put on or back in between, times outside may be moved into the window.
        moved = abs(local(until, zone) - local(after, zone) - (until - after)) + step
        for naive in instants(local(after, zone) - moved, local(until, zone) + moved, step):
            if self.matches(naive):
                found.add(first_shown(naive, zone, step))
        return sorted(t for t in found if after < t <= until)


def instants(first: datetime, last: datetime, step: timedelta) -> Iterator[datetime]:
    while first <= last:
        yield first
        first += step


def local(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def first_shown(naive: datetime, zone: ZoneInfo, step: timedelta) -> datetime:
    """The first instant at which the clocks show `naive`, or, if they never do, the first at which they show a later time."""
    instant = naive.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if local(instant, zone) == naive:
        return instant
    instant = naive.replace(tzinfo=zone, fold=1).astimezone(UTC)
    while local(instant, zone) < naive:
        instant += step
    return instant


def due(text: str, zone: ZoneInfo, after: datetime, until: datetime) -> list[datetime]:
    """What the code under test says, which has to say the same in both directions."""
    expression = parse(text)
    found = list(expression.due_times(zone, after=after, until=until))
    assert list(expression.latest_due_times(zone, after=after, until=until)) == found[::-1]
    return found


# -- Against the oracle -------------------------------------------------------------------------------------------------------------

EXPRESSIONS = (
    "30 2 * * *",
    "0 0 * * *",
    "*/7 0-4 * * *",
    "15,45 1,2,3 * * *",
    "0 * * * *",
    "*/20 */2 * * *",
    "59 */3 * * *",
    "0 */13 * * *",
    "1 0 * * *",
    "0 12 */2 * 1-5",
    "5 4 13 * 5",
)


def distinct_transitions() -> list[tuple[str, datetime]]:
    """One (zone, instant) for each way in which clocks change somewhere, from ten years ago to ten years ahead."""
    found: dict[tuple[object, ...], tuple[str, datetime]] = {}
    for name in sorted(
        place for place in zoneinfo.available_timezones() if "/" in place and not place.startswith("Etc/")
    ):
        for period in periods(ZoneInfo(name), datetime(2016, 11, 1, tzinfo=UTC), datetime(2036, 11, 1, tzinfo=UTC)):
            if period.offset != period.offset_before:
                key = (period.offset_before, period.offset, period.local_end_before.time())
                found.setdefault(key, (name, period.start))
    return [("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)), *found.values()]


@pytest.mark.timeout(240)
def test_every_kind_of_transition_agrees_with_enumeration() -> None:
    transitions = distinct_transitions()
    assert len(transitions) > 50
    for name, at in transitions:
        zone = ZoneInfo(name)
        after, until = at - timedelta(hours=3), at + timedelta(hours=4)
        for text in EXPRESSIONS:
            assert due(text, zone, after, until) == Oracle(text).due(zone, after, until), (name, at, text)


@st.composite
def field_texts(draw: st.DrawFn, low: int, high: int) -> str:
    def part() -> str:
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = draw(st.integers(1, min(7, high - low)))
        return draw(st.sampled_from(["*", f"*/{step}", str(first), f"{first}-{last}", f"{first}-{last}/{step}"]))

    return ",".join(part() for _ in range(draw(st.integers(1, 3))))


def expressions(*, with_seconds: bool = False) -> st.SearchStrategy[str]:
    fields = [field_texts(low, high) for low, high in BOUNDS]
    return st.tuples(*(fields if with_seconds else fields[1:])).map(" ".join)


ZONES = st.sampled_from(
    [
        "UTC",
        "America/New_York",
        "America/St_Johns",
        "Europe/London",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "America/Sao_Paulo",
        "Atlantic/Azores",
    ]
).map(ZoneInfo)
INSTANTS = st.datetimes(datetime(2016, 1, 1), datetime(2036, 1, 1)).map(lambda t: t.replace(microsecond=0, tzinfo=UTC))


@st.composite
def windows(draw: st.DrawFn, length: timedelta) -> tuple[ZoneInfo, datetime, datetime]:
    """A zone and a stretch of time, as often as not around a change of its clocks."""
    zone, after = draw(ZONES), draw(INSTANTS)
    if draw(st.booleans()):
        change = next(
            (
                period.start
                for period in periods(zone, after)
                if period.start > after and period.offset != period.offset_before
            ),
            after,
        )
        after = change - timedelta(seconds=draw(st.integers(0, round(length.total_seconds()))))
    return zone, after, after + length


@given(expressions(), windows(timedelta(hours=9)))
@example("0 0 1 1 *", (ZoneInfo("UTC"), datetime(2026, 12, 31, 20, tzinfo=UTC), datetime(2027, 1, 1, 5, tzinfo=UTC)))
@settings(max_examples=100, deadline=None)
def test_minutes_agree_with_enumeration(text: str, window: tuple[ZoneInfo, datetime, datetime]) -> None:
    zone, after, until = window
    after = after.replace(second=0)
    oracle = Oracle(text)
    try:
        found = due(text, zone, after, until)
    except InvalidCron:  # days that never come: see test_days_agree_with_enumeration
        return
    assert found == oracle.due(zone, after, until)


@given(expressions(with_seconds=True), windows(timedelta(minutes=12)))
@settings(max_examples=60, deadline=None)
def test_seconds_agree_with_enumeration(text: str, window: tuple[ZoneInfo, datetime, datetime]) -> None:
    zone, after, until = window
    oracle = Oracle(text)
    if not oracle.star_hour:
        text = " ".join(
            [*text.split()[:2], "*", *text.split()[3:]]
        )  # the oracle would enumerate a day of seconds otherwise
        oracle = Oracle(text)
    try:
        found = due(text, zone, after, until)
    except InvalidCron:
        return
    assert found == oracle.due(zone, after, until, SECOND)


@given(field_texts(1, 31), field_texts(1, 12), field_texts(0, 7), st.integers(2016, 2030))
@settings(max_examples=40, deadline=None)
def test_days_agree_with_enumeration(day: str, month: str, weekday: str, year: int) -> None:
    text = f"0 0 {day} {month} {weekday}"  # may be for leap years only
    oracle = Oracle(text)
    after, until = datetime(year, 1, 20, 12, tzinfo=UTC), datetime(year + 1, 3, 5, tzinfo=UTC)
    expected = [
        t for t in instants(after.replace(hour=0) + timedelta(days=1), until, timedelta(days=1)) if oracle.matches(t)
    ]
    try:
        assert due(text, ZoneInfo("UTC"), after, until) == expected
    except InvalidCron:
        assert expected == []


# -- By hand ------------------------------------------------------------------------------------------------------------------------


def locals_of(text: str, zone_name: str, after: str, count: int) -> list[str]:
    """The next due times with their offsets, as a person would write them."""
    zone = ZoneInfo(zone_name)
    start = datetime.fromisoformat(after)
    start = start.replace(tzinfo=zone) if start.tzinfo is None else start
    found = itertools.islice(parse(text).due_times(zone, after=start.astimezone(UTC)), count)
    return [t.astimezone(zone).isoformat(timespec="minutes") for t in found]


@pytest.mark.parametrize(
    ("text", "zone", "after", "expected"),
    [
        # Spring forward in New York: 02:00 -> 03:00.
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00", ["2026-03-08T03:00-04:00", "2026-03-09T02:30-04:00"]),
        ("0,30 2 * * *", "America/New_York", "2026-03-07T12:00", ["2026-03-08T03:00-04:00", "2026-03-09T02:00-04:00"]),
        ("30 * * * *", "America/New_York", "2026-03-08T01:00", ["2026-03-08T01:30-05:00", "2026-03-08T03:30-04:00"]),
        ("0 */2 * * *", "America/New_York", "2026-03-07T23:00", ["2026-03-08T00:00-05:00", "2026-03-08T04:00-04:00"]),
        ("0 3 * * *", "America/New_York", "2026-03-07T12:00", ["2026-03-08T03:00-04:00", "2026-03-09T03:00-04:00"]),
        # Fall back: 02:00 -> 01:00.
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00", ["2026-11-01T01:30-04:00", "2026-11-02T01:30-05:00"]),
        ("30 * * * *", "America/New_York", "2026-11-01T00:45", ["2026-11-01T01:30-04:00", "2026-11-01T01:30-05:00", "2026-11-01T02:30-05:00"]),
        ("0 */1 * * *", "America/New_York", "2026-11-01T00:30", ["2026-11-01T01:00-04:00", "2026-11-01T01:00-05:00", "2026-11-01T02:00-05:00"]),
        ("30 0-23 * * *", "America/New_York", "2026-11-01T00:45", ["2026-11-01T01:30-04:00", "2026-11-01T02:30-05:00"]),
        # In the second pass a fixed hour is not due again.
        ("45 1 * * *", "America/New_York", "2026-11-01T01:10-05:00", ["2026-11-02T01:45-05:00"]),
        # Half an hour in Lord Howe, both ways.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"]),
        # A day that Samoa left out.
        ("0 9 * * *", "Pacific/Apia", "2011-12-29T00:00", ["2011-12-29T09:00-10:00", "2011-12-31T00:00+14:00", "2011-12-31T09:00+14:00"]),
        ("0 * * * *", "Pacific/Apia", "2011-12-29T22:30", ["2011-12-29T23:00-10:00", "2011-12-31T00:00+14:00", "2011-12-31T01:00+14:00"]),
        # Either of two restricted day fields; both where one begins with a star.
        ("0 0 13 * 5", "UTC", "2026-11-10T00:00", ["2026-11-13T00:00+00:00", "2026-11-20T00:00+00:00", "2026-11-27T00:00+00:00", "2026-12-04T00:00+00:00", "2026-12-11T00:00+00:00", "2026-12-13T00:00+00:00"]),
        ("0 0 */2 * 1", "UTC", "2026-11-01T00:00", ["2026-11-09T00:00+00:00", "2026-11-23T00:00+00:00"]),
        ("0 0 29 2 *", "Asia/Kolkata", "2026-01-01T00:00", ["2028-02-29T00:00+05:30", "2032-02-29T00:00+05:30"]),
        ("0 0 29 2 *", "UTC", "2096-03-01T00:00", ["2104-02-29T00:00+00:00"]),
        ("0 0 * * 7", "UTC", "2026-11-22T00:00", ["2026-11-29T00:00+00:00"]),
        ("0 0 * * 5-7", "UTC", "2026-11-22T00:00", ["2026-11-27T00:00+00:00", "2026-11-28T00:00+00:00", "2026-11-29T00:00+00:00"]),
        ("5-5 * * * *", "UTC", "2026-11-22T00:00", ["2026-11-22T00:05+00:00", "2026-11-22T01:05+00:00"]),
        ("0 0 * JAN-mar/2 Mon", "UTC", "2026-11-22T00:00", ["2027-01-04T00:00+00:00"]),
        ("@weekly", "UTC", "2026-11-21T00:00", ["2026-11-22T00:00+00:00"]),
    ],
)  # fmt: skip
def test_due_times_by_hand(text: str, zone: str, after: str, expected: list[str]) -> None:
    assert locals_of(text, zone, after, len(expected)) == expected


def test_six_fields_have_seconds_first() -> None:
    start = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
    found = itertools.islice(parse("*/20 5 10 * * *").due_times(ZoneInfo("UTC"), after=start), 4)
    assert [f"{t:%d %H:%M:%S}" for t in found] == ["22 10:05:00", "22 10:05:20", "22 10:05:40", "23 10:05:00"]


def test_a_time_is_due_after_and_not_at_the_instant_asked_about() -> None:
    expression, zone = parse("0 12 * * *"), ZoneInfo("UTC")
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert expression.next_due(zone, after=noon - timedelta(microseconds=1)) == noon
    assert expression.next_due(zone, after=noon) == noon + timedelta(days=1)
    assert expression.next_due(zone, after=noon + timedelta(microseconds=1)) == noon + timedelta(days=1)
    assert list(expression.latest_due_times(zone, after=noon, until=noon + timedelta(hours=1))) == []
    assert list(expression.latest_due_times(zone, after=noon - SECOND, until=noon)) == [noon]


def test_nothing_is_due_beyond_the_horizon() -> None:
    assert parse("* * * * *").next_due(ZoneInfo("Europe/Berlin"), after=datetime(2200, 1, 1, tzinfo=UTC)) is None
    assert parse("0 0 29 2 *").next_due(ZoneInfo("Europe/Berlin"), after=datetime(2199, 1, 1, tzinfo=UTC)) is None


# -- Refusals -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("", None, "0 fields"),
        ("* * * *", None, "4 fields"),
        ("0 0 * * * * 2026", None, "7 fields"),
        ("60 * * * *", "minute", "60 is not between 0 and 59"),
        ("* 24 * * *", "hour", "24 is not between 0 and 23"),
        ("* * 0 * *", "day of month", "0 is not between 1 and 31"),
        ("* * * 13 *", "month", "13 is not between 1 and 12"),
        ("* * * * 8", "day of week", "8 is not between 0 and 7"),
        ("60 * * * * *", "second", "60 is not between 0 and 59"),
        ("5-1 * * * *", "minute", "write 5-59,0-1"),
        ("* 22-2 * * *", "hour", "write 22-23,0-2"),
        ("50-10 * * * *", "minute", "write 50-59,0-10"),
        ("* * * nov-feb *", "month", "write 11-12,1-2"),
        ("* * * * fri-sun", "day of week", "write 5-7"),
        ("* * * * fri-mon", "day of week", "write 5-6,0-1"),
        ("5/15 * * * *", "minute", "write 5-59/15 or */15"),
        ("*/0 * * * *", "minute", "must be a number from 1 to 60"),
        ("*/90 * * * *", "minute", "longer interval cannot be written"),
        ("*/x * * * *", "minute", "must be a number"),
        ("*/ * * * *", "minute", "must be a number"),
        ("/5 * * * *", "minute", "missing before `/`"),
        ("1,,2 * * * *", "minute", "before or after a comma"),
        ("1, * * * *", "minute", "before or after a comma"),
        ("-5 * * * *", "minute", "'' is no number"),
        ("** * * * *", "minute", "'**' is no number"),
        ("1.5 * * * *", "minute", "'1.5' is no number"),
        ("٣ * * * *", "minute", "is no number"),
        ("0\u00a09 * * * *", "minute", "is no number"),
        ("0 9 *\n* *", None, "4 fields"),
        ("* * * january *", "month", "'january' is no number or name"),
        ("mon * * * *", "minute", "'mon' is no number"),
        ("0 0 ? * *", "day of month", "Quartz"),
        ("0 0 * * ?", "day of week", "Quartz"),
        ("0 0 L * *", "day of month", "not part of cron"),
        ("0 0 L-3 * *", "day of month", "not part of cron"),
        ("0 0 * * 5L", "day of week", "not part of cron"),
        ("0 0 * * friL", "day of week", "not part of cron"),
        ("0 0 15W * *", "day of month", "not part of cron"),
        ("0 0 * * 2#3", "day of week", "not part of cron"),
        ("H H * * *", "minute", "jitter_s"),
        ("H(0-9)/2 * * * *", "minute", "jitter_s"),
        ("R * * * *", "minute", "jitter_s"),
        ("0~30 * * * *", "minute", "jitter_s"),
        ("0 0 31 2 *", "day of month", "never due"),
        ("0 0 31 4,6,9,11 *", "day of month", "never due"),
        ("0 0 30 2 */2", "day of month", "never due"),
        ("@reboot", None, "the names are @yearly"),
        ("@every 5m", None, "*/5 * * * *"),
        ("TZ=UTC 0 0 * * *", None, "`timezone`"),
        ("CRON_TZ=UTC 0 0 * * *", None, "`timezone`"),
        ("* " * 300, None, "at most 500"),
        ("9" * 400 + " * * * *", "minute", "is no number"),
    ],
)
def test_refusals_name_the_field_and_what_would_be_right(text: str, field: str | None, words: str) -> None:
    with pytest.raises(InvalidCron) as caught:
        parse(text)
    assert caught.value.field == field
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("@hourly", "0 * * * *"),
        ("@Daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * sun"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 jan *"),
        ("@annually", "0 0 1 1 *"),
        ("  0\t9  * * 1-5 \n", "0 9 * * MON-FRI"),
        ("0 9 * * *", "0 0 9 * * *"),
        ("*/60 * * * *", "0 * * * *"),
        ("0 */24 * * *", "0 0 * * *"),
    ],
)
def test_spellings_of_one_schedule(text: str, same_as: str) -> None:
    zone, after = ZoneInfo("Europe/Berlin"), datetime(2026, 3, 27, tzinfo=UTC)
    until = after + timedelta(days=20)
    assert due(text, zone, after, until) == due(same_as, zone, after, until)


@given(st.text(alphabet="0123456789*/-,?LWH#@ abcmonsun\t", max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        expression = parse(text)
    except InvalidCron:
        return
    after = datetime(2026, 11, 22, tzinfo=UTC)
    following = expression.next_due(ZoneInfo("UTC"), after=after)
    assert following is not None
    assert following > after


def test_expressions_compare_by_their_text() -> None:
    assert parse(" 0 9 * * *") == parse("0 9 * * *")
    assert len({parse("0 9 * * *"), parse("0  9 * * *"), parse("0 10 * * *")}) == 2
    assert [kind.name for kind in FIELDS] == ["second", "minute", "hour", "day of month", "month", "day of week"]
