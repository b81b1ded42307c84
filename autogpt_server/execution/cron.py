"""Cron expressions, as Vixie cron reads them, and the instants at which they are due in a time zone (rule S2). Pure: no clock.

Five fields (minute, hour, day of month, month, day of week), or six with seconds first, or one of Vixie's names such as `@daily`. The grammar is
checked here, because croniter reads several expressions otherwise than cron does (`5-5` is the whole hour, `sun-mon` wraps around, `?`, `L`, `#`,
`W`, `H` have meanings of their own, a sixth field is seconds at the end); croniter then gets plain lists of numbers, and does the arithmetic on local
times without a zone. The changes of a zone's offset are ours, too. `docs/schedules.md` is the description for users.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter

from autogpt_server.execution.zones import HORIZON, Period, periods
from autogpt_server.utils.errors import AutoGPTServerError

MAX_LENGTH = 500
"""Characters in an expression."""

_SECOND = timedelta(seconds=1)
_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class InvalidCron(AutoGPTServerError):
    """This is not a cron expression; write five fields (minute, hour, day of month, month, day of week), or six with seconds first."""

    code = "invalid_cron"

    def __init__(self, message: str, *, field: str | None = None, expected: str | None = None) -> None:
        super().__init__(message, field=field, expected=expected)

    @property
    def field(self) -> str | None:
        """Name of the cron field that is wrong, such as `day of week`; None if it is the whole."""
        return self.details["field"]

    @property
    def expected(self) -> str | None:
        """What would be right."""
        return self.details["expected"]


@dataclass(frozen=True, slots=True)
class FieldKind:
    """One of the six fields: its name, its bounds and the names its numbers have."""

    name: str
    low: int
    high: int
    names: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def expected(self) -> str:
        words = f", names from {next(iter(self.names))} to {list(self.names)[-1]}" if self.names else ""
        return f"numbers from {self.low} to {self.high}{words}, ranges as {self.low}-{self.low + 2}, lists with commas, *, or a step as */2"


_MONTHS = {
    name: number
    for number, name in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1
    )
}
_WEEKDAYS = {name: number for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}

SECOND = FieldKind("second", 0, 59)
MINUTE = FieldKind("minute", 0, 59)
HOUR = FieldKind("hour", 0, 23)
DAY_OF_MONTH = FieldKind("day of month", 1, 31)
MONTH = FieldKind("month", 1, 12, _MONTHS)
DAY_OF_WEEK = FieldKind("day of week", 0, 7, _WEEKDAYS)

FIELDS = (SECOND, MINUTE, HOUR, DAY_OF_MONTH, MONTH, DAY_OF_WEEK)

NICKNAMES: Mapping[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""Names that Vixie cron knows. `@reboot` is refused: a server that restarts by itself has no such event."""

# Said of a field that holds these: expressions of other programs, whose meaning cron does not have or has otherwise.
_FOREIGN: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"\?"),
        "`?` belongs to Quartz, where days of the week count from 1 = Sunday; write `*` and check the day of week (here 0 or 7 = Sunday)",
    ),
    (
        re.compile(r"#"),
        "`#` (the n-th weekday of a month) is not part of cron; run daily in that week, as in day of month 8-14, and check the day in the graph",
    ),
    (
        re.compile(r"^(?:l(?:-\d+)?|\d*l|(?:sun|mon|tue|wed|thu|fri|sat)l|lw)$"),
        "`L` (last day) is not part of cron; use day 1 of the next month, or 28",
    ),
    (re.compile(r"^(?:\d+w|w\d*)$"), "`W` (nearest weekday) is not part of cron; name the days"),
    (
        re.compile(r"^[hr](?:\(|/|$)"),
        "`H` and `R` (a value picked by the server) are not part of cron; name the time and set `jitter_s` to spread the load",
    ),
    (re.compile(r"~"), "`~` (a random value) is not understood; name the time and set `jitter_s` to spread the load"),
)

_NUMBER = re.compile(r"[0-9]{1,6}")
_BLANKS = re.compile(r"[ \t]+")  # cron knows no other white space between fields


@dataclass(frozen=True, slots=True)
class CronField:
    """One field as written and the numbers it stands for; days of the week are 0 (Sunday) to 6."""

    kind: FieldKind
    text: str
    values: tuple[int, ...]

    @property
    def is_star(self) -> bool:
        """Whether it begins with `*`: such a field restricts nothing, or only by a step, and Vixie cron treats it accordingly."""
        return self.text.startswith("*")

    @property
    def is_all(self) -> bool:
        return len(self.values) == (7 if self.kind is DAY_OF_WEEK else self.kind.high - self.kind.low + 1)


