"""Cron expressions in plain English, and what about them surprises people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from autogpt_server.execution.cron import CronExpression, CronField
from autogpt_server.execution.timing import Timing
from autogpt_server.execution.zones import periods

_MOST_TIMES = 6
"""Up to so many times of day are listed one by one."""
_MOST_LISTED = 12
"""Up to so many numbers of one field."""
_NOTICE = timedelta(days=400)
"""How far ahead changes of the clocks are pointed out."""

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


def describe(expression: CronExpression) -> str:
    """When an expression is due, as a sentence without its zone: `At 09:00, Monday to Friday.`"""
    parts = [_times(expression), _days(expression), _months(expression.month)]
    sentence = ", ".join(part for part in parts if part)
    return f"{sentence[0].upper()}{sentence[1:]}."


def describe_timing(timing: Timing) -> str:
    """When a schedule is due: `At 09:00, Monday to Friday (Europe/Berlin).`"""
    if timing.cron is not None:
        words = describe(timing.cron).removesuffix(".")
    elif timing.at is not None:
        words = f"Once, at {timing.at.astimezone(timing.zone):%Y-%m-%d %H:%M:%S}"
    else:
        words = "Never"
    limits = [
        f"{word} {moment.astimezone(timing.zone):%Y-%m-%d %H:%M:%S}"
        for word, moment in (("from", timing.starts_at), ("until", timing.ends_at))
        if moment is not None
    ]
    jitter = f" It starts up to {timing.jitter_s:g} s later." if timing.jitter_s > 0 else ""
    return f"{', '.join([words, *limits])} ({timing.zone.key}).{jitter}"


def notes(expression: CronExpression, zone: ZoneInfo, *, after: datetime) -> list[str]:
    """What may not be as meant: steps that do not come out even, days that are alternatives, changes of the clocks in the next year."""
    found = [
        f"{field.text!r} in the {field.kind.name} field starts again with each {above}: it is due at {_listed(field.values)}."
        for field, above, size in (
            (expression.second, "minute", 60),
            (expression.minute, "hour", 60),
            (expression.hour, "day", 24),
        )
        if (step := _star_step(field)) is not None and size % step
    ]
    if expression.days_are_alternatives:
        found.append(
            "Both days of the month and days of the week are given: it is due on days that match either of them, as in Vixie cron."
        )
    elif not expression.day_of_month.is_all and not expression.day_of_week.is_all:
        found.append(
            "One of the two day fields begins with `*`: it is due only on days that match both, as in Vixie cron."
        )
    return found + _clock_changes(expression, zone, after)


# --- times of day ------------------------------------------------------------------------------------------------------


def _times(expression: CronExpression) -> str:
    second, minute, hour = expression.second, expression.minute, expression.hour
    count = len(second.values) * len(minute.values) * len(hour.values)
    if count <= _MOST_TIMES and not hour.is_all:
        texts = [
            f"{h:02}:{m:02}" + (f":{s:02}" if second.values != (0,) else "")
            for h in hour.values
            for m in minute.values
            for s in second.values
        ]
        return f"at {_joined(texts)}"
    if second.values == (0,) and len(minute.values) == 1 and (step := _even_step(hour)):
        past = f"at {_past(minute)} the hour" if minute.values != (0,) else "on the hour"
        return f"every {step} hours, {past}"
    last_minute = max(minute.values)
    return " ".join(part for part in (_within_hour(second, minute, hour), _hours(hour, last_minute)) if part)


def _within_hour(second: CronField, minute: CronField, hour: CronField) -> str:
    if second.values == (0,):
        if every := _every(minute):
            return every
        if minute.values == (0,):
            return "every hour, on the hour" if hour.is_all else "on the hour"
        return f"at {_past(minute)} {'every' if hour.is_all else 'the'} hour"
    seconds = _every(second) or f"at {_noun('second', second.values)} {_listed(second.values)}"
    if minute.is_all:
        return seconds if _every(second) else f"{seconds} of every minute"
    if step := _even_step(minute):
        return f"{seconds} in every {_ordinal(step)} minute"
    return f"{seconds} in {_noun('minute', minute.values)} {_listed(minute.values)}"


def _past(minute: CronField) -> str:
    return f"{_listed(minute.values)} {'minute' if minute.values == (1,) else 'minutes'} past"


def _hours(hour: CronField, last_minute: int) -> str:
    if hour.is_all:
        return ""
    if step := _even_step(hour):
        return f"of every {_ordinal(step)} hour"
    if _is_run(hour.values):
        return f"from {hour.values[0]:02}:00 to {hour.values[-1]:02}:{last_minute:02}"
    return f"in the {_noun('hour', hour.values)} that {'begin' if len(hour.values) > 1 else 'begins'} at {_joined([f'{h:02}:00' for h in hour.values])}"


def _every(field: CronField) -> str | None:
    """`every minute`, `every 5 minutes`; None where that would not be true."""
    if field.is_all:
        return f"every {field.kind.name}"
    step = _even_step(field)
    return f"every {step} {field.kind.name}s" if step else None


# --- days --------------------------------------------------------------------------------------------------------------


def _days(expression: CronExpression) -> str:
    in_month, in_week = expression.day_of_month, expression.day_of_week
    # A field that lists every value and does not begin with a star is an alternative that is always met.
    if in_month.is_all and in_week.is_all:
        is_frequent = expression.hour.is_all or (
            _even_step(expression.hour) and len(expression.hour.values) > _MOST_TIMES
        )
        return "" if is_frequent else "every day"
    if expression.days_are_alternatives:
        if in_month.is_all or in_week.is_all:
            return "every day"
        return f"on {_month_days(in_month)} and also on {_weekdays(in_week)}"
    if in_week.is_all:
        return f"on {_month_days(in_month)}"
    if in_month.is_all:
        named = _weekdays(in_week)
        return named if " to " in named else f"on {named}"
    return f"on {_weekdays(in_week)}, if it is one of {_month_days(in_month)}"


def _weekdays(field: CronField) -> str:
    days = sorted(field.values, key=lambda day: (day - 1) % 7)  # the week begins on Monday
    names = [_WEEKDAYS[day] for day in days]
    if len(days) > 2 and _is_run([(day - 1) % 7 for day in days]):
        return f"{names[0]} to {names[-1]}"
    return _joined(names)


def _month_days(field: CronField) -> str:
    if len(field.values) > 2 and _is_run(field.values):
        return f"the {_ordinal(field.values[0])} to the {_ordinal(field.values[-1])} of the month"
    if len(field.values) > _MOST_LISTED:
        return f"days {_listed(field.values)} of the month"
    return f"the {_joined([_ordinal(day) for day in field.values])} of the month"


def _months(field: CronField) -> str:
    if field.is_all:
        return ""
    names = [_MONTHS[month - 1] for month in field.values]
    if len(names) > 2 and _is_run(field.values):
        return f"from {names[0]} to {names[-1]}"
    return f"in {_joined(names)}"


# --- the changes of the clocks -----------------------------------------------------------------------------------------


def _clock_changes(expression: CronExpression, zone: ZoneInfo, after: datetime) -> list[str]:
    """What a fixed hour makes of local time that is left out, or shown twice, in the next year."""
    if expression.follows_elapsed_time:
        return []
    found: list[str] = []
    for period in periods(zone, after, after + _NOTICE):
        if period.start <= after or period.start > after + _NOTICE:
            continue
        was, becomes = period.local_end_before, period.local_start
        change = f"On {was:%Y-%m-%d} the clocks of {zone.key} go from {was:%H:%M} {'on' if was < becomes else 'back'} to {becomes:%H:%M}"
        if was < becomes and expression.matches_between(was, becomes):
            found.append(f"{change}: what would be due in between is due at {becomes:%H:%M}.")
        elif was > becomes and expression.matches_between(becomes, was):
            found.append(f"{change}: what is due in between is due once, the first time.")
    return found


# --- words -------------------------------------------------------------------------------------------------------------


def _star_step(field: CronField) -> int | None:
    """The step of a field written as `*/n`."""
    star, slash, step = field.text.partition("/")
    return int(step) if star == "*" and slash and step.isdigit() else None


def _even_step(field: CronField) -> int | None:
    """The n of a field that is due at every n-th value from the first to the last and comes out even; not for a single value."""
    first, last = field.kind.low, field.kind.high
    if len(field.values) < 2 or field.values[0] != first:
        return None
    step = field.values[1] - first
    return (
        step
        if step > 1 and field.values == tuple(range(first, last + 1, step)) and (last + 1 - first) % step == 0
        else None
    )


def _is_run(values: Sequence[int]) -> bool:
    """Whether each value is one more than the one before."""
    return all(later - earlier == 1 for earlier, later in pairwise(values))


def _listed(values: Sequence[int]) -> str:
    if len(values) > _MOST_LISTED:
        return f"{', '.join(map(str, values[:4]))}, ..., {values[-1]}"
    return _joined([str(value) for value in values])


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _noun(noun: str, values: Sequence[int]) -> str:
    return noun if len(values) == 1 else f"{noun}s"


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