class CronExpression:
    """A valid expression. Immutable; equal where the text is; safe to share between threads."""

    __slots__ = ("_arithmetic", "day_of_month", "day_of_week", "hour", "minute", "month", "second", "text")

    def __init__(
        self, text: str, fields: tuple[CronField, CronField, CronField, CronField, CronField, CronField]
    ) -> None:
        self.text = text
        self.second, self.minute, self.hour, self.day_of_month, self.month, self.day_of_week = fields
        self._arithmetic = self._prepare()

    def __repr__(self) -> str:
        return f"CronExpression({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CronExpression) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def days_are_alternatives(self) -> bool:
        """Whether a day of month *or* a day of week is enough: only if neither of the two fields begins with `*` (Vixie's crontab(5))."""
        return not (self.day_of_month.is_star or self.day_of_week.is_star)

    @property
    def follows_elapsed_time(self) -> bool:
        """Whether local time that is shown twice counts twice and time that is left out is left out (rule S2): hour `*` or `*/n`."""
        return self.hour.is_star

    @property
    def is_possible(self) -> bool:
        """Whether it is ever due: day 31 of February never comes."""
        if self.days_are_alternatives:
            return True
        return any(day <= _DAYS_IN_MONTH[month - 1] for month in self.month.values for day in self.day_of_month.values)

    def due_times(self, zone: ZoneInfo, *, after: datetime, until: datetime = HORIZON) -> Iterator[datetime]:
        """The instants in (after, until], ascending, in UTC.

        Rule S2: a fixed hour is due once for each local time, at the first instant after the gap where that time does not exist, and in the
        first of two passes where it is shown twice. An hour of `*` or `*/n` is due whenever the clocks show a matching time.
        """
        until = min(until, HORIZON)
        last: datetime | None = None
        local_times = _LocalTimes(self._arithmetic)
        for period in periods(zone, after, until):
            local = self._first_local(period)
            if after >= period.start:
                local = max(local, period.to_local(after).replace(microsecond=0) + _SECOND)
            while (found := local_times.first_from(local)) is not None and found < period.local_end:
                due = max(period.to_utc(found), period.start)
                if due > until:
                    return
                if due > after and due != last:
                    yield due
                    last = due
                local = max(found + _SECOND, period.local_start)

    def latest_due_times(self, zone: ZoneInfo, *, after: datetime, until: datetime) -> Iterator[datetime]:
        """The instants of `due_times`, the latest first."""
        last: datetime | None = None
        local_times = _LocalTimes(self._arithmetic)
        for period in reversed(list(periods(zone, after, until))):
            first = self._first_local(period)
            end = min(period.local_end, period.to_local(until).replace(microsecond=0) + _SECOND)
            while (found := local_times.last_before(end)) is not None and found >= first:
                due = max(period.to_utc(found), period.start)
                if due <= after:
                    return
                if due <= until and due != last:
                    yield due
                    last = due
                end = found if found >= period.local_start else first

    def next_due(self, zone: ZoneInfo, *, after: datetime) -> datetime | None:
        """The first instant after `after`, in UTC; None if there is none before the horizon."""
        return next(self.due_times(zone, after=after), None)

    def matches_between(self, first: datetime, end: datetime) -> bool:
        """Whether a local time (naive) in [first, end) matches."""
        found = _LocalTimes(self._arithmetic).first_from(first)
        return found is not None and found < end

    def _first_local(self, period: Period) -> datetime:
        """The first local time that belongs to a period: what a gap before it left out included, what was shown before excluded, for fixed hours."""
        return period.local_start if self.follows_elapsed_time else period.local_end_before

    def _prepare(self) -> croniter[datetime]:
        """Croniter over plain lists of numbers, in its own order of fields (seconds last)."""
        fields = (self.minute, self.hour, self.day_of_month, self.month, self.day_of_week, self.second)
        numbers = " ".join(
            "*" if field.is_all and field.is_star else ",".join(map(str, field.values)) for field in fields
        )
        return croniter(numbers, ret_type=datetime, day_or=self.days_are_alternatives)


class _LocalTimes:
    """The local times (naive, whole seconds) that an expression names, searched from either side."""

    __slots__ = ("_arithmetic", "_from", "_known")

    def __init__(self, prototype: croniter[datetime]) -> None:
        self._arithmetic = copy.copy(prototype)  # it holds a position
        self._from: datetime | None = None
        self._known: datetime | None = None

    def first_from(self, local: datetime) -> datetime | None:
        """The first one at or after `local`."""
        if self._from is None or self._known is None or not self._from <= local <= self._known:
            try:
                self._known = self._arithmetic.get_next(datetime, start_time=local - _SECOND)
            except CroniterBadDateError:
                return None
            self._from = local
        return self._known

    def last_before(self, local: datetime) -> datetime | None:
        """The last one before `local`."""
        try:
            return self._arithmetic.get_prev(datetime, start_time=local)
        except CroniterBadDateError:
            return None


@lru_cache(maxsize=4096)
def parse(text: str) -> CronExpression:
    """The expression that `text` is; `InvalidCron`, naming the field and what would be right, if it is none or can never be due."""
    if len(text) > MAX_LENGTH:
        raise InvalidCron(f"The cron expression has {len(text)} characters; at most {MAX_LENGTH} are allowed.")
    words = _BLANKS.split(text.strip()) if text.strip() else []
    shown = " ".join(words)
    if shown.startswith("@"):
        words = _expand_nickname(shown).split()
    elif words and re.match(r"(?:CRON_)?TZ=", words[0]):
        raise InvalidCron(
            f"Leave {words[0]!r} out of the cron expression and set the schedule's `timezone`.", expected="timezone"
        )
    if len(words) == len(FIELDS) - 1:
        words.insert(0, "0")
    if len(words) != len(FIELDS):
        raise InvalidCron(
            f"The cron expression {shown!r} has {len(words)} fields. Write 5: minute, hour, day of month, month, day of week; or 6, with seconds first.",
            expected="minute hour day-of-month month day-of-week",
        )
    second, minute, hour, day, month, weekday = (
        _parse_field(kind, word) for kind, word in zip(FIELDS, words, strict=True)
    )
    expression = CronExpression(shown, (second, minute, hour, day, month, weekday))
    if not expression.is_possible:
        raise InvalidCron(
            f"The cron expression {shown!r} is never due: no month {month.text!r} has a day {day.text!r}.",
            field=DAY_OF_MONTH.name,
            expected="a day that one of the months has",
        )
    return expression


def _expand_nickname(text: str) -> str:
    expanded = NICKNAMES.get(text.lower())
    if expanded is None:
        hint = (
            "; for an interval write a step, such as */5 * * * * for every five minutes"
            if text.lower().startswith("@every")
            else ""
        )
        known = ", ".join(NICKNAMES)
        raise InvalidCron(f"{text!r} is not understood; the names are {known}{hint}.", expected=known)
    return expanded


def _parse_field(kind: FieldKind, text: str) -> CronField:
    lowered = text.lower()
    for part in lowered.split(","):
        for pattern, words in _FOREIGN:
            if pattern.search(part):
                raise _refusal(kind, text, words)
    values: set[int] = set()
    for part in lowered.split(","):
        values.update(_parse_part(kind, part, text))
    if kind is DAY_OF_WEEK:
        values = {value % 7 for value in values}
    return CronField(kind, lowered, tuple(sorted(values)))


def _parse_part(kind: FieldKind, part: str, text: str) -> range:
    """One element of a list: `*`, a number or a range, the latter two kinds with or without a step."""
    base, slash, step_text = part.partition("/")
    if not base:
        raise _refusal(
            kind,
            text,
            "something is missing before or after a comma" if not slash else "something is missing before `/`",
        )
    if base == "*":
        low, high = kind.low, kind.high
    else:
        low_text, dash, high_text = base.partition("-")
        low = _parse_number(kind, low_text, text)
        high = _parse_number(kind, high_text, text) if dash else low
        if slash and not dash:
            raise _refusal(kind, text, f"a step needs a range; write {base}-{kind.high}/{step_text} or */{step_text}")
        if high < low:
            raise _refusal(kind, text, f"the range {base} runs backwards; write {_unwrapped(kind, low, high)}")
    if not slash:
        return range(low, high + 1)
    size = 7 if kind is DAY_OF_WEEK else kind.high - kind.low + 1
    if not _NUMBER.fullmatch(step_text) or not 1 <= int(step_text) <= size:
        beyond = (
            "; a step starts again with each field above, so a longer interval cannot be written this way"
            if _NUMBER.fullmatch(step_text)
            else ""
        )
        raise _refusal(kind, text, f"the step {step_text!r} must be a number from 1 to {size}{beyond}")
    return range(low, high + 1, int(step_text))


def _parse_number(kind: FieldKind, text: str, whole: str) -> int:
    if text in kind.names:
        return kind.names[text]
    if not _NUMBER.fullmatch(text):
        raise _refusal(kind, whole, f"{text!r} is no number{' or name' if kind.names else ''}")
    if not kind.low <= int(text) <= kind.high:
        raise _refusal(kind, whole, f"{text} is not between {kind.low} and {kind.high}")
    return int(text)


def _unwrapped(kind: FieldKind, low: int, high: int) -> str:
    """A range that runs over the end of its field, as cron can read it."""
    if kind is DAY_OF_WEEK and high == 0:
        return f"{low}-7" if low < 6 else "6-7"
    first = f"{low}-{6 if kind is DAY_OF_WEEK else kind.high}" if low < kind.high else f"{low}"
    second = f"{kind.low}-{high}" if high > kind.low else f"{high}"
    return f"{first},{second}"


def _refusal(kind: FieldKind, text: str, problem: str) -> InvalidCron:
    return InvalidCron(f"Cron field {kind.name} {text!r}: {problem}.", field=kind.name, expected=kind.expected)
